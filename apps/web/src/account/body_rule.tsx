// Whether a workspace keeps what its requests say, for how long, and what is taken out first.
import { useState } from "react";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { at, patchJson } from "../api/client";
import type { Workspace } from "../api/types";
import { grouped } from "../ui/format";
import { Button, ErrorNote, Field, Input, Select, TextArea } from "../ui/kit";

const kinds = ["email", "phone", "card", "iban", "token", "ip"] as const;

export function BodyRuleForm({ workspace, onClose }: { workspace: Workspace; onClose: () => void }) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const write = useMutation({
    mutationFn: (body: object) => patchJson(at("/api/v1/workspaces/{id}", { id: workspace.id }), body),
    onSuccess: () => client.invalidateQueries({ queryKey: ["list", "/api/v1/workspaces"] }),
  });
  const [on, setOn] = useState(workspace.store_bodies);
  const [days, setDays] = useState(String(workspace.retention_days));
  const [responses, setResponses] = useState(workspace.stored_responses);
  const deleted = (write.data?.bodies_deleted ?? 0) + (write.data?.responses_deleted ?? 0);
  if (write.isSuccess) {
    return (
      <div className="space-y-4">
        <p role="status" className="text-sm">{t("common.done")} {deleted > 0 && t("bodies.deleted", { count: deleted, formatted: grouped(deleted) })}</p>
        <div className="flex justify-end"><Button kind="primary" onClick={onClose}>{t("common.close")}</Button></div>
      </div>
    );
  }
  return (
    <form className="space-y-4" onSubmit={(event) => {
      event.preventDefault();
      const form = new FormData(event.currentTarget);
      const patterns = String(form.get("patterns") ?? "").split("\n").map((line) => line.trim()).filter(Boolean);
      write.mutate({ store_bodies: on, retention_days: Number(days), redact: { ...Object.fromEntries(kinds.map((kind) => [kind, form.get(kind) === "on"])), patterns }, stored_responses: responses });
    }}>
      <div className="space-y-2 text-sm text-soft"><p>{t("bodies.text")}</p><p>{t("bodies.notConversations")}</p></div>
      <label className="flex items-start gap-2 text-sm"><input type="checkbox" name="store" className="mt-1 accent-(--accent)" checked={on} onChange={(event) => setOn(event.target.checked)} /><span>{t("bodies.store")}<span className="block text-xs text-faint">{t("bodies.storeHelp")}</span></span></label>
      {/* Not taken away while off: what is set here holds when it is turned on. */}
      <fieldset className="space-y-3 border-l-2 border-line pl-3">
        <legend className="sr-only">{t("bodies.rule")}</legend>
        <Field label={t("bodies.days")} help={t("bodies.daysHelp")}>{(id, note) => <Input id={id} aria-describedby={note} className="w-32" type="number" min={1} max={365} step={1} required value={days} onChange={(event) => setDays(event.target.value)} />}</Field>
        <div>
          <p className="mb-1 text-sm font-medium">{t("bodies.redact")}</p>
          <div className="grid grid-cols-1 gap-1 sm:grid-cols-2">
            {kinds.map((kind) => <label key={kind} className="flex items-center gap-2 text-sm"><input type="checkbox" name={kind} className="accent-(--accent)" defaultChecked={workspace.redact[kind] ?? true} />{t(`bodies.kind_${kind}`)}</label>)}
          </div>
        </div>
        <Field label={t("bodies.patterns")} help={t("bodies.patternsHelp")}>{(id, note) => <TextArea id={id} aria-describedby={note} name="patterns" className="font-mono" rows={3} spellCheck={false} defaultValue={(workspace.redact.patterns ?? []).join("\n")} />}</Field>
      </fieldset>
      <Field label={t("bodies.responses")} help={t("bodies.responsesHelp")}>{(id, note) => <Select id={id} aria-describedby={note} value={responses} onChange={(event) => setResponses(event.target.value as Workspace["stored_responses"])}><option value="as_asked">{t("bodies.responses_as_asked")}</option><option value="never">{t("bodies.responses_never")}</option></Select>}</Field>
      {((workspace.store_bodies && (!on || Number(days) < workspace.retention_days)) || (workspace.stored_responses !== "never" && responses === "never")) && <p role="alert" className="rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">{t("bodies.willDelete")}</p>}
      {write.error && <ErrorNote error={write.error} />}
      <div className="flex justify-end gap-2"><Button onClick={onClose}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={write.isPending}>{t("common.save")}</Button></div>
    </form>
  );
}
