// One's own: another password, and where one is signed in.
import { useMutation } from "@tanstack/react-query";
import { LogOut } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { postJson } from "../api/client";
import { useSession } from "../shell/session";
import { Ago, Badge, Button, Empty, ErrorNote, Field, IconButton, Input, Loading, Page, Section, Table } from "../ui/kit";
import { useCursorList, useWrite } from "./lists";
import { useRoleName } from "./names";

const path = "/api/v1/sessions";

export function ProfilePage() {
  const { t } = useTranslation();
  const session = useSession();
  const roleName = useRoleName();
  if (session.user === null) return <Page title={t("profile.title")}><Empty title={t("profile.noUser")}>{t("profile.noUserText")}</Empty></Page>;
  return (
    <Page title={t("profile.title")} lead={<p>{session.user.name} · {session.user.email} · {roleName(session.role)}</p>}>
      <Password />
      <Sessions />
    </Page>
  );
}

function Password() {
  const { t } = useTranslation();
  const [again, setAgain] = useState<string | null>(null);
  // A wrong old password is 401 too: that is no end of the session.
  const change = useMutation({ mutationFn: (body: { old_password: string; new_password: string }) => postJson("/api/v1/password", body, { quiet: true }) });
  return (
    <Section title={t("profile.password")} note={t("profile.passwordNote")}>
      <form className="grid max-w-2xl grid-cols-1 gap-3 sm:grid-cols-3" onSubmit={(event) => {
        event.preventDefault();
        const form = event.currentTarget;
        const text = (name: string) => String(new FormData(form).get(name) ?? "");
        if (text("new") !== text("again")) return setAgain(t("profile.notTheSame"));
        setAgain(null);
        change.mutate({ old_password: text("old"), new_password: text("new") }, { onSuccess: () => form.reset() });
      }}>
        <Field label={t("profile.old")}>{(id) => <Input id={id} name="old" type="password" autoComplete="current-password" required />}</Field>
        <Field label={t("profile.new")} help={t("setup.passwordHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="new" type="password" autoComplete="new-password" required minLength={10} />}</Field>
        <Field label={t("profile.again")} error={again}>{(id, note) => <Input id={id} aria-describedby={note} aria-invalid={again !== null} name="again" type="password" autoComplete="new-password" required minLength={10} onChange={() => setAgain(null)} />}</Field>
        {change.error && <div className="sm:col-span-3"><ErrorNote error={change.error} /></div>}
        <div className="flex items-center gap-3 sm:col-span-3"><Button kind="primary" type="submit" busy={change.isPending}>{t("profile.changePassword")}</Button>{change.isSuccess && <span role="status" className="text-sm text-good">{t("common.done")}</span>}</div>
      </form>
    </Section>
  );
}

function Sessions() {
  const { t } = useTranslation();
  const list = useCursorList(path, {}, { limit: 0 });
  const write = useWrite([path]);
  return (
    <Section title={t("profile.sessions")}>
      {write.error && <div className="mb-2"><ErrorNote error={write.error} /></div>}
      {list.isPending ? <Loading /> : list.error ? <ErrorNote error={list.error} retry={() => void list.refetch()} /> : (
        <Table label={t("profile.sessions")} rows={list.rows} keyOf={(one) => one.id} columns={[
          { head: t("profile.begun"), wide: true, cell: (one) => <span className="flex items-center gap-2"><Ago at={one.created_at} />{one.current && <Badge tone="accent">{t("profile.thisOne")}</Badge>}</span> },
          { head: t("audit.from"), hide: "sm", cell: (one) => one.address || t("audit.machine") },
          { head: t("keys.expires"), cell: (one) => <Ago at={one.expires_at} /> },
          { head: "", right: true, cell: (one) => !one.current && <IconButton label={t("profile.end")} disabled={write.isPending} onClick={() => write.mutate({ method: "DELETE", path: `${path}/${encodeURIComponent(one.id)}` })}><LogOut /></IconButton> },
        ]} />
      )}
    </Section>
  );
}
