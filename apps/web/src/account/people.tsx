import { Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { ReplyOf } from "../api/client";
import type { Member } from "../api/types";
import { useMay, useSession } from "../shell/session";
import { Ago, Badge, Button, Confirm, CopyButton, Dialog, Empty, ErrorNote, Field, IconButton, Input, Loading, More, Page, Section, Select, Table } from "../ui/kit";
import { useCursorList, useWrite } from "./lists";
import { useRoleName } from "./names";

export function PeoplePage() {
  const { t } = useTranslation();
  const session = useSession();
  const roleName = useRoleName();
  const admin = useMay("admin");
  const members = useCursorList("/api/v1/members");
  const invitations = useCursorList("/api/v1/invitations");
  const workspaces = useCursorList("/api/v1/workspaces");
  const write = useWrite<"/api/v1/invitations">(["/api/v1/members", "/api/v1/invitations"]);
  const [inviting, setInviting] = useState(false);
  const [link, setLink] = useState<ReplyOf<"/api/v1/invitations", "post"> | null>(null);
  const [removing, setRemoving] = useState<Member | null>(null);
  const nameOf = (id: string | null) => (id === null ? t("people.wholeOrganisation") : workspaces.rows.find((one) => one.id === id)?.name ?? id);
  const address = link ? `${location.origin}${link.path}` : "";
  const open = invitations.rows.filter((one) => one.used_at === null);
  return (
    <Page title={t("nav.people")} lead={t("people.lead")} actions={<Button kind="primary" onClick={() => { write.reset(); setInviting(true); }}><Plus className="size-4" aria-hidden />{t("people.invite")}</Button>}>
      {write.error && !inviting && !removing && <div className="mb-3"><ErrorNote error={write.error} /></div>}
      {members.isPending ? <Loading /> : members.error ? <ErrorNote error={members.error} retry={() => void members.refetch()} />
        : members.rows.length === 0 ? <Empty title={t("people.none")}>{t("people.noneText")}</Empty> : (
          <Table label={t("nav.people")} rows={members.rows} keyOf={(member) => member.id} columns={[
            { head: t("people.name"), wide: true, cell: (member) => <span className="block min-w-36 truncate" title={member.email}>{member.name || member.email}{member.user === session.user?.id && <span className="text-faint"> · {t("people.you")}</span>}</span> },
            { head: t("signIn.email"), hide: "md", cell: (member) => member.email },
            { head: t("people.where"), hide: "sm", cell: (member) => nameOf(member.workspace) },
            { head: t("keys.role"), cell: (member) => (
              <Select className="w-32" aria-label={t("people.roleOf", { name: member.name || member.email })} value={member.role} disabled={write.isPending}
                onChange={(event) => write.mutate({ method: "PATCH", path: `/api/v1/members/${member.id}`, body: { role: event.target.value } })}>
                {["viewer", "developer", "admin", ...(member.workspace === null ? ["owner"] : [])].map((role) => <option key={role} value={role}>{roleName(role)}</option>)}
              </Select>) },
            { head: t("models.added"), hide: "lg", cell: (member) => <Ago at={member.created_at} /> },
            { head: "", right: true, cell: (member) => (
              <span className="inline-flex">
                {admin && <Button kind="quiet" onClick={() => write.mutate({ method: "POST", path: `/api/v1/members/${member.id}/reset` }, { onSuccess: setLink })}>{t("people.reset")}</Button>}
                <IconButton label={t("people.remove", { name: member.name || member.email })} onClick={() => setRemoving(member)}><Trash2 /></IconButton>
              </span>) },
          ]} />
        )}
      <More list={members} />
      {(open.length > 0 || invitations.hasNextPage) && (
        <Section className="mt-6" title={t("people.invitations")}>
          <Table label={t("people.invitations")} rows={open} keyOf={(one) => one.id} columns={[
            { head: t("signIn.email"), wide: true, cell: (one) => one.email },
            { head: t("keys.role"), cell: (one) => roleName(one.role) },
            { head: t("people.where"), hide: "sm", cell: (one) => nameOf(one.workspace) },
            { head: t("keys.expires"), hide: "sm", cell: (one) => (one.expires_at < Date.now() / 1e3 ? <Badge>{t("keys.expired")}</Badge> : <Ago at={one.expires_at} />) },
            { head: "", right: true, cell: (one) => <IconButton label={t("people.takeBack", { email: one.email })} onClick={() => write.mutate({ method: "DELETE", path: `/api/v1/invitations/${one.id}` })}><Trash2 /></IconButton> },
          ]} />
          <More list={invitations} />
        </Section>
      )}
      <Dialog open={inviting} onClose={() => setInviting(false)} title={t("people.invite")}>
        <form className="space-y-4" onSubmit={(event) => {
          event.preventDefault();
          const form = new FormData(event.currentTarget);
          const workspace = String(form.get("workspace") ?? "");
          write.mutate({ method: "POST", path: "/api/v1/invitations", body: { email: String(form.get("email")).trim(), role: String(form.get("role")), ...(workspace ? { workspace } : {}) } }, { onSuccess: (made) => { setInviting(false); setLink(made); } });
        }}>
          <Field label={t("signIn.email")}>{(id) => <Input id={id} name="email" type="email" required autoFocus />}</Field>
          <Field label={t("people.where")} help={t("people.whereHelp")}>{(id, note) => (
            <Select id={id} aria-describedby={note} name="workspace" defaultValue={session.workspace}>
              {admin && <option value="">{t("people.wholeOrganisation")}</option>}
              {workspaces.rows.filter((one) => one.archived_at === null).map((one) => <option key={one.id} value={one.id}>{one.name}</option>)}
            </Select>)}</Field>
          <Field label={t("keys.role")} help={t("people.roleHelp")}>{(id, note) => <Select id={id} aria-describedby={note} name="role" defaultValue="developer">{["viewer", "developer", "admin", ...(admin ? ["owner"] : [])].map((role) => <option key={role} value={role}>{roleName(role)}</option>)}</Select>}</Field>
          {write.error && <ErrorNote error={write.error} />}
          <div className="flex justify-end gap-2"><Button onClick={() => setInviting(false)}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={write.isPending}>{t("people.makeLink")}</Button></div>
        </form>
      </Dialog>
      <Dialog open={link !== null} onClose={() => setLink(null)} title={t("people.linkTitle")}>
        <p className="mb-3 text-sm text-soft">{t("people.linkText", { email: link?.email ?? "" })}</p>
        <div className="flex items-center gap-2 rounded-md border border-accent bg-accent-soft px-3 py-2"><code data-testid="link" className="min-w-0 grow font-mono text-xs break-all">{address}</code><CopyButton text={address} /></div>
      </Dialog>
      <Confirm open={removing !== null} title={t("people.removeTitle", { name: removing?.name || removing?.email || "" })} text={t("people.removeText")} action={t("people.removeAction")} busy={write.isPending} error={write.error}
        onClose={() => { setRemoving(null); write.reset(); }} onConfirm={() => removing && write.mutate({ method: "DELETE", path: `/api/v1/members/${removing.id}` }, { onSuccess: () => setRemoving(null) })} />
    </Page>
  );
}
