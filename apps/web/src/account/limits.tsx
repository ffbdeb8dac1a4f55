import { useQueryClient } from "@tanstack/react-query";
import { Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Budget } from "../api/queries";
import { useMay, useSession } from "../shell/session";
import { formatCount, grouped } from "../ui/format";
import { Ago, Badge, Button, Confirm, Dialog, Empty, ErrorNote, Field, IconButton, Input, Loading, Meter, Page, Section, Select, Table } from "../ui/kit";
import type { ApiKey } from "./keys";
import { useCursorList, useWrite, type Write } from "./lists";
import type { Workspace } from "./people";
import { PriceBookForm, type PriceBook } from "./price_book";
import { WebhookSection } from "./webhook";

interface Limit { scope: string; model: string; requests_per_minute: number | null; tokens_per_minute: number | null; tokens_per_day: number | null; concurrent_requests: number | null; context_length: number | null; max_output_tokens: number | null; burst_s: number }
interface Quota { model: string; total: number; used: number; remaining: number; expires_at: number; stop_when_exhausted: boolean }
const numbers = ["requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests", "context_length", "max_output_tokens"] as const;

function ScopeSelect({ id }: { id: string }) {
  const { t } = useTranslation();
  const session = useSession();
  const workspaces = useCursorList<Workspace>("/api/v1/workspaces");
  const keys = useCursorList<ApiKey>("/api/v1/keys");
  return (
    <Select id={id} name="scope">
      <option value={`organisation:${session.organisation}`}>{t("people.wholeOrganisation")}</option>
      {workspaces.rows.filter((one) => one.archived_at === null).map((one) => <option key={one.id} value={`workspace:${one.id}`}>{t("usage.workspace")}: {one.name}</option>)}
      {keys.rows.filter((one) => one.revoked_at === null).map((one) => <option key={one.id} value={`key:${one.id}`}>{t("usage.key")}: {one.name}</option>)}
    </Select>
  );
}

function More({ list }: { list: { hasNextPage: boolean; isFetchingNextPage: boolean; fetchNextPage: () => unknown } }) {
  const { t } = useTranslation();
  return list.hasNextPage && <div className="mt-3"><Button busy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>{t("common.more")}</Button></div>;
}

