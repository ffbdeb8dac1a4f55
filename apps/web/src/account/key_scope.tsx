// What a key may do: the fields that say it, and all of it on one key's page.
import { Check } from "lucide-react";
import { useState, type ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { useDeployments, useModels } from "../api/queries";
import type { ApiKey } from "../api/types";
import { formatTime, grouped, significant } from "../ui/format";
import { Ago, Badge, Button, cx, ErrorNote, Field, Input, Loading } from "../ui/kit";
import { limitNumbers, LimitFields, limitsOf } from "./limit_forms";
import { useCursorList, useWrite } from "./lists";
import { useNames, useRoleName } from "./names";

export const listOf = (text: string) => [...new Set(text.split(/[\s,]+/).filter(Boolean))];
const lists = ["models", "endpoints", "networks"] as const;
type ListName = (typeof lists)[number];
const placeholders: Record<ListName, string> = { models: "smollm2:135m, qwen3:*", endpoints: "/v1/*", networks: "10.0.0.0/8" };
const endpoints = ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/messages", "/api/v1/*"];

// Names or patterns, typed or picked.
function PatternField({ name, suggestions, initial }: { name: ListName; suggestions: string[]; initial: string[] }) {
  const { t } = useTranslation();
  const [text, setText] = useState(initial.join(", "));
  const chosen = listOf(text);
  return (
    <Field label={t(`keys.${name}`)} help={t(`keys.${name}Help`)}>
      {(id, note) => (
        <>
          <Input id={id} aria-describedby={note} name={name} placeholder={placeholders[name]} value={text} onChange={(event) => setText(event.target.value)} />
          {suggestions.length > 0 && (
            <div className="flex max-h-24 flex-wrap gap-1 overflow-y-auto py-1">
              {suggestions.map((one) => {
                const on = chosen.includes(one);
                return (
                  <button key={one} type="button" aria-pressed={on} title={one} onClick={() => setText((on ? chosen.filter((other) => other !== one) : [...chosen, one]).join(", "))}
                    className={cx("inline-flex max-w-full items-center gap-1 rounded-full border px-2 py-0.5 text-xs", on ? "border-accent bg-accent-soft text-accent" : "border-line-strong text-soft hover:bg-sunken")}>
                    {on && <Check className="size-3 shrink-0" aria-hidden />}<span className="truncate">{one}</span>
                  </button>
                );
              })}
            </div>
          )}
        </>
      )}
    </Field>
  );
}

export function ScopeFields({ old }: { old?: ApiKey }) {
  const models = useModels();
  const deployments = useDeployments();
  const names = [...new Set([...(deployments.data ?? []).map((one) => one.name ?? ""), ...(models.data ?? []).map((one) => one.id ?? "")])].filter(Boolean).sort();
  return (
    <div className="space-y-3">
      <PatternField name="models" suggestions={names} initial={old?.models ?? []} />
      <PatternField name="endpoints" suggestions={endpoints} initial={old?.endpoints ?? []} />
      <PatternField name="networks" suggestions={[]} initial={old?.networks ?? []} />
    </div>
  );
}
export const scopeOf = (form: FormData): Record<ListName, string[]> => ({ models: listOf(String(form.get("models") ?? "")), endpoints: listOf(String(form.get("endpoints") ?? "")), networks: listOf(String(form.get("networks") ?? "")) });

// The end of that day in UTC; empty: never.
export const expiryOf = (date: string) => (date === "" ? null : Date.parse(`${date}T00:00:00Z`) / 1e3 + 86_399);
const dateOf = (unixS: number | null) => (unixS === null ? "" : new Date(unixS * 1e3).toISOString().slice(0, 10));

export function KeyDetails({ shown, admin, active }: { shown: ApiKey; admin: boolean; active: boolean }) {
  const { t } = useTranslation();
  const names = useNames();
  const roleName = useRoleName();
  const write = useWrite(["/api/v1/keys"]);
  const [key, setKey] = useState(shown);
  const [editing, setEditing] = useState(false);
  const facts: [string, ReactNode][] = [
    [t("keys.prefix"), <span key="p" className="font-mono text-xs">{key.prefix}…</span>], [t("keys.id"), <span key="i" className="font-mono text-xs">{key.id}</span>],
    [t("keys.kind"), t(key.service ? "keys.service" : "keys.personal")], [t("keys.role"), roleName(key.role)], [t("usage.workspace"), names("workspace", key.workspace) ?? key.workspace], [t("usage.member"), key.user === null ? "–" : names("member", key.user) ?? key.user],
    [t("policy.weight"), significant(key.weight, 2)], [t("models.added"), formatTime(key.created_at)], [t("keys.expires"), key.expires_at === null ? t("keys.never") : formatTime(key.expires_at)], [t("keys.lastUsed"), key.last_used_at === null ? "–" : <Ago key="u" at={key.last_used_at} />],
  ];
  return (
    <div className="space-y-5 text-sm">
      <dl className="grid grid-cols-1 gap-x-6 sm:grid-cols-2">
        {facts.map(([label, value]) => <div key={label} className="flex justify-between gap-3 border-b border-line py-1.5"><dt className="shrink-0 text-faint">{label}</dt><dd className="min-w-0 truncate text-right">{value}</dd></div>)}
      </dl>
      {editing ? (
        <form className="space-y-4" onSubmit={(event) => {
          event.preventDefault();
          const form = new FormData(event.currentTarget);
          const date = String(form.get("expires") ?? "");
          // A date that was not touched is no other time of that day.
          const expires = date === dateOf(key.expires_at) ? {} : { expires_at: expiryOf(date) };
          write.mutate({ method: "PATCH", path: `/api/v1/keys/${key.id}`, body: { name: String(form.get("name")).trim(), weight: Number(form.get("weight")), ...scopeOf(form), ...expires } }, { onSuccess: (changed) => { setKey(changed as ApiKey); setEditing(false); } });
        }}>
          <Field label={t("keys.name")}>{(id) => <Input id={id} name="name" required maxLength={200} defaultValue={key.name} />}</Field>
          <ScopeFields old={key} />
          <div className="grid grid-cols-2 gap-3">
            <Field label={t("keys.until")} help={t("keys.daysHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="expires" type="date" defaultValue={dateOf(key.expires_at)} />}</Field>
            <Field label={t("policy.weight")} help={t("keys.weightHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="weight" type="number" step="any" min="0.001" max="1000" required defaultValue={key.weight} />}</Field>
          </div>
          {write.error && <ErrorNote error={write.error} />}
          <div className="flex justify-end gap-2"><Button onClick={() => { write.reset(); setEditing(false); }}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={write.isPending}>{t("common.save")}</Button></div>
        </form>
      ) : (
        <section aria-label={t("keys.scope")} className="space-y-2">
          {lists.map((name) => (
            <div key={name} className="grid grid-cols-[6rem_minmax(0,1fr)] items-baseline gap-2">
              <span className="text-faint">{t(`keys.${name}`)}</span>
              <span className="flex flex-wrap gap-1">{key[name].length === 0 ? t("keys.everything") : key[name].map((one) => <span key={one} className="max-w-full rounded-full bg-sunken px-2 py-0.5 font-mono text-xs break-all">{one}</span>)}</span>
            </div>
          ))}
          {active && <Button onClick={() => setEditing(true)}>{t("keys.change")}</Button>}
        </section>
      )}
      {admin && <KeyLimits id={key.id} active={active} />}
    </div>
  );
}

// Its limits of all models together; those of single models are under Limits.
function KeyLimits({ id, active }: { id: string; active: boolean }) {
  const { t } = useTranslation();
  const scope = `key:${id}`;
  const list = useCursorList("/api/v1/limits", { scope }, { limit: 1000 });
  const write = useWrite(["/api/v1/limits"]);
  const [editing, setEditing] = useState(false);
  const all = list.rows.find((one) => one.model === "*") ?? null;
  return (
    <section aria-label={t("limits.limits")} className="border-t border-line pt-4">
      <h3 className="mb-2 font-medium">{t("limits.limits")}</h3>
      {list.isPending ? <Loading rows={1} /> : list.error ? <ErrorNote error={list.error} /> : editing ? (
        <form className="space-y-4" onSubmit={(event) => {
          event.preventDefault();
          write.mutate({ method: "PUT", path: "/api/v1/limits", body: { scope, model: "*", ...limitsOf(new FormData(event.currentTarget)) } }, { onSuccess: () => setEditing(false) });
        }}>
          <LimitFields old={all} />
          {write.error && <ErrorNote error={write.error} />}
          <div className="flex justify-end gap-2"><Button onClick={() => { write.reset(); setEditing(false); }}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={write.isPending}>{t("common.save")}</Button></div>
        </form>
      ) : (
        <div className="space-y-2">
          {list.rows.length === 0 && <p className="text-soft">{t("keys.noLimits")}</p>}
          {list.rows.map((limit) => (
            <p key={limit.model} className="flex flex-wrap gap-x-3 gap-y-1">
              {limit.model !== "*" && <Badge>{limit.model}</Badge>}
              {limitNumbers.filter((name) => limit[name] !== null).map((name) => <span key={name}><span className="text-faint">{t(`limits.${name}`)}</span> {grouped(limit[name]!)}</span>)}
              <span><span className="text-faint">{t("limits.burst_s")}</span> {limit.burst_s} s</span>
            </p>
          ))}
          {active && <Button onClick={() => setEditing(true)}>{t(all ? "limits.change_limit" : "limits.add_limit")}</Button>}
        </div>
      )}
    </section>
  );
}
