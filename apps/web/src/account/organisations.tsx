// All organisations, for the operator: their share of the pool, and whether they may use it at all.
import { Plus } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Organisation } from "../api/types";
import { significant } from "../ui/format";
import { Ago, Badge, Button, Confirm, Dialog, ErrorNote, Field, Input, Loading, More, Section, Table } from "../ui/kit";
import { useCursorList, useWrite } from "./lists";

const path = "/api/v1/organisations";

export function OrganisationsSection() {
  const { t } = useTranslation();
  const list = useCursorList(path);
  const write = useWrite([path]);
  const [editing, setEditing] = useState<Organisation | "new" | null>(null);
  const [suspending, setSuspending] = useState<Organisation | null>(null);
  const change = (one: Organisation, body: Partial<Organisation>, done?: () => void) => write.mutate({ method: "PATCH", path: `${path}/${one.id}`, body }, { onSuccess: done });
  return (
    <Section title={t("organisations.title")} note={t("organisations.note")} actions={<Button onClick={() => { write.reset(); setEditing("new"); }}><Plus className="size-4" aria-hidden />{t("organisations.create")}</Button>}>
      {write.error && editing === null && suspending === null && <div className="mb-2"><ErrorNote error={write.error} /></div>}
      {list.isPending ? <Loading /> : list.error ? <ErrorNote error={list.error} retry={() => void list.refetch()} /> : (
        <Table label={t("organisations.title")} rows={list.rows} keyOf={(one) => one.id} columns={[
          { head: t("keys.name"), wide: true, cell: (one) => <span className="block min-w-28 truncate font-medium" title={one.name}>{one.name}</span> },
          { head: t("models.state"), cell: (one) => (one.suspended ? <Badge tone="bad">{t("organisations.suspended")}</Badge> : <Badge tone="good">{t("keys.active")}</Badge>) },
          { head: t("policy.weight"), right: true, hide: "sm", cell: (one) => significant(one.weight, 2) },
          { head: t("models.added"), hide: "md", cell: (one) => <Ago at={one.created_at} /> },
          { head: "", right: true, cell: (one) => (
            <span className="inline-flex">
              <Button kind="quiet" onClick={() => { write.reset(); setEditing(one); }}>{t("workspaces.edit")}</Button>
              {one.suspended ? <Button kind="quiet" onClick={() => change(one, { suspended: false })}>{t("organisations.resume")}</Button> : <Button kind="quiet" onClick={() => { write.reset(); setSuspending(one); }}>{t("organisations.suspend")}</Button>}
            </span>) },
        ]} />
      )}
      <More list={list} />
      <Dialog open={editing !== null} onClose={() => setEditing(null)} title={editing === "new" ? t("organisations.create") : t("workspaces.edit")}>
        {editing !== null && (
          <form className="space-y-4" onSubmit={(event) => {
            event.preventDefault();
            const form = new FormData(event.currentTarget);
            const body = { name: String(form.get("name")).trim(), weight: Number(form.get("weight")) };
            if (editing === "new") write.mutate({ method: "POST", path, body }, { onSuccess: () => setEditing(null) });
            else change(editing, body, () => setEditing(null));
          }}>
            <Field label={t("keys.name")}>{(id) => <Input id={id} name="name" required maxLength={200} autoFocus defaultValue={editing === "new" ? "" : editing.name} />}</Field>
            <Field label={t("policy.weight")} help={t("organisations.weightHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="weight" type="number" step="any" min="0.001" max="1000" required defaultValue={editing === "new" ? 1 : editing.weight} />}</Field>
            {write.error && <ErrorNote error={write.error} />}
            <div className="flex justify-end gap-2"><Button onClick={() => setEditing(null)}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={write.isPending}>{t("common.save")}</Button></div>
          </form>
        )}
      </Dialog>
      <Confirm open={suspending !== null} title={t("organisations.suspendTitle", { name: suspending?.name ?? "" })} text={t("organisations.suspendText")} action={t("organisations.suspend")} busy={write.isPending} error={write.error}
        onClose={() => setSuspending(null)} onConfirm={() => suspending && change(suspending, { suspended: true }, () => setSuspending(null))} />
    </Section>
  );
}
