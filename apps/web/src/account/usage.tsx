import { lazy, Suspense, useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import { useMay } from "../shell/session";
import { modelColor } from "../ui/colors";
import { formatCount, formatSeconds, grouped, significant } from "../ui/format";
import { Button, Empty, ErrorNote, Input, Loading, Page, Section, Select, Stat, Table } from "../ui/kit";
import { Legend } from "../overview/page";
import { addAmounts, amountsText } from "../ui/money";
import { useDark } from "../ui/theme_hook";
import { CsvButton, listCsv } from "./csv_button";
import { useCursorList } from "./lists";

const Chart = lazy(() => import("../ui/chart"));

export interface UsageSums {
  requests: number; errors: number; cancelled: number; prompt_tokens: number; cached_tokens: number; output_tokens: number; reasoning_tokens: number; free_tokens: number; device_seconds: number; amount: string | null; amount_by_currency: Record<string, string>;
  day?: string; model?: string; key?: string; member?: string; workspace?: string; cost?: string; margin?: string | null; no_margin_because?: string | null; cost_currency?: string;
}
const groups = ["model", "key", "member", "workspace"] as const;

export function sumsOf(rows: UsageSums[]): { requests: number; errors: number; prompt: number; cached: number; output: number; device: number } {
  return rows.reduce((all, row) => ({
    requests: all.requests + row.requests, errors: all.errors + row.errors, prompt: all.prompt + row.prompt_tokens, cached: all.cached + row.cached_tokens, output: all.output + row.output_tokens, device: all.device + row.device_seconds,
  }), { requests: 0, errors: 0, prompt: 0, cached: 0, output: 0, device: 0 });
}

const mostFirst = (rows: UsageSums[]) => [...rows].sort((a, b) => b.prompt_tokens + b.output_tokens - a.prompt_tokens - a.output_tokens);
const day = (offset: number) => new Date(Date.now() + offset * 86_400_000).toISOString().slice(0, 10);

export function UsagePage() {
  const { t } = useTranslation();
  useDark();
  const operator = useMay("operator");
  const [from, setFrom] = useState(day(-29));
  const [to, setTo] = useState(day(0));
  const [group, setGroup] = useState<(typeof groups)[number]>("model");
  const range = { from: `${from}T00:00:00Z`, to: new Date(Date.parse(`${to}T00:00:00Z`) + 86_400_000).toISOString().replace(".000", "") };
  const days = useCursorList<UsageSums>("/api/v1/usage", { ...range, group_by: "day" }, { pollMs: 10_000, limit: 1000 });
  const by = useCursorList<UsageSums>("/api/v1/usage", { ...range, group_by: group }, { pollMs: 10_000, limit: 1000 });
  const sums = sumsOf(days.rows);
  const rows = useMemo(() => mostFirst(by.rows), [by.rows]);
  const chart = useMemo(() => {
    const first = Date.parse(`${from}T00:00:00Z`) / 1e3;
    const count = Math.max(1, Math.min(366, Math.round((Date.parse(`${to}T00:00:00Z`) / 1e3 - first) / 86_400) + 1));
    const times = Array.from({ length: count }, (_, index) => first + index * 86_400);
    const at = new Map(days.rows.map((row) => [(row.day ?? "").slice(0, 10), row]));
    const pick = (value: (row: UsageSums) => number) => times.map((time) => { const row = at.get(new Date(time * 1e3).toISOString().slice(0, 10)); return row ? value(row) : 0; });
    // Drawn from the tallest to the lowest, so that each shows above the next: a stack.
    return { times, all: pick((row) => row.prompt_tokens + row.output_tokens), prompt: pick((row) => row.prompt_tokens) };
  }, [days.rows, from, to]);
  const error = days.error ?? by.error;
  const names = [group, "requests", "errors", "cancelled", "prompt_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "free_tokens", "device_seconds", "amount", "amount_by_currency", ...(operator ? ["cost", "cost_currency", "margin"] : [])];
  return (
    <Page title={t("nav.usage")} lead={t("usage.lead")} actions={
      <>
        <Input type="date" className="w-36" aria-label={t("usage.from")} value={from} max={to} onChange={(event) => event.target.value && setFrom(event.target.value)} />
        <Input type="date" className="w-36" aria-label={t("usage.to")} value={to} min={from} onChange={(event) => event.target.value && setTo(event.target.value)} />
        <CsvButton file={`usage-${from}-${to}.csv`} disabled={rows.length === 0} make={listCsv("/api/v1/usage", { ...range, group_by: group }, names, mostFirst)} />
      </>}>
      {error && <ErrorNote error={error} retry={() => { void days.refetch(); void by.refetch(); }} />}
      {days.isPending ? !error && <Loading rows={6} /> : days.rows.length === 0 ? <Empty title={t("usage.none")}>{t("usage.noneText")}</Empty> : (
        <>
          <dl className="mb-5 grid grid-cols-2 gap-x-6 gap-y-4 sm:grid-cols-3 lg:grid-cols-6">
            <Stat label={t("model.requests")} value={grouped(sums.requests)} hint={t("usage.errors", { count: sums.errors })} />
            <Stat label={t("model.promptTokens")} value={formatCount(sums.prompt)} hint={t("overview.cached", { tokens: formatCount(sums.cached) })} />
            <Stat label={t("model.outputTokens")} value={formatCount(sums.output)} />
            <Stat label={t("usage.amount")} value={amountsText(days.rows)} />
            <Stat label={t("usage.device")} value={formatSeconds(sums.device)} />
            {operator && <Stat label={t("usage.cost")} value={addAmounts(days.rows.map((row) => row.cost ?? "0"))} unit={days.rows[0]?.cost_currency ?? ""} />}
          </dl>
          <Section title={t("usage.byDay")} note="UTC">
            <Suspense fallback={<Loading rows={4} />}>
              <Chart label={t("usage.byDay")} height={180} times={chart.times} format={formatCount} timeFormat={(unixS) => new Date(unixS * 1e3).toISOString().slice(5, 10)}
                series={[{ label: t("model.outputTokens"), color: "#129490", values: chart.all, bars: true }, { label: t("model.promptTokens"), color: "#8d7fd8", values: chart.prompt, bars: true }]} />
            </Suspense>
            <Legend items={[[t("model.outputTokens"), "#129490"], [t("model.promptTokens"), "#8d7fd8"]]} />
          </Section>
          <Section title={t("usage.byGroup")} actions={<Select className="w-40" aria-label={t("usage.group")} value={group} onChange={(event) => setGroup(event.target.value as typeof group)}>{groups.map((one) => <option key={one} value={one}>{t(`usage.${one}`)}</option>)}</Select>}>
            {by.isPending ? <Loading /> : (
              <Table label={t("usage.byGroup")} rows={rows} keyOf={(row) => row[group] ?? ""} columns={[
                { head: t(`usage.${group}`), wide: true, cell: (row) => <span className="flex min-w-28 items-center gap-2">{group === "model" && <span aria-hidden className="size-2.5 shrink-0 rounded-full" style={{ backgroundColor: modelColor(row.model ?? "") }} />}<span className="truncate" title={row[group]}>{row[group] || "–"}</span></span> },
                { head: t("model.requests"), right: true, cell: (row) => grouped(row.requests) },
                { head: t("model.promptTokens"), right: true, cell: (row) => grouped(row.prompt_tokens) },
                { head: t("usage.cachedTokens"), right: true, hide: "md", cell: (row) => grouped(row.cached_tokens) },
                { head: t("model.outputTokens"), right: true, cell: (row) => grouped(row.output_tokens) },
                { head: t("usage.device"), right: true, hide: "lg", cell: (row) => `${significant(row.device_seconds, 3)} s` },
                { head: t("usage.amount"), right: true, cell: (row) => row.amount ?? amountsText([row]) },
                ...(operator ? [{ head: t("usage.margin"), right: true, hide: "lg" as const, cell: (row: UsageSums) => row.margin ?? <span title={row.no_margin_because ?? undefined}>–</span> }] : []),
              ]} />
            )}
            {by.hasNextPage && <div className="mt-3"><Button busy={by.isFetchingNextPage} onClick={() => void by.fetchNextPage()}>{t("common.more")}</Button></div>}
          </Section>
        </>
      )}
    </Page>
  );
}
