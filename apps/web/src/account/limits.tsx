import { useQueryClient } from "@tanstack/react-query";
import { Pencil, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Budget, Limit, PriceBook } from "../api/types";
import { useMay } from "../shell/session";
import { formatCount, grouped } from "../ui/format";
import { Ago, Badge, Button, Confirm, Dialog, Empty, ErrorNote, IconButton, Loading, Meter, More, Page, Section, Table } from "../ui/kit";
import { useCursorList, useWrite, type Write } from "./lists";
import { BudgetForm, limitNumbers, LimitForm, ScopeName } from "./limit_forms";
import { useNames } from "./names";
import { PriceBookForm } from "./price_book";
import { WebhookSection } from "./webhook";

export function LimitsPage() {
  const { t } = useTranslation();
  const admin = useMay("workspace_admin");
  const operator = useMay("operator");
  const organisationAdmin = useMay("admin");
  const client = useQueryClient();
  const limits = useCursorList("/api/v1/limits");
  const quotas = useCursorList("/api/v1/quotas");
  const budgets = useCursorList("/api/v1/budgets");
  const prices = useCursorList("/api/v1/prices");
  const write = useWrite(["/api/v1/limits", "/api/v1/quotas", "/api/v1/budgets", "/api/v1/prices"]);
  const [pricing, setPricing] = useState(false);
  const [adding, setAdding] = useState<{ what: "limit"; old: Limit | null } | { what: "budget"; old: Budget | null } | null>(null);
  const names = useNames();
  const [removing, setRemoving] = useState<{ text: string; write: Write } | null>(null);
  const add = (what: "limit" | "budget") => admin && <Button onClick={() => { write.reset(); setAdding({ what, old: null }); }}><Plus className="size-4" aria-hidden />{t(`limits.add_${what}`)}</Button>;
  const share = (budget: Budget) => (Number(budget.amount) > 0 ? Number(budget.spent) / Number(budget.amount) : 0);
  return (
    <Page title={t("nav.limits")} lead={t("limits.lead")}>
      {write.error && !adding && !removing && !pricing && <div className="mb-3"><ErrorNote error={write.error} /></div>}
      <Section title={t("limits.limits")} actions={add("limit")}>
        {limits.isPending ? <Loading /> : limits.error ? <ErrorNote error={limits.error} retry={() => void limits.refetch()} /> : limits.rows.length === 0 ? <Empty title={t("limits.noLimits")}>{t("limits.noLimitsText")}</Empty> : (
          <Table label={t("limits.limits")} rows={limits.rows} keyOf={(one) => `${one.scope} ${one.model}`} columns={[
            { head: t("limits.scope"), wide: true, cell: (one) => <ScopeName scope={one.scope} names={names} /> },
            { head: t("usage.model"), cell: (one) => <span className="block max-w-28 truncate sm:max-w-64" title={one.model}>{one.model === "*" ? t("limits.allModels") : one.model}</span> },
            ...limitNumbers.map((name, index) => ({ head: t(`limits.${name}`), right: true, ...(index > 2 ? { hide: "lg" as const } : index > 0 ? { hide: "md" as const } : {}), cell: (one: Limit) => (one[name] === null ? "–" : formatCount(one[name]!)) })),
            { head: t("limits.burst_s"), right: true, hide: "lg", cell: (one) => `${one.burst_s} s` },
            { head: "", right: true, cell: (one) => admin && <span className="inline-flex"><IconButton label={t("limits.change_limit")} onClick={() => { write.reset(); setAdding({ what: "limit", old: one }); }}><Pencil /></IconButton><IconButton label={t("limits.remove")} onClick={() => setRemoving({ text: `${one.scope} · ${one.model}`, write: { method: "DELETE", path: `/api/v1/limits?${new URLSearchParams({ scope: one.scope, model: one.model })}` } })}><Trash2 /></IconButton></span> },
          ]} />
        )}
        <More list={limits} />
      </Section>
      <Section title={t("limits.quotas")} note={t("limits.quotasNote")}>
        {quotas.isPending ? <Loading /> : quotas.error ? <ErrorNote error={quotas.error} retry={() => void quotas.refetch()} /> : quotas.rows.length === 0 ? <Empty title={t("limits.noQuotas")}>{t("limits.noQuotasText")}</Empty> : (
          <Table label={t("limits.quotas")} rows={quotas.rows} keyOf={(one) => one.model} columns={[
            { head: t("usage.model"), wide: true, cell: (one) => <span className="block min-w-28 truncate">{one.model}</span> },
            { head: t("limits.left"), cell: (one) => one.used === null || one.remaining === null
              ? <div className="w-40 text-xs text-faint"><Badge tone={one.state === "ok" ? "good" : one.state === "low" ? "warn" : "bad"}>{t(`limits.quota_${one.state}`)}</Badge> {t("limits.usedHere", { amount: formatCount(one.workspace_used) })}</div>
              : <div className="w-40"><div className="mb-1 text-xs text-faint">{grouped(one.remaining)} / {formatCount(one.total)}</div><Meter value={one.used} max={one.total} label={t("limits.usedOf", { model: one.model })} /></div> },
            { head: t("keys.expires"), hide: "sm", cell: (one) => <Ago at={one.expires_at} /> },
            { head: t("limits.stop"), right: true, cell: (one) => <input type="checkbox" className="accent-(--accent)" aria-label={t("limits.stopAt", { model: one.model })} checked={one.stop_when_exhausted} disabled={!admin || write.isPending}
              onChange={(event) => write.mutate({ method: "PUT", path: "/api/v1/quotas", body: { model: one.model, stop_when_exhausted: event.target.checked } })} /> },
          ]} />
        )}
        <More list={quotas} />
      </Section>
      <Section title={t("limits.budgets")} actions={add("budget")}>
        {budgets.isPending ? <Loading /> : budgets.error ? <ErrorNote error={budgets.error} retry={() => void budgets.refetch()} /> : budgets.rows.length === 0 ? <Empty title={t("limits.noBudgets")}>{t("limits.noBudgetsText")}</Empty> : (
          <Table label={t("limits.budgets")} rows={budgets.rows} keyOf={(one) => one.id} columns={[
            { head: t("limits.scope"), wide: true, cell: (one) => <ScopeName scope={one.scope} names={names} /> },
            { head: t("limits.period"), hide: "sm", cell: (one) => t(one.period === "day" ? "limits.day" : "limits.month") },
            { head: t("limits.spent"), cell: (one) => one.spent === null ? <span className="text-xs text-faint">{one.amount} {one.currency}</span> : <div className="w-28 sm:w-40"><div className="mb-1 text-xs whitespace-normal text-faint [overflow-wrap:anywhere]">{one.spent} / {one.amount} {one.currency}{Object.entries(one.not_counted ?? {}).map(([currency, amount]) => <span key={currency} className="block">{t("limits.notCounted", { amount: `${amount} ${currency}` })}</span>)}</div><Meter value={share(one)} max={1} label={t("limits.spentOf", { scope: one.scope })} /></div> },
            { head: t("limits.then"), hide: "sm", cell: (one) => <Badge tone={one.block ? "warn" : "neutral"}>{t(one.block ? "limits.blocks" : "limits.tells")}</Badge> },
            { head: "", right: true, cell: (one) => admin && <span className="inline-flex"><IconButton label={t("limits.change_budget")} onClick={() => { write.reset(); setAdding({ what: "budget", old: one }); }}><Pencil /></IconButton><IconButton label={t("limits.remove")} onClick={() => setRemoving({ text: one.scope, write: { method: "DELETE", path: `/api/v1/budgets/${one.id}` } })}><Trash2 /></IconButton></span> },
          ]} />
        )}
        <More list={budgets} />
      </Section>
      {organisationAdmin && <WebhookSection />}
      <Section title={t("limits.prices")} note={t("limits.pricesNote")} actions={operator && prices.isSuccess && <Button onClick={() => { write.reset(); setPricing(true); }}><Plus className="size-4" aria-hidden />{t("prices.new")}</Button>}>
        {prices.isPending ? <Loading /> : prices.error ? <ErrorNote error={prices.error} retry={() => void prices.refetch()} /> : prices.rows.length === 0 || prices.rows.every((book) => book.models.length === 0) ? <Empty title={t("limits.noPrices")}>{t("limits.noPricesText")}</Empty> : prices.rows.map((book) => (
          <div key={book.version} className="mb-5">
            <p className="mb-1 text-sm"><span className="font-medium">{t("limits.book", { version: book.version, currency: book.currency })}</span> <span className="text-faint">{book.valid_from.slice(0, 10)} – {book.valid_to?.slice(0, 10) ?? "…"} {book.note}</span></p>
            <Table label={t("limits.book", { version: book.version, currency: book.currency })} rows={book.models.flatMap((model) => [
              ...(model.tiers ?? []).map((tier, index) => ({ ...tier, model: model.model, index })), ...(model.embedding === undefined ? [] : [{ input: model.embedding, cached_input: "–", output: "–", up_to: undefined, model: `${model.model} · ${t("prices.embedding")}`, index: -1 }]),
            ])} keyOf={(row) => `${row.model}${row.index}`} columns={[
              { head: t("usage.model"), wide: true, cell: (row) => row.model }, { head: t("limits.upTo"), right: true, hide: "sm", cell: (row) => (row.up_to ? formatCount(row.up_to) : "∞") },
              { head: t("limits.input"), right: true, cell: (row) => row.input }, { head: t("limits.cachedInput"), right: true, hide: "sm", cell: (row) => row.cached_input }, { head: t("limits.output"), right: true, cell: (row) => row.output },
            ]} />
          </div>
        ))}
        <More list={prices} />
      </Section>
      <Dialog open={adding !== null} onClose={() => setAdding(null)} title={adding ? t(`limits.${adding.old ? "change" : "add"}_${adding.what}`) : ""}>
        {adding?.what === "limit" && <LimitForm old={adding.old} names={names} busy={write.isPending} error={write.error} onClose={() => setAdding(null)}
          onSave={(body) => write.mutate({ method: "PUT", path: "/api/v1/limits", body }, { onSuccess: () => setAdding(null) })} />}
        {adding?.what === "budget" && <BudgetForm old={adding.old} names={names} busy={write.isPending} error={write.error} onClose={() => setAdding(null)}
          onSave={(body) => write.mutate(adding.old ? { method: "PUT", path: `/api/v1/budgets/${adding.old.id}`, body } : { method: "POST", path: "/api/v1/budgets", body }, { onSuccess: () => setAdding(null) })} />}
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
