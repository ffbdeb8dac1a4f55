// Which requests a list shows. The choice lives in the address, so that it can be kept, sent and gone back to.
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { useSearchParams } from "react-router";
import { useMay } from "../shell/session";
import { Button, Input, Select } from "../ui/kit";
import { useCursorList } from "./lists";

export const statuses = ["done", "cancelled", "error", "interrupted"] as const;
export const spans = ["1h", "24h", "7d", "30d"] as const;
const seconds: Record<(typeof spans)[number], number> = { "1h": 3600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000 };
const endpoints = ["chat.completions", "completions", "embeddings", "rerank"];
const names = ["model", "key", "member", "status", "endpoint", "span", "from", "to"] as const;
export type FilterName = (typeof names)[number];
export type Filters = Record<FilterName, string>;

export function filtersOf(search: URLSearchParams): Filters {
  return Object.fromEntries(names.map((name) => [name, search.get(name) ?? ""])) as Filters;
}

// As the API's query has it. A span ends now; to the minute, so that the question stays the same for a while.
export function queryOf(filters: Filters, nowMs: number): Record<string, string> {
  const span = spans.find((one) => one === filters.span);
  const minute = Math.floor(nowMs / 60_000) * 60;
  const text = (unixS: number) => new Date(unixS * 1e3).toISOString().replace(".000", "");
  const day = (date: string) => Date.parse(`${date}T00:00:00Z`) / 1e3;
  const dated = filters.span === "dates";
  return {
    model: filters.model.trim(), key: filters.key, member: filters.member, status: filters.status === "running" ? "" : filters.status, endpoint: filters.endpoint,
    from: span ? text(minute - seconds[span]) : dated && Number.isFinite(day(filters.from)) ? text(day(filters.from)) : "",
    to: dated && Number.isFinite(day(filters.to)) ? text(day(filters.to) + 86_400) : "",
  };
}

// What the address says now. React Router's own updater is given what was rendered last: a change of the same moment would be lost.
export const addressNow = () => new URLSearchParams(window.location.search);

export function useRequestFilters() {
  const [search, setSearch] = useSearchParams();
  const filters = useMemo(() => filtersOf(search), [search]);
  const change = (next: Partial<Filters>) => setSearch(() => {
    const changed = addressNow();
    for (const [name, value] of Object.entries(next)) {
      if (value) changed.set(name, value);
      else changed.delete(name);
    }
    return changed;
  }, { replace: true });
  return { filters, change };
}

export function RequestFilters({ filters, change }: ReturnType<typeof useRequestFilters>) {
  const { t } = useTranslation();
  const developer = useMay("developer");
  const admin = useMay("workspace_admin");
  const keys = useCursorList("/api/v1/keys", {}, { enabled: developer, limit: 1000 });
  const members = useCursorList("/api/v1/members", {}, { enabled: admin, limit: 1000 });
  const people = [...new Map(members.rows.map((one) => [one.user ?? one.id, one.name || one.email || one.id]))];
  // What the address names is shown, also where the caller may not list it.
  const options = (known: [string, string][], value: string) => (value && !known.some(([id]) => id === value) ? [...known, [value, value] as [string, string]] : known);
  const select = (name: FilterName, label: string, all: string, known: [string, string][]) => (
    <Select className="w-full sm:w-40" aria-label={label} value={filters[name]} onChange={(event) => change({ [name]: event.target.value })}>
      <option value="">{all}</option>{options(known, filters[name]).map(([id, text]) => <option key={id} value={id}>{text}</option>)}
    </Select>
  );
  return (
    <div role="search" className="mb-4 grid grid-cols-2 gap-2 sm:flex sm:flex-wrap">
      <Input type="search" className="w-full sm:w-44" aria-label={t("usage.model")} placeholder={t("usage.model")} value={filters.model} onChange={(event) => change({ model: event.target.value })} />
      {select("status", t("models.state"), t("requests.all"), [["running", t("requests.inFlight")], ...statuses.map((one): [string, string] => [one, t(`requests.${one}`)])])}
      {(developer || filters.key) && select("key", t("usage.key"), t("requests.allKeys"), keys.rows.map((one) => [one.id, one.name]))}
      {(admin || filters.member) && select("member", t("usage.member"), t("requests.allMembers"), people)}
      {select("endpoint", t("requests.endpoint"), t("requests.allEndpoints"), endpoints.map((one) => [one, one]))}
      {select("span", t("requests.when"), t("requests.anyTime"), [...spans.map((one): [string, string] => [one, t(`requests.last_${one}`)]), ["dates", t("requests.dates")]])}
      {filters.span === "dates" && (
        <>
          <Input type="date" className="w-full sm:w-36" aria-label={t("usage.from")} value={filters.from} {...(filters.to ? { max: filters.to } : {})} onChange={(event) => change({ from: event.target.value })} />
          <Input type="date" className="w-full sm:w-36" aria-label={t("usage.to")} value={filters.to} {...(filters.from ? { min: filters.from } : {})} onChange={(event) => change({ to: event.target.value })} />
        </>
      )}
      {names.some((name) => filters[name] !== "") && <Button kind="quiet" onClick={() => change(Object.fromEntries(names.map((name) => [name, ""])))}>{t("requests.clear")}</Button>}
    </div>
  );
}
