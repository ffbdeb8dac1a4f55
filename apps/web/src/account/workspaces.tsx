import { Archive, FileText, Plus } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Workspace } from "../api/types";
import { chooseWorkspace, useMay, useSession } from "../shell/session";
import { significant } from "../ui/format";
import { Ago, Badge, Button, Confirm, Dialog, Empty, ErrorNote, Field, IconButton, Input, Loading, More, Page, Table } from "../ui/kit";
import { BodyRuleForm } from "./body_rule";
import { useCursorList, useWrite } from "./lists";
import { OrganisationsSection } from "./organisations";

const path = "/api/v1/workspaces";

export function WorkspacesPage() {
  const { t } = useTranslation();
  const session = useSession();
  const admin = useMay("admin");
  const operator = useMay("operator");
  const list = useCursorList(path);
  const write = useWrite([path]);
  const [editing, setEditing] = useState<Workspace | "new" | null>(null);
  const [ruling, setRuling] = useState<Workspace | null>(null);
  const [archiving, setArchiving] = useState<Workspace | null>(null);
  return (
    <Page title={t("nav.workspaces")} lead={t("workspaces.lead")} actions={admin && <Button kind="primary" onClick={() => { write.reset(); setEditing("new"); }}><Plus className="size-4" aria-hidden />{t("workspaces.create")}</Button>}>
      {list.isPending ? <Loading /> : list.error ? <ErrorNote error={list.error} retry={() => void list.refetch()} />
        : list.rows.length === 0 ? <Empty title={t("workspaces.none")} /> : (
          <Table label={t("nav.workspaces")} rows={list.rows} keyOf={(one) => one.id} columns={[
            { head: t("keys.name"), wide: true, cell: (one) => <span className="block min-w-32 truncate font-medium" title={one.name}>{one.name}</span> },
            { head: t("models.state"), cell: (one) => (one.archived_at !== null ? <Badge>{t("workspaces.archived")}</Badge> : one.id === session.workspace ? <Badge tone="accent">{t("workspaces.current")}</Badge> : "") },
            { head: t("policy.weight"), right: true, hide: "sm", cell: (one) => significant(one.weight, 2) },
            { head: t("bodies.title"), hide: "md", cell: (one) => (one.store_bodies ? <Badge tone="warn">{t("bodies.kept", { count: one.retention_days })}</Badge> : <span className="text-faint">{t("bodies.off")}</span>) },
            { head: t("models.added"), hide: "md", cell: (one) => <Ago at={one.created_at} /> },
            { head: "", right: true, cell: (one) => one.archived_at === null && (
              <span className="inline-flex">
                {one.id !== session.workspace && session.session !== null && <Button kind="quiet" onClick={() => chooseWorkspace(one.id)}>{t("workspaces.switch")}</Button>}
                {admin && <Button kind="quiet" onClick={() => { write.reset(); setEditing(one); }}>{t("workspaces.edit")}</Button>}
                {admin && <IconButton label={t("bodies.of", { name: one.name })} onClick={() => setRuling(one)}><FileText /></IconButton>}
                {admin && <IconButton label={t("workspaces.archive", { name: one.name })} onClick={() => setArchiving(one)}><Archive /></IconButton>}
              </span>) },
          ]} />
        )}
      <More list={list} />
      {operator && <div className="mt-6"><OrganisationsSection /></div>}
      <Dialog open={editing !== null} onClose={() => setEditing(null)} title={editing === "new" ? t("workspaces.create") : t("workspaces.edit")}>
        {editing !== null && (
          <form className="space-y-4" onSubmit={(event) => {
            event.preventDefault();
            const form = new FormData(event.currentTarget);
            const body = { name: String(form.get("name")).trim(), weight: Number(form.get("weight")), ...(editing === "new" ? {} : { sharing: form.get("sharing") === "on" }) };
            write.mutate(editing === "new" ? { method: "POST", path, body } : { method: "PATCH", path: `${path}/${editing.id}`, body }, { onSuccess: () => setEditing(null) });
          }}>
            <Field label={t("keys.name")}>{(id) => <Input id={id} name="name" required maxLength={200} autoFocus defaultValue={editing === "new" ? "" : editing.name} />}</Field>
            <Field label={t("policy.weight")} help={t("workspaces.weightHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="weight" type="number" step="any" min="0.001" max="1000" required defaultValue={editing === "new" ? 1 : editing.weight} />}</Field>
            {editing !== "new" && <label className="flex items-start gap-2 text-sm"><input type="checkbox" name="sharing" className="mt-1 accent-(--accent)" defaultChecked={editing.sharing} /><span>{t("share.allow")}<span className="block text-xs text-faint">{t("share.allowHelp")}</span></span></label>}
            {write.error && <ErrorNote error={write.error} />}
            <div className="flex justify-end gap-2"><Button onClick={() => setEditing(null)}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={write.isPending}>{t("common.save")}</Button></div>
          </form>
        )}
      </Dialog>
      <Dialog open={ruling !== null} onClose={() => setRuling(null)} title={t("bodies.of", { name: ruling?.name ?? "" })}>{ruling && <BodyRuleForm key={ruling.id} workspace={ruling} onClose={() => setRuling(null)} />}</Dialog>
      <Confirm open={archiving !== null} title={t("workspaces.archive", { name: archiving?.name ?? "" })} text={t("workspaces.archiveText")} action={t("workspaces.archiveAction")} busy={write.isPending} error={write.error}
        onClose={() => { setArchiving(null); write.reset(); }} onConfirm={() => archiving && write.mutate({ method: "DELETE", path: `${path}/${archiving.id}` }, { onSuccess: () => setArchiving(null) })} />
    </Page>
  );
}
