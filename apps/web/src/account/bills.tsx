import { Plus } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { at, getJson } from "../api/client";
import { useMay, useSession } from "../shell/session";
import { formatCount, grouped } from "../ui/format";
import { Ago, Button, Dialog, Empty, ErrorNote, Field, Input, Loading, More, Page, Section, Select, Stat, Table, TextArea } from "../ui/kit";
import { usePrices } from "../api/queries";
import { CsvButton } from "./csv_button";
import { useCursorList, useWrite } from "./lists";
import { useNames } from "./names";

export function BillsPage() {
  const { t } = useTranslation();
  const session = useSession();
  const [month, setMonth] = useState(new Date().toISOString().slice(0, 7));
  const operator = useMay("operator");
  const client = useQueryClient();
  const [organisation, setOrganisation] = useState("");  // "": one's own
  const organisations = useCursorList("/api/v1/organisations", {}, { enabled: operator, limit: 1000 });
  const [adjusting, setAdjusting] = useState(false);
  const write = useWrite([]);
  const names = useNames();
  const whose: Record<string, string> = organisation ? { organisation } : {};
  const bill = useInfiniteQuery({
    queryKey: ["bill", month, organisation], initialPageParam: "",
    queryFn: ({ pageParam, signal }) => getJson(at("/api/v1/bills", {}, { month, ...whose, limit: 1000, ...(pageParam ? { after: pageParam } : {}) }), { signal }),
    getNextPageParam: (page) => page.next_cursor ?? undefined,
  });
  const first = bill.data?.pages[0];
  // What had no price was written in the built-in book's currency: a zero beside real money says nothing.
  const all = Object.entries(first?.totals ?? {});
  const totals = all.some(([, total]) => Number(total) !== 0) ? all.filter(([, total]) => Number(total) !== 0) : all.slice(0, 1);
  const lines = bill.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <Page title={t("nav.bills")} lead={t("bills.lead", { organisation: organisations.rows.find((one) => one.id === first?.organisation)?.name ?? first?.organisation ?? session.organisation })} actions={
      <>
        {organisations.rows.length > 1 && <Select className="w-44" aria-label={t("bills.organisation")} value={organisation || session.organisation} onChange={(event) => setOrganisation(event.target.value)}>{organisations.rows.map((one) => <option key={one.id} value={one.id}>{one.name}</option>)}</Select>}
        <Input type="month" className="w-40" aria-label={t("bills.month")} value={month} onChange={(event) => event.target.value && setMonth(event.target.value)} />
        <CsvButton file={`bill-${month}.csv`} disabled={lines.length === 0 && (first?.adjustments.length ?? 0) === 0} from={at("/api/v1/bills", {}, { month, ...whose, format: "csv" })} />
        {operator && <Button onClick={() => { write.reset(); setAdjusting(true); }}><Plus className="size-4" aria-hidden />{t("bills.adjust")}</Button>}
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
              { head: t("usage.model"), wide: true, cell: (line) => <span className="block min-w-24 truncate" title={line.model}>{line.model}<span className="block truncate text-xs text-faint sm:hidden">{names("key", line.key) ?? line.key}</span></span> },
              { head: t("usage.key"), hide: "sm", cell: (line) => <span className="block max-w-48 truncate" title={line.key}>{names("key", line.key) ?? <span className="font-mono text-xs">{line.key}</span>}</span> },
              { head: t("usage.workspace"), hide: "lg", cell: (line) => names("workspace", line.workspace) ?? line.workspace },
              { head: t("model.requests"), right: true, cell: (line) => grouped(line.requests) },
              { head: t("model.promptTokens"), right: true, hide: "md", cell: (line) => grouped(line.prompt_tokens) },
              { head: t("model.outputTokens"), right: true, hide: "md", cell: (line) => grouped(line.output_tokens) },
              { head: t("bills.free"), right: true, hide: "lg", cell: (line) => grouped(line.free_tokens) },
              { head: t("bills.book"), right: true, hide: "lg", cell: (line) => line.price_version },
              { head: t("usage.amount"), right: true, cell: (line) => `${line.amount} ${line.currency}` },
            ]} />
          )}
          <More list={bill} />
          {first.adjustments.length > 0 && (
            <Section title={t("bills.adjustments")}>
              <Table label={t("bills.adjustments")} rows={first.adjustments} keyOf={(one) => one.id} columns={[{ head: t("audit.when"), hide: "sm", cell: (one) => <Ago at={one.created_at} /> }, { head: t("bills.reason"), wide: true, cell: (one) => <span className="block min-w-32 whitespace-pre-wrap">{one.reason}</span> }, { head: t("usage.model"), hide: "md", cell: (one) => one.model ?? "–" }, { head: t("bills.by"), hide: "lg", cell: (one) => <span className="block max-w-40 truncate" title={one.created_by}>{names("member", one.created_by) ?? names("key", one.created_by) ?? one.created_by}</span> }, { head: t("usage.amount"), right: true, cell: (one) => `${one.amount} ${one.currency}` }]} />
            </Section>
          )}
        </>
      )}
      <Dialog open={adjusting} onClose={() => setAdjusting(false)} title={t("bills.adjustTitle", { month })}>
        {adjusting && <AdjustForm busy={write.isPending} error={write.error} onClose={() => setAdjusting(false)}
          onSave={(body) => write.mutate({ method: "POST", path: "/api/v1/bills/adjustments", body: { ...body, organisation: organisation || session.organisation, month } }, { onSuccess: () => { setAdjusting(false); void client.invalidateQueries({ queryKey: ["bill"] }); } })} />}
      </Dialog>
    </Page>
  );
}

function AdjustForm({ busy, error, onSave, onClose }: { busy: boolean; error: unknown; onSave: (body: Record<string, string>) => void; onClose: () => void }) {
  const { t } = useTranslation();
  const prices = usePrices();
  return (
    <form className="space-y-4" onSubmit={(event) => {
      event.preventDefault();
      const form = new FormData(event.currentTarget);
      onSave(Object.fromEntries(["amount", "currency", "model", "reason"].map((name) => [name, String(form.get(name) ?? "").trim()]).filter(([, text]) => text !== "")) as Record<string, string>);
    }}>
      <p className="text-sm text-soft">{t("bills.adjustText")}</p>
      <div className="grid grid-cols-[minmax(0,1fr)_6rem] gap-3">
        <Field label={t("usage.amount")} help={t("bills.amountHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="amount" required autoFocus inputMode="decimal" pattern="-?\d+(\.\d{1,9})?" placeholder="-12.50" />}</Field>
        <Field label={t("prices.currency")}>{(id) => <Input key={prices.data?.current.currency ?? ""} id={id} name="currency" required pattern="[A-Za-z]{3}" maxLength={3} defaultValue={prices.data?.current.currency ?? ""} />}</Field>
      </div>
      <Field label={t("bills.reason")} help={t("bills.reasonHelp")}>{(id, note) => <TextArea id={id} aria-describedby={note} name="reason" required maxLength={1000} rows={3} />}</Field>
      <Field label={t("usage.model")} help={t("bills.modelHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="model" maxLength={512} />}</Field>
      {error != null && <ErrorNote error={error} />}
      <div className="flex justify-end gap-2"><Button onClick={onClose}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={busy}>{t("bills.adjust")}</Button></div>
    </form>
  );
}
