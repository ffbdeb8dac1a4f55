import { useVirtualizer } from "@tanstack/react-virtual";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { Link, useSearchParams } from "react-router";
import { serverError } from "../i18n/server_texts";
import { formatAgo, formatCount, formatSeconds, formatTime, grouped } from "../ui/format";
import { at, getJson } from "../api/client";
import type { RequestRow } from "../api/types";
import { Badge, cx, Dialog, Empty, ErrorNote, Loading, Page, Section, Table } from "../ui/kit";
import { ModelDot } from "../overview/page";
import { CsvButton } from "./csv_button";
import { given, useCursorList, useLiveList } from "./lists";
import { useNames } from "./names";
import { addressNow, queryOf, RequestFilters, statuses, useRequestFilters } from "./request_filters";
import { RunningRequests } from "./running_requests";
import { StoredBodySection } from "./stored_body";

const looks = { queue: "bg-line-strong", load: "bg-warn", prefill: "bg-[#8d7fd8]", decode: "bg-accent", stall: "hatched bg-accent-soft" } as const;
type Phase = keyof typeof looks;

// Where the time went, each millisecond once: loading may be part of the queue, and stalls (waiting for other models' turns) are
// part of prefill and decode.
export function timelineOf(row: Pick<RequestRow, "queue_ms" | "load_ms" | "prefill_ms" | "decode_ms" | "stall_ms">): [Phase, number][] {
  const ofDecode = Math.min(row.stall_ms, row.decode_ms);
  const ofPrefill = Math.min(row.stall_ms - ofDecode, row.prefill_ms);
  return [["queue", row.queue_ms >= row.load_ms ? row.queue_ms - row.load_ms : row.queue_ms], ["load", row.load_ms], ["prefill", row.prefill_ms - ofPrefill], ["decode", row.decode_ms - ofDecode], ["stall", ofDecode + ofPrefill]];
}

