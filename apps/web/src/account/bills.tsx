import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useInfiniteQuery } from "@tanstack/react-query";
import { at, getJson, send } from "../api/client";
import { useSession } from "../shell/session";
import { formatCount, grouped } from "../ui/format";
import { Button, Empty, ErrorNote, Input, Loading, Page, Section, Stat, Table } from "../ui/kit";
import { CsvButton } from "./csv_button";


export function BillsPage() {
  const { t } = useTranslation();
  const session = useSession();
  const [month, setMonth] = useState(new Date().toISOString().slice(0, 7));
  const bill = useInfiniteQuery({
    queryKey: ["bill", month], initialPageParam: "",
    queryFn: ({ pageParam, signal }) => getJson(at("/api/v1/bills", {}, { month, limit: 1000, ...(pageParam ? { after: pageParam } : {}) }), { signal }),
    getNextPageParam: (page) => page.next_cursor ?? undefined,
  });
  const first = bill.data?.pages[0];
  // What had no price was written in the built-in book's currency: a zero beside real money says nothing.
  const all = Object.entries(first?.totals ?? {});
  const totals = all.some(([, total]) => Number(total) !== 0) ? all.filter(([, total]) => Number(total) !== 0) : all.slice(0, 1);
  const lines = bill.data?.pages.flatMap((page) => page.data) ?? [];
  // The server's own: whole, with adjustments and totals, and in the audit log as an export.
  const csv = async (_: unknown, signal: AbortSignal) => ({ text: await (await send("GET", `/api/v1/bills/csv?${new URLSearchParams({ month })}`, undefined, { signal })).text() });
  return (
    <Page title={t("nav.bills")} lead={t("bills.lead", { organisation: first?.organisation ?? session.organisation })} actions={
      <>
        <Input type="month" className="w-40" aria-label={t("bills.month")} value={month} onChange={(event) => event.target.value && setMonth(event.target.value)} />
        <CsvButton file={`bill-${month}.csv`} disabled={lines.length === 0 && (first?.adjustments.length ?? 0) === 0} make={csv} />
      </>}>
      {bill.isPending ? <Loading rows={5} /> : bill.error ? <ErrorNote error={bill.error} retry={() => void bill.refetch()} /> : first && (
        <>
          <dl className="mb-5 grid grid-cols-2 gap-x-6 gap-y-4 sm:grid-cols-4">
            {totals.map(([currency, total]) => <Stat key={currency} label={t("bills.total")} value={<span data-testid="total">{total}</span>} unit={currency} />)}
            {totals.length === 0 && <Stat label={t("bills.total")} value="0" hint={t("bills.unpriced")} />}
            <Stat label={t("model.requests")} value={<span data-testid="requests">{grouped(first.usage.requests)}</span>} />
            <Stat label={t("model.promptTokens")} value={formatCount(first.usage.prompt_tokens)} />
            <Stat label={t("model.outputTokens")} value={formatCount(first.usage.output_tokens)} />
          </dl>
          {lines.length === 0 && first.adjustments.length === 0 ? <Empty title={t("bills.none")} /> : (
            <Table label={t("nav.bills")} rows={lines} keyOf={(line) => [line.model, line.key, line.member, line.workspace, line.price_version, line.currency].join("/")} columns={[
              { head: t("usage.model"), wide: true, cell: (line) => <span className="block min-w-28 truncate" title={line.model}>{line.model}</span> },
              { head: t("usage.key"), hide: "sm", cell: (line) => <span className="font-mono text-xs">{line.key}</span> },
              { head: t("usage.workspace"), hide: "lg", cell: (line) => line.workspace },
              { head: t("model.requests"), right: true, cell: (line) => grouped(line.requests) },
              { head: t("model.promptTokens"), right: true, hide: "md", cell: (line) => grouped(line.prompt_tokens) },
              { head: t("model.outputTokens"), right: true, hide: "md", cell: (line) => grouped(line.output_tokens) },
              { head: t("bills.free"), right: true, hide: "lg", cell: (line) => grouped(line.free_tokens) },
              { head: t("bills.book"), right: true, hide: "lg", cell: (line) => line.price_version },
              { head: t("usage.amount"), right: true, cell: (line) => `${line.amount} ${line.currency}` },
            ]} />
          )}
          {bill.hasNextPage && <div className="mt-3"><Button busy={bill.isFetchingNextPage} onClick={() => void bill.fetchNextPage()}>{t("common.more")}</Button></div>}
          {first.adjustments.length > 0 && (
            <Section title={t("bills.adjustments")}>
              <Table label={t("bills.adjustments")} rows={first.adjustments} keyOf={(one) => one.id} columns={[{ head: t("bills.reason"), wide: true, cell: (one) => one.reason }, { head: t("usage.amount"), right: true, cell: (one) => `${one.amount} ${one.currency}` }]} />
            </Section>
          )}
        </>
      )}
    </Page>
  );
}
