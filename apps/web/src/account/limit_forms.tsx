// Forms of limits and budgets: new ones, and those that are there.
import { useTranslation } from "react-i18next";
import type { Budget, Limit } from "../api/types";
import { useSession } from "../shell/session";
import { Button, ErrorNote, Field, Input, Select } from "../ui/kit";
import { useCursorList } from "./lists";
import type { NamedKind } from "./names";

export const limitNumbers = ["requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests", "context_length", "max_output_tokens"] as const;
type Names = (kind: NamedKind, id: string) => string | undefined;

// "key:key-…" -> what it is called, with what it is.
export function ScopeName({ scope, names }: { scope: string; names: Names }) {
  const { t } = useTranslation();
  const [kind, id] = [scope.slice(0, scope.indexOf(":")), scope.slice(scope.indexOf(":") + 1)];
  const name = kind === "key" || kind === "workspace" ? names(kind, id) : undefined;
  return (
    <span className="block min-w-20 truncate" title={scope}>
      {name ? <>{name}<span className="ml-2 text-xs text-faint">{t(kind === "key" ? "usage.key" : "usage.workspace")}</span></> : kind === "organisation" ? <>{t("people.wholeOrganisation")}<span className="ml-2 font-mono text-xs text-faint">{id}</span></> : <span className="font-mono text-xs">{scope}</span>}
    </span>
  );
}

function ScopeSelect({ id }: { id: string }) {
  const { t } = useTranslation();
  const session = useSession();
  const workspaces = useCursorList("/api/v1/workspaces", {}, { limit: 1000 });
  const keys = useCursorList("/api/v1/keys", {}, { limit: 1000 });
  return (
    <Select id={id} name="scope">
      <option value={`organisation:${session.organisation}`}>{t("people.wholeOrganisation")}</option>
      {workspaces.rows.filter((one) => one.archived_at === null).map((one) => <option key={one.id} value={`workspace:${one.id}`}>{t("usage.workspace")}: {one.name}</option>)}
      {keys.rows.filter((one) => one.revoked_at === null).map((one) => <option key={one.id} value={`key:${one.id}`}>{t("usage.key")}: {one.name}</option>)}
    </Select>
  );
}

// The numbers of a form of limits; an empty field is no limit.
export function limitsOf(form: FormData): Record<string, number> {
  return Object.fromEntries([...limitNumbers, "burst_s" as const].map((name) => [name, String(form.get(name) ?? "").trim()] as const).filter(([, text]) => text !== "").map(([name, text]) => [name, Number(text)]));
}

export function LimitFields({ old }: { old?: Limit | null }) {
  const { t } = useTranslation();
  return (
    <div className="grid grid-cols-2 gap-3">
      {limitNumbers.map((name) => <Field key={name} label={t(`limits.${name}`)}>{(id) => <Input id={id} name={name} type="number" min={0} step={1} placeholder="–" defaultValue={old?.[name] ?? ""} />}</Field>)}
      <div className="col-span-2"><Field label={t("limits.burst")} help={t("limits.burstHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="burst_s" type="number" min={1} max={3600} step={1} placeholder="60" defaultValue={old?.burst_s ?? ""} />}</Field></div>
    </div>
  );
}

interface FormProps<T> { old: T | null; names: Names; busy: boolean; error: unknown; onSave: (body: Record<string, unknown>) => void; onClose: () => void }

function Ends({ busy, error, onClose }: { busy: boolean; error: unknown; onClose: () => void }) {
  const { t } = useTranslation();
  return (
    <>
      {error != null && <ErrorNote error={error} />}
      <div className="flex justify-end gap-2"><Button onClick={onClose}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={busy}>{t("common.save")}</Button></div>
    </>
  );
}

export function LimitForm({ old, names, busy, error, onSave, onClose }: FormProps<Limit>) {
  const { t } = useTranslation();
  return (
    <form className="space-y-4" onSubmit={(event) => {
      event.preventDefault();
      const form = new FormData(event.currentTarget);
      onSave({ scope: old?.scope ?? form.get("scope"), model: old?.model ?? (String(form.get("model") ?? "").trim() || "*"), ...limitsOf(form) });
    }}>
      {old ? <p className="flex min-w-0 gap-2 text-sm"><ScopeName scope={old.scope} names={names} /><span className="text-faint">{old.model === "*" ? t("limits.allModels") : old.model}</span></p> : (
        <>
          <Field label={t("limits.scope")}>{(id) => <ScopeSelect id={id} />}</Field>
          <Field label={t("usage.model")} help={t("limits.modelHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="model" placeholder="*" />}</Field>
        </>
      )}
      <LimitFields old={old} />
      <Ends busy={busy} error={error} onClose={onClose} />
    </form>
  );
}

export function BudgetForm({ old, names, busy, error, onSave, onClose }: FormProps<Budget>) {
  const { t } = useTranslation();
  return (
    <form className="space-y-4" onSubmit={(event) => {
      event.preventDefault();
      const form = new FormData(event.currentTarget);
      const thresholds = [...new Set(String(form.get("thresholds") ?? "").split(/[\s,;%]+/).filter(Boolean).map(Number))].sort((a, b) => a - b);
      onSave({ scope: old?.scope ?? form.get("scope"), period: form.get("period"), amount: String(form.get("amount")).trim(), block: form.get("block") === "on", thresholds });
    }}>
      {old ? <div className="space-y-1 text-sm"><ScopeName scope={old.scope} names={names} /><p className="text-faint">{t("limits.spentSoFar", { spent: old.spent, amount: old.amount })}</p></div>
        : <Field label={t("limits.scope")}>{(id) => <ScopeSelect id={id} />}</Field>}
      <div className="grid grid-cols-2 gap-3">
        <Field label={t("usage.amount")}>{(id) => <Input id={id} name="amount" required inputMode="decimal" pattern="\d+(\.\d{1,9})?" placeholder="100.00" defaultValue={old?.amount ?? ""} />}</Field>
        <Field label={t("limits.period")}>{(id) => <Select id={id} name="period" defaultValue={old?.period ?? "month"}><option value="month">{t("limits.month")}</option><option value="day">{t("limits.day")}</option></Select>}</Field>
      </div>
      <Field label={t("limits.thresholds")} help={t("limits.thresholdsHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="thresholds" inputMode="numeric" pattern="[0-9 ,;%]*" defaultValue={(old?.thresholds ?? [50, 80, 100]).join(", ")} />}</Field>
      <label className="flex items-center gap-2 text-sm"><input type="checkbox" name="block" defaultChecked={old?.block ?? true} className="accent-(--accent)" />{t("limits.block")}</label>
      <Ends busy={busy} error={error} onClose={onClose} />
    </form>
  );
}