export function RequestsPage() {
  const { t } = useTranslation();
  const names = useNames();
  const choice = useRequestFilters();
  const { filters } = choice;
  const [search, setSearch] = useSearchParams();
  const opened = search.get("request") ?? "";
  const show = (id: string | null) => setSearch(() => { const next = addressNow(); if (id) next.set("request", id); else next.delete("request"); return next; });
  // Counted anew each minute, for spans that end now.
  const [minute, setMinute] = useState(() => Math.floor(Date.now() / 60_000));
  useEffect(() => {
    const timer = setInterval(() => setMinute(Math.floor(Date.now() / 60_000)), 5_000);
    return () => clearInterval(timer);
  }, []);
  const query = queryOf(filters, minute * 60_000);
  const onlyRunning = filters.status === "running";
  const list = useLiveList("/api/v1/requests", query, { pollMs: 5_000, limit: 200 });
  const box = useRef<HTMLDivElement>(null);
  const rows = list.rows;
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => box.current, estimateSize: () => 40, overscan: 10, getItemKey: (index) => rows[index]!.id });
  const items = virtual.getVirtualItems();
  const end = items.at(-1)?.index ?? 0;
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  useEffect(() => {
    if (end >= rows.length - 20 && rows.length > 0 && hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [end, rows.length, hasNextPage, isFetchingNextPage, fetchNextPage]);
  const cells = "grid grid-cols-[3.5rem_minmax(0,1fr)_4.75rem_4.25rem] items-center gap-2 sm:gap-3 sm:grid-cols-[7rem_minmax(8rem,1fr)_7rem_6rem_7rem] lg:grid-cols-[7rem_minmax(8rem,1fr)_10rem_7rem_7rem_12rem_7rem]";
  return (
    <Page title={t("nav.requests")} lead={t("requests.lead")} actions={
      <CsvButton file="requests.csv" disabled={onlyRunning || rows.length === 0} from={at("/api/v1/requests", {}, { ...given(query), format: "csv" })} />}>
      <RequestFilters {...choice} />
      {(filters.status === "" || onlyRunning) && (filters.span !== "dates" || onlyRunning) && <RunningRequests query={query} names={names} />}
      {onlyRunning ? null : list.isPending ? <Loading rows={8} /> : list.error ? <ErrorNote error={list.error} retry={() => void list.refetch()} /> : rows.length === 0 ? <Empty title={t("requests.none")}>{t("usage.noneText")}</Empty> : (
        <div role="table" aria-label={t("nav.requests")} aria-rowcount={rows.length} className={cx("text-sm", filters.status === "" && "mt-4")}>
          <div role="row" className={cx(cells, "border-b border-line-strong pb-1.5 text-xs text-faint")}>
            <span role="columnheader">{t("audit.when")}</span><span role="columnheader">{t("usage.model")}</span><span role="columnheader" className="max-lg:hidden">{t("usage.key")}</span><span role="columnheader">{t("models.state")}</span>
            <span role="columnheader" className="text-right">{t("requests.tokens")}</span><span role="columnheader" className="max-lg:hidden">{t("requests.time")}</span><span role="columnheader" className="text-right max-sm:hidden">{t("usage.amount")}</span>
          </div>
          <div ref={box} role="rowgroup" tabIndex={0} aria-label={t("nav.requests")} className="h-[calc(100dvh-14rem)] min-h-64 overflow-y-auto">
            <div role="presentation" className="relative" style={{ height: virtual.getTotalSize() }}>
              {items.map((item) => {
                const row = rows[item.index]!;
                return (
                  <div key={item.key} role="row" aria-rowindex={item.index + 1} className={cx(cells, "absolute inset-x-0 h-10 border-b border-line hover:bg-sunken/60")} style={{ transform: `translateY(${item.start}px)` }}>
                    <span role="cell" className="truncate text-faint" title={formatTime(row.finished_at)}>{formatAgo(row.finished_at)}</span>
                    <span role="cell" className="min-w-0"><button type="button" className="flex max-w-full items-center gap-2 text-left hover:underline" onClick={() => show(row.id)}><ModelDot id={row.model} /><span className="truncate">{row.model}</span></button></span>
                    <span role="cell" className="truncate max-lg:hidden" title={row.key}>{names("key", row.key) ?? <span className="font-mono text-xs">{row.key}</span>}</span>
                    <span role="cell"><Badge tone={row.status === "done" ? "good" : row.status === "error" ? "bad" : "neutral"}><StatusName status={row.status} /></Badge></span>
                    <span role="cell" className="text-right leading-tight"><span className="whitespace-nowrap">{formatCount(row.prompt_tokens)} +</span> <span className="whitespace-nowrap">{formatCount(row.output_tokens)}</span></span>
                    <span role="cell" className="max-lg:hidden"><Phases row={row} /></span>
                    <span role="cell" className="truncate text-right max-sm:hidden">{row.amount}</span>
                  </div>
                );
              })}
            </div>
          </div>
        </div>
      )}
      <Dialog open={opened !== ""} onClose={() => show(null)} title={t("requests.one")} wide>{opened && <OneRequest id={opened} known={rows.find((row) => row.id === opened)} />}</Dialog>
    </Page>
  );
}

// The newest of one model, for its page.
export function RecentRequests({ model }: { model: string }) {
  const { t } = useTranslation();
  const [chosen, setChosen] = useState<RequestRow | null>(null);
  const list = useCursorList("/api/v1/requests", { model }, { pollMs: 5_000, limit: 8 });
  if (list.rows.length === 0 && !list.error) return null;
  return (
    <Section title={t("requests.recent")} actions={<Link className="text-sm text-accent underline" to={`/requests?model=${encodeURIComponent(model)}`}>{t("requests.allOf")}</Link>}>
      {list.error ? <ErrorNote error={list.error} /> : (
        <Table label={t("requests.recent")} rows={list.rows.slice(0, 8)} keyOf={(row) => row.id} columns={[
          { head: t("audit.when"), cell: (row) => <button type="button" className="hover:underline" title={formatTime(row.finished_at)} onClick={() => setChosen(row)}>{formatAgo(row.finished_at)}</button> },
          { head: t("models.state"), cell: (row) => <Badge tone={row.status === "done" ? "good" : row.status === "error" ? "bad" : "neutral"}><StatusName status={row.status} /></Badge> },
          { head: t("requests.time"), wide: true, hide: "sm", cell: (row) => <Phases row={row} /> },
          { head: t("requests.tokens"), right: true, cell: (row) => `${formatCount(row.prompt_tokens)} + ${formatCount(row.output_tokens)}` },
          { head: t("usage.amount"), right: true, hide: "sm", cell: (row) => row.amount },
        ]} />
      )}
      <Dialog open={chosen !== null} onClose={() => setChosen(null)} title={t("requests.one")} wide>{chosen && <Details row={chosen} />}</Dialog>
    </Section>
  );
}

const withName = (name: string | undefined, id: string) => (name && name !== id ? `${name} · ${id}` : id);

const billings = ["paid", "free", "mixed", "unpriced", "waived"] as const;
function useRequestWords() {
  const { t } = useTranslation();
  return {
    statusName: (status: string) => { const known = statuses.find((one) => one === status); return known ? t(`requests.${known}`) : status; },
    billingName: (billing: string) => { const known = billings.find((one) => one === billing); return known ? t(`cost.${known}`) : billing; },
  };
}
function StatusName({ status }: { status: string }) {
  return <>{useRequestWords().statusName(status)}</>;
}

function Phases({ row, tall = false }: { row: RequestRow; tall?: boolean }) {
  const { t } = useTranslation();
  const parts = timelineOf(row);
  const all = parts.reduce((sum, [, ms]) => sum + ms, 0);
  const text = parts.filter(([, ms]) => ms > 0).map(([phase, ms]) => `${t(`requests.${phase}`)} ${formatSeconds(ms / 1e3)}`).join(", ") || "–";
  return (
    <div role="img" aria-label={text} title={text} className={cx("flex w-full overflow-hidden rounded-sm bg-sunken", tall ? "h-6" : "h-2.5")}>
      {parts.map(([phase, ms]) => ms > 0 && <div key={phase} className={looks[phase]} style={{ width: `${(ms / all) * 100}%` }} />)}
    </div>
  );
}

// By its address also where no list shows it.
function OneRequest({ id, known }: { id: string; known: RequestRow | undefined }) {
  const found = useQuery({ queryKey: ["request", id], enabled: known === undefined, staleTime: Infinity, queryFn: ({ signal }) => getJson(at("/api/v1/requests/{id}", { id }), { signal }) });
  const row = known ?? found.data;
  if (row) return <Details row={row} />;
  return found.error ? <ErrorNote error={found.error} retry={() => void found.refetch()} /> : <Loading rows={5} />;
}

function Details({ row }: { row: RequestRow }) {
  const { t } = useTranslation();
  const { statusName, billingName } = useRequestWords();
  const names = useNames();
  return (
    <div className="space-y-4 text-sm">
      <Phases row={row} tall />
      <dl className="grid grid-cols-2 gap-x-6 gap-y-1 sm:grid-cols-3">
        {timelineOf(row).map(([phase, ms]) => <div key={phase} className="flex items-center gap-2"><span aria-hidden className={cx("size-2.5 rounded-sm", looks[phase])} /><dt className="text-faint">{t(`requests.${phase}`)}</dt><dd className="ml-auto">{formatSeconds(ms / 1e3)}</dd></div>)}
      </dl>
      <dl className="grid grid-cols-1 gap-x-6 sm:grid-cols-2">
        {([
          [t("requests.id"), row.request_id], [t("requests.started"), formatTime(row.started_at)], [t("requests.endpoint"), row.endpoint], [t("usage.model"), row.model], [t("usage.key"), withName(names("key", row.key), row.key)], [t("usage.member"), row.member === null ? "–" : withName(names("member", row.member), row.member)], [t("usage.workspace"), withName(names("workspace", row.workspace), row.workspace)],
          [t("model.promptTokens"), `${grouped(row.prompt_tokens)} (${t("overview.cached", { tokens: grouped(row.cached_tokens) })})`], [t("model.outputTokens"), `${grouped(row.output_tokens)} (${t("model.reasoning", { tokens: grouped(row.reasoning_tokens) })})`],
          [t("usage.device"), formatSeconds(row.device_seconds)], [t("usage.amount"), `${row.amount} · ${billingName(row.billing)}`], [t("models.state"), row.error_code ? `${statusName(row.status)}: ${serverError({ code: row.error_code, message: row.error_code })}` : statusName(row.status)],
        ] as const).map(([label, value]) => <div key={label} className="flex justify-between gap-3 border-b border-line py-1.5"><dt className="shrink-0 text-faint">{label}</dt><dd className="min-w-0 truncate text-right" title={value}>{value}</dd></div>)}
      </dl>
      <StoredBodySection key={row.id} id={row.id} stored={row.body_stored} />
    </div>
  );
}