export function LimitsPage() {
  const { t } = useTranslation();
  const admin = useMay("workspace_admin");
  const operator = useMay("operator");
  const organisationAdmin = useMay("admin");
  const client = useQueryClient();
  const limits = useCursorList<Limit>("/api/v1/limits");
  const quotas = useCursorList<Quota>("/api/v1/quotas");
  const budgets = useCursorList<Budget>("/api/v1/budgets");
  const prices = useCursorList<PriceBook>("/api/v1/prices");
  const write = useWrite(["/api/v1/limits", "/api/v1/quotas", "/api/v1/budgets", "/api/v1/prices"]);
  const [pricing, setPricing] = useState(false);
  const [adding, setAdding] = useState<"limit" | "budget" | null>(null);
  const [removing, setRemoving] = useState<{ text: string; write: Write } | null>(null);
  const add = (what: "limit" | "budget") => admin && <Button onClick={() => { write.reset(); setAdding(what); }}><Plus className="size-4" aria-hidden />{t(`limits.add_${what}`)}</Button>;
  const share = (budget: Budget) => (Number(budget.amount) > 0 ? Number(budget.spent) / Number(budget.amount) : 0);
  return (
    <Page title={t("nav.limits")} lead={t("limits.lead")}>
      {write.error && !adding && !removing && !pricing && <div className="mb-3"><ErrorNote error={write.error} /></div>}
      <Section title={t("limits.limits")} actions={add("limit")}>
        {limits.isPending ? <Loading /> : limits.error ? <ErrorNote error={limits.error} /> : limits.rows.length === 0 ? <Empty title={t("limits.noLimits")}>{t("limits.noLimitsText")}</Empty> : (
          <Table label={t("limits.limits")} rows={limits.rows} keyOf={(one) => `${one.scope} ${one.model}`} columns={[
            { head: t("limits.scope"), wide: true, cell: (one) => <span className="block min-w-32 truncate font-mono text-xs" title={one.scope}>{one.scope}</span> },
            { head: t("usage.model"), cell: (one) => (one.model === "*" ? t("limits.allModels") : one.model) },
            ...numbers.map((name, index) => ({ head: t(`limits.${name}`), right: true, ...(index > 2 ? { hide: "lg" as const } : index > 0 ? { hide: "md" as const } : {}), cell: (one: Limit) => (one[name] === null ? "–" : formatCount(one[name]!)) })),
            { head: "", right: true, cell: (one) => admin && <IconButton label={t("limits.remove")} onClick={() => setRemoving({ text: `${one.scope} · ${one.model}`, write: { method: "DELETE", path: `/api/v1/limits?${new URLSearchParams({ scope: one.scope, model: one.model })}` } })}><Trash2 /></IconButton> },
          ]} />
        )}
        <More list={limits} />
      </Section>
      <Section title={t("limits.quotas")} note={t("limits.quotasNote")}>
        {quotas.isPending ? <Loading /> : quotas.error ? <ErrorNote error={quotas.error} /> : quotas.rows.length === 0 ? <Empty title={t("limits.noQuotas")}>{t("limits.noQuotasText")}</Empty> : (
          <Table label={t("limits.quotas")} rows={quotas.rows} keyOf={(one) => one.model} columns={[
            { head: t("usage.model"), wide: true, cell: (one) => <span className="block min-w-28 truncate">{one.model}</span> },
            { head: t("limits.left"), cell: (one) => <div className="w-40"><div className="mb-1 text-xs text-faint">{grouped(one.remaining)} / {formatCount(one.total)}</div><Meter value={one.used} max={one.total} label={t("limits.usedOf", { model: one.model })} /></div> },
            { head: t("keys.expires"), hide: "sm", cell: (one) => <Ago at={one.expires_at} /> },
            { head: t("limits.stop"), right: true, cell: (one) => <input type="checkbox" className="accent-(--accent)" aria-label={t("limits.stopAt", { model: one.model })} checked={one.stop_when_exhausted} disabled={!admin || write.isPending}
              onChange={(event) => write.mutate({ method: "PUT", path: "/api/v1/quotas", body: { model: one.model, stop_when_exhausted: event.target.checked } })} /> },
          ]} />
        )}
        <More list={quotas} />
      </Section>
      <Section title={t("limits.budgets")} actions={add("budget")}>
        {budgets.isPending ? <Loading /> : budgets.error ? <ErrorNote error={budgets.error} /> : budgets.rows.length === 0 ? <Empty title={t("limits.noBudgets")}>{t("limits.noBudgetsText")}</Empty> : (
          <Table label={t("limits.budgets")} rows={budgets.rows} keyOf={(one) => one.id} columns={[
            { head: t("limits.scope"), wide: true, cell: (one) => <span className="block min-w-28 truncate font-mono text-xs">{one.scope}</span> },
            { head: t("limits.period"), cell: (one) => t(one.period === "day" ? "limits.day" : "limits.month") },
            { head: t("limits.spent"), cell: (one) => <div className="w-40"><div className="mb-1 text-xs text-faint">{one.spent} / {one.amount}</div><Meter value={share(one)} max={1} label={t("limits.spentOf", { scope: one.scope })} /></div> },
            { head: t("limits.then"), hide: "sm", cell: (one) => <Badge tone={one.block ? "warn" : "neutral"}>{t(one.block ? "limits.blocks" : "limits.tells")}</Badge> },
            { head: "", right: true, cell: (one) => admin && <IconButton label={t("limits.remove")} onClick={() => setRemoving({ text: one.scope, write: { method: "DELETE", path: `/api/v1/budgets/${one.id}` } })}><Trash2 /></IconButton> },
          ]} />
        )}
        <More list={budgets} />
      </Section>
      {organisationAdmin && <WebhookSection />}
      <Section title={t("limits.prices")} note={t("limits.pricesNote")} actions={operator && prices.isSuccess && <Button onClick={() => { write.reset(); setPricing(true); }}><Plus className="size-4" aria-hidden />{t("prices.new")}</Button>}>
        {prices.isPending ? <Loading /> : prices.error ? <ErrorNote error={prices.error} /> : prices.rows.length === 0 || prices.rows.every((book) => book.models.length === 0) ? <Empty title={t("limits.noPrices")}>{t("limits.noPricesText")}</Empty> : prices.rows.map((book) => (
          <div key={book.version} className="mb-5">
            <p className="mb-1 text-sm"><span className="font-medium">{t("limits.book", { version: book.version, currency: book.currency })}</span> <span className="text-faint">{book.valid_from.slice(0, 10)} – {book.valid_to?.slice(0, 10) ?? "…"} {book.note}</span></p>
            <Table label={t("limits.book", { version: book.version, currency: book.currency })} rows={book.models.flatMap((model) => (model.tiers ?? []).map((tier, index) => ({ ...tier, model: model.model, index })))} keyOf={(row) => `${row.model}${row.index}`} columns={[
              { head: t("usage.model"), wide: true, cell: (row) => row.model }, { head: t("limits.upTo"), right: true, hide: "sm", cell: (row) => (row.up_to ? formatCount(row.up_to) : "∞") },
              { head: t("limits.input"), right: true, cell: (row) => row.input }, { head: t("limits.cachedInput"), right: true, hide: "sm", cell: (row) => row.cached_input }, { head: t("limits.output"), right: true, cell: (row) => row.output },
            ]} />
          </div>
        ))}
        <More list={prices} />
      </Section>
      <Dialog open={adding !== null} onClose={() => setAdding(null)} title={adding ? t(`limits.add_${adding}`) : ""}>
        {adding && (
          <form className="space-y-4" onSubmit={(event) => {
            event.preventDefault();
            const form = new FormData(event.currentTarget);
            const text = (name: string) => String(form.get(name) ?? "").trim();
            const done = { onSuccess: () => setAdding(null) };
            if (adding === "budget") return write.mutate({ method: "POST", path: "/api/v1/budgets", body: { scope: text("scope"), period: text("period"), amount: text("amount"), block: form.get("block") === "on" } }, done);
            write.mutate({ method: "PUT", path: "/api/v1/limits", body: { scope: text("scope"), model: text("model") || "*", ...Object.fromEntries(numbers.filter((name) => text(name) !== "").map((name) => [name, Number(text(name))])) } }, done);
          }}>
            <Field label={t("limits.scope")}>{(id) => <ScopeSelect id={id} />}</Field>
            {adding === "limit" ? (
              <>
                <Field label={t("usage.model")} help={t("limits.modelHelp")}>{(id, note) => <Input id={id} aria-describedby={note} name="model" placeholder="*" />}</Field>
                <div className="grid grid-cols-2 gap-3">{numbers.map((name) => <Field key={name} label={t(`limits.${name}`)}>{(id) => <Input id={id} name={name} type="number" min={0} step={1} placeholder="–" />}</Field>)}</div>
              </>
            ) : (
              <>
                <div className="grid grid-cols-2 gap-3">
                  <Field label={t("usage.amount")}>{(id) => <Input id={id} name="amount" required inputMode="decimal" pattern="\d+(\.\d{1,9})?" placeholder="100.00" />}</Field>
                  <Field label={t("limits.period")}>{(id) => <Select id={id} name="period" defaultValue="month"><option value="month">{t("limits.month")}</option><option value="day">{t("limits.day")}</option></Select>}</Field>
                </div>
                <label className="flex items-center gap-2 text-sm"><input type="checkbox" name="block" defaultChecked className="accent-(--accent)" />{t("limits.block")}</label>
              </>
            )}
            {write.error && <ErrorNote error={write.error} />}
            <div className="flex justify-end gap-2"><Button onClick={() => setAdding(null)}>{t("common.cancel")}</Button><Button kind="primary" type="submit" busy={write.isPending}>{t("common.save")}</Button></div>
          </form>
        )}
      </Dialog>
      <Dialog open={pricing} onClose={() => setPricing(false)} title={t("prices.new")} wide>
        {pricing && <PriceBookForm current={(prices.data?.pages[0] as { current?: PriceBook } | undefined)?.current} busy={write.isPending} error={write.error} onClose={() => setPricing(false)}
          onSave={(book) => write.mutate({ method: "POST", path: "/api/v1/prices", body: book }, { onSuccess: () => { setPricing(false); void client.invalidateQueries({ queryKey: ["prices"] }); } })} />}
      </Dialog>
      <Confirm open={removing !== null} title={t("limits.removeTitle")} text={<><p className="font-mono text-xs">{removing?.text}</p><p className="mt-2">{t("limits.removeText")}</p></>} action={t("limits.remove")} busy={write.isPending} error={write.error}
        onClose={() => { setRemoving(null); write.reset(); }} onConfirm={() => removing && write.mutate(removing.write, { onSuccess: () => setRemoving(null) })} />
    </Page>
  );
}
