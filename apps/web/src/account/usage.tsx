import { useCallback, useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import { at } from "../api/client";
import type { UsageRow } from "../api/types";
import { useMay } from "../shell/session";
import { modelColor } from "../ui/colors";
import { formatCount, formatSeconds, grouped, significant } from "../ui/format";
import { Empty, ErrorNote, Input, Loading, More, Page, Section, Select, Stat, Table } from "../ui/kit";
import { addAmounts, addByCurrency, amountsText } from "../ui/money";
import { useDark } from "../ui/theme_hook";
import { CsvButton } from "./csv_button";
import { useCursorList } from "./lists";
import { useNames } from "./names";
import { measures, UsageChart, useLayers, type Grouping, type Measure } from "./usage_chart";

const groups = ["model", "key", "member", "workspace", "kind"] as const;

export function sumsOf(rows: UsageRow[]): { requests: number; errors: number; prompt: number; cached: number; output: number; device: number } {
  return rows.reduce((all, row) => ({
    requests: all.requests + row.requests, errors: all.errors + row.errors, prompt: all.prompt + row.prompt_tokens, cached: all.cached + row.cached_tokens, output: all.output + row.output_tokens, device: all.device + row.device_seconds,
  }), { requests: 0, errors: 0, prompt: 0, cached: 0, output: 0, device: 0 });
}

const mostFirst = (rows: UsageRow[]) => [...rows].sort((a, b) => b.prompt_tokens + b.output_tokens - a.prompt_tokens - a.output_tokens);
const latestFirst = (rows: UsageRow[]) => [...rows].sort((a, b) => (b.day ?? "").localeCompare(a.day ?? ""));
const day = (offset: number) => new Date(Date.now() + offset * 86_400_000).toISOString().slice(0, 10);

export function UsagePage() {
  const { t } = useTranslation();
  useDark();
  const operator = useMay("operator");
  const [from, setFrom] = useState(day(-29));
  const [to, setTo] = useState(day(0));
  const [group, setGroup] = useState<Grouping>("model");
  const [measure, setMeasure] = useState<Measure>("total_tokens");
  const range = { from: `${from}T00:00:00Z`, to: new Date(Date.parse(`${to}T00:00:00Z`) + 86_400_000).toISOString().replace(".000", "") };
  // Tokens in and out are those of a day; everything else has rows of its own.
  const column = group === "kind" ? "day" : group;
  const days = useCursorList("/api/v1/usage", { ...range, group_by: "day" }, { pollMs: 10_000, limit: 1000 });
  const by = useCursorList("/api/v1/usage", { ...range, group_by: column }, { pollMs: 10_000, limit: 1000 });
  const sums = sumsOf(days.rows);
  const totals = addByCurrency(days.rows);
  const order = group === "kind" ? latestFirst : mostFirst;
  const rows = useMemo(() => order(by.rows), [by.rows, order]);
  const names = useNames();
  const nameOf = useCallback((id: string) => (group === "kind" || group === "model" ? undefined : names(group, id)), [group, names]);
  const shownMeasure = group === "kind" ? "total_tokens" : measure;
  const picture = useLayers({ from, to }, group, shownMeasure, nameOf);
  const error = days.error ?? by.error;
  const nameCell = (row: UsageRow) => {
    const id = group === "kind" ? (row.day ?? "").slice(0, 10) : row[group] ?? "";
    const name = nameOf(id);
    return (
      <span className="flex min-w-28 items-center gap-2">
        {group === "model" && <span aria-hidden className="size-2.5 shrink-0 rounded-full" style={{ backgroundColor: modelColor(id) }} />}
        <span className="truncate" title={name ? `${name} (${id})` : id}>{name ?? (id || "–")}{name && <span className="ml-2 font-mono text-xs text-faint">{id}</span>}</span>
      </span>
    );
  };
  return (
    <Page title={t("nav.usage")} lead={t("usage.lead")} actions={
      <>
        <Input type="date" className="w-36" aria-label={t("usage.from")} value={from} max={to} onChange={(event) => event.target.value && setFrom(event.target.value)} />
        <Input type="date" className="w-36" aria-label={t("usage.to")} value={to} min={from} onChange={(event) => event.target.value && setTo(event.target.value)} />
        <CsvButton file={`usage-${from}-${to}.csv`} disabled={rows.length === 0} from={at("/api/v1/usage", {}, { ...range, group_by: column, format: "csv" })} />
      </>}>
      {error && <ErrorNote error={error} retry={() => { void days.refetch(); void by.refetch(); }} />}
      {days.isPending || days.error ? !error && <Loading rows={6} /> : days.rows.length === 0 ? <Empty title={t("usage.none")}>{t("usage.noneText")}</Empty> : (
        <>
          <dl className="mb-5 grid grid-cols-2 gap-x-6 gap-y-4 sm:grid-cols-3 lg:grid-cols-6">
            <Stat label={t("model.requests")} value={grouped(sums.requests)} hint={t("usage.errors", { count: sums.errors })} />
            <Stat label={t("model.promptTokens")} value={formatCount(sums.prompt)} hint={t("overview.cached", { tokens: formatCount(sums.cached) })} />
            <Stat label={t("model.outputTokens")} value={formatCount(sums.output)} />
            <Stat label={t("usage.amount")} value={totals.length === 1 ? totals[0]![1] : amountsText(days.rows)} unit={totals.length === 1 ? totals[0]![0] : ""} />
            <Stat label={t("usage.device")} value={formatSeconds(sums.device)} />
            {operator && <Stat label={t("usage.cost")} value={addAmounts(days.rows.map((row) => row.cost ?? "0"))} unit={days.rows[0]?.cost_currency ?? ""} />}
          </dl>
          <Section title={t("usage.byDay")} note="UTC" actions={
            <>
              <Select className="w-36" aria-label={t("usage.measure")} value={shownMeasure} disabled={group === "kind"} onChange={(event) => setMeasure(event.target.value as Measure)}>{measures.map((one) => <option key={one} value={one}>{t(`usage.measure_${one}`)}</option>)}</Select>
              <Select className="w-40" aria-label={t("usage.group")} value={group} onChange={(event) => setGroup(event.target.value as Grouping)}>{groups.map((one) => <option key={one} value={one}>{t(`usage.${one}`)}</option>)}</Select>
            </>}>
            <UsageChart label={`${t("usage.byDay")}: ${t(`usage.measure_${shownMeasure}`)}, ${t(`usage.${group}`)}`} measure={shownMeasure} {...picture} />
          </Section>
          <Section title={group === "kind" ? t("usage.eachDay") : t("usage.byGroup")}>
            {by.isPending ? <Loading /> : (
              <Table label={t("usage.byGroup")} rows={rows} keyOf={(row) => (group === "kind" ? row.day : row[group]) ?? ""} columns={[
                { head: t(group === "kind" ? "usage.day" : `usage.${group}`), wide: true, cell: nameCell },
                { head: t("model.requests"), right: true, cell: (row) => grouped(row.requests) },
                { head: t("model.promptTokens"), right: true, cell: (row) => grouped(row.prompt_tokens) },
                { head: t("usage.cachedTokens"), right: true, hide: "md", cell: (row) => grouped(row.cached_tokens) },
                { head: t("model.outputTokens"), right: true, cell: (row) => grouped(row.output_tokens) },
                { head: t("usage.device"), right: true, hide: "lg", cell: (row) => `${significant(row.device_seconds, 3)} s` },
                { head: t("usage.amount"), right: true, cell: (row) => row.amount ?? amountsText([row]) },
                ...(operator ? [{ head: t("usage.margin"), right: true, hide: "lg" as const, cell: (row: UsageRow) => row.margin ?? <span title={row.no_margin_because ?? undefined}>–</span> }] : []),
              ]} />
            )}
            <More list={by} />
          </Section>
        </>
      )}
    </Page>
  );
}
