// Days of usage, stacked by what they are grouped by, with a legend that says how much.
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import { at, getJson } from "../api/client";
import { groupColors } from "../ui/colors";
import { formatCount, formatSeconds } from "../ui/format";
import { cx, Empty, ErrorNote, Loading } from "../ui/kit";
import { shortAmount } from "../ui/money";
import { useDark } from "../ui/theme_hook";
import { daysOf, largestFirst, stacked, sum, valuesOf } from "./usage_picture";

const Chart = lazy(() => import("../ui/chart"));

export const measures = ["total_tokens", "requests", "amount", "device_seconds"] as const;
export type Measure = (typeof measures)[number];
export type Grouping = "kind" | "model" | "key" | "member" | "workspace";
export interface Layer { id: string; name: string; color: string; values: number[]; others: boolean }

export const formatOf = (measure: Measure) => (value: number) => (measure === "amount" ? shortAmount(String(value)) : measure === "device_seconds" ? formatSeconds(value) : formatCount(value));
// Eight hues, and the rest is grey.
const mostGroups = 8;

// The layers of the picture, largest first.
export function useLayers(range: { from: string; to: string }, group: Grouping, measure: Measure, nameOf: (id: string) => string | undefined) {
  const { t } = useTranslation();
  const dark = useDark();
  const days = useMemo(() => daysOf(range.from, range.to), [range.from, range.to]);
  const time = { from: new Date(days[0]! * 1e3).toISOString().replace(".000", ""), to: new Date((days.at(-1)! + 86_400) * 1e3).toISOString().replace(".000", ""), step: "86400" };
  const ask = (metric: string, by: string, signal: AbortSignal) =>
    getJson(at("/api/v1/query_range", {}, { metric, ...time, ...(by ? { group_by: by, top: mostGroups } : {}) }), { signal }).then((reply) => reply.data);
  const query = useQuery({
    queryKey: ["usage chart", time, group, measure], refetchInterval: 10_000, placeholderData: keepPreviousData,
    queryFn: async ({ signal }) => ({
      group,
      series: group !== "kind" ? await ask(measure, group, signal)
        : (await Promise.all(["prompt_tokens", "output_tokens"].map((metric) => ask(metric, "", signal)))).map((series, index) => ({ ...series[0], points: series[0]?.points ?? [], model: index === 0 ? "prompt" : "output" })),
    }),
  });
  const layers = useMemo((): Layer[] => {
    const data = query.data;
    if (!data) return [];
    // Amounts of different currencies have no sum: the picture is of the one that was charged last.
    const last = data.series.reduce<{ at: number; currency: string | undefined }>((best, one) => (Number(one.points.at(-1)?.[0] ?? 0) > best.at ? { at: Number(one.points.at(-1)?.[0]), currency: one.currency } : best), { at: 0, currency: undefined });
    const raw = data.series.filter((one) => one.currency === undefined || one.currency === last.currency).map((one) => ({ id: (data.group === "kind" ? one.model : one[data.group]) ?? "", others: one.others === true, values: valuesOf(one.points.map(([time, value]) => [Number(time), Number(value)]), days) }));
    if (data.group === "kind") return raw.map((one) => ({ ...one, name: one.id === "prompt" ? t("model.promptTokens") : t("model.outputTokens"), color: one.id === "prompt" ? "#8d7fd8" : "#129490" }));
    const sorted = largestFirst(raw.filter((one) => sum(one.values) > 0));
    // A model has its colour everywhere; what else there is has colours of its own kind.
    const colors = groupColors(sorted.filter((one) => !one.others).map((one) => (data.group === "model" ? one.id : `${data.group}:${one.id}`)), dark);
    return sorted.map((one, index) => ({ ...one, name: one.others ? t("usage.others") : nameOf(one.id) ?? (one.id || "–"), color: one.others ? (dark ? "#6b7780" : "#9aa5ad") : colors[index]! }));
  }, [query.data, days, dark, nameOf, t]);
  return { days, layers, error: query.error, isPending: query.isPending, refetch: query.refetch };
}

export function UsageChart({ label, measure, days, layers, error, isPending, refetch }: { label: string; measure: Measure } & Pick<ReturnType<typeof useLayers>, "days" | "layers" | "error" | "isPending" | "refetch">) {
  const { t } = useTranslation();
  const [pointed, setPointed] = useState<number | null>(null);
  const format = formatOf(measure);
  // Drawn from the tallest to the lowest, so that each shows above the next.
  const series = useMemo(() => stacked(layers.map((one) => one.values)).map((values, index) => ({ label: `${index} ${layers[index]!.name}`, color: layers[index]!.color, values, bars: true })).reverse(), [layers]);
  if (error) return <ErrorNote error={error} retry={() => void refetch()} />;
  if (isPending) return <Loading rows={5} />;
  if (layers.every((one) => sum(one.values) === 0)) return <Empty title={t("usage.noBars")} />;
  const day = pointed === null ? undefined : days[pointed];
  return (
    <>
      <Suspense fallback={<Loading rows={5} />}>
        <Chart label={label} height={200} times={days} format={format} timeFormat={(unixS) => new Date(unixS * 1e3).toISOString().slice(5, 10)} series={series} onPoint={setPointed} />
      </Suspense>
      <UsageLegend layers={layers} at={day === undefined ? null : pointed} when={day === undefined ? t("usage.wholeTime") : new Date(day * 1e3).toISOString().slice(0, 10)} format={format} />
    </>
  );
}

// How much of each: of the day that is pointed at, or of all.
export function UsageLegend({ layers, at, when, format }: { layers: Layer[]; at: number | null; when: string; format: (value: number) => string }) {
  const { t } = useTranslation();
  const value = (one: Layer) => (at === null ? sum(one.values) : one.values[at] ?? 0);
  return (
    <div className="mt-2">
      <p className="mb-1 flex gap-2 text-xs text-faint"><span>{when}</span><span className="ml-auto tabular-nums">{format(layers.reduce((all, one) => all + value(one), 0))}</span></p>
      <ul aria-label={t("usage.legend")} className="grid grid-cols-1 gap-x-6 gap-y-0.5 text-sm min-[30rem]:grid-cols-2 lg:grid-cols-3">
        {layers.map((one) => (
          <li key={`${one.others} ${one.id}`} className={cx("flex min-w-0 items-center gap-2 border-b border-line py-1", value(one) === 0 && "text-faint")}>
            <span aria-hidden className="size-2.5 shrink-0 rounded-sm" style={{ backgroundColor: one.color }} />
            <span className="min-w-0 grow truncate" title={one.id && one.id !== one.name ? `${one.name} (${one.id})` : one.name}>{one.name}</span>
            <span className="shrink-0 tabular-nums">{format(value(one))}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}
