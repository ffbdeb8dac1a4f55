// A new version of the price book: what there is, changed; and what the month so far would have cost with it.
import { Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import { useMutation } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { postJson } from "../api/client";
import { useModels } from "../api/queries";
import { Button, ErrorNote, Field, IconButton, Input } from "../ui/kit";
import { amountsText } from "../ui/money";

export interface Tier { up_to?: number; input: string; cached_input: string; output: string; reasoning_output: string }
export interface PricedModel { model: string; tiers?: Tier[] }
export interface PriceBook { version: number; currency: string; valid_from: string; valid_to: string | null; note?: string; models: PricedModel[]; charge_failed?: boolean; discounts?: unknown[] }
export interface PriceLine { model: string; input: string; cached: string; output: string }
interface DryRun { requests: number; was_by_currency: Record<string, string>; would_be: string }

const decimal = /^\d+(\.\d{1,9})?$/;

// Models with several tiers, and whatever else a form of one line has no place for, stay as they are.
export function linesOf(book: PriceBook | undefined): PriceLine[] {
  return (book?.models ?? []).filter((one) => one.tiers?.length === 1).map((one) => {
    const tier = one.tiers![0]!;
    return { model: one.model, input: tier.input, cached: tier.cached_input === tier.input ? "" : tier.cached_input, output: tier.output };
  });
}
export function bookOf(before: PriceBook | undefined, currency: string, note: string, lines: PriceLine[]): Record<string, unknown> {
  const edited = lines.filter((line) => line.model.trim() !== "");
  const kept = (before?.models ?? []).filter((one) => one.tiers?.length !== 1 && !edited.some((line) => line.model.trim() === one.model));
  return {
    currency: currency.trim(), ...(note.trim() ? { note: note.trim() } : {}), ...(before?.charge_failed ? { charge_failed: true } : {}), ...(before?.discounts?.length ? { discounts: before.discounts } : {}),
    models: [...kept, ...edited.map((line) => {
      const old = before?.models.find((one) => one.model === line.model.trim() && one.tiers?.length === 1);
      const tier = { input: line.input.trim(), output: line.output.trim(), ...(line.cached.trim() ? { cached_input: line.cached.trim() } : {}), ...(old?.tiers![0]!.reasoning_output && old.tiers![0]!.reasoning_output !== old.tiers![0]!.output ? { reasoning_output: old.tiers![0]!.reasoning_output } : {}) };
      return { ...old, model: line.model.trim(), tiers: [tier] };
    })],
  };
}

export function PriceBookForm({ current, busy, error, onSave, onClose }: { current: PriceBook | undefined; busy: boolean; error: unknown; onSave: (book: Record<string, unknown>) => void; onClose: () => void }) {
  const { t } = useTranslation();
  const models = useModels();
  const [currency, setCurrency] = useState(current?.currency ?? "USD");
  const [note, setNote] = useState("");
  const [lines, setLines] = useState<PriceLine[]>(() => { const known = linesOf(current); return known.length > 0 ? known : [{ model: "*", input: "", cached: "", output: "" }]; });
  const dry = useMutation({ mutationFn: (book: Record<string, unknown>) => postJson<DryRun>("/api/v1/prices/dry_run", { book, month: new Date().toISOString().slice(0, 7) }) });
  const change = (index: number, next: Partial<PriceLine>) => { dry.reset(); setLines(lines.map((line, at) => (at === index ? { ...line, ...next } : line))); };
  const good = /^[A-Za-z]{3}$/.test(currency.trim()) && lines.every((line) => line.model.trim() !== "" && decimal.test(line.input.trim()) && decimal.test(line.output.trim()) && (line.cached.trim() === "" || decimal.test(line.cached.trim())));
  const book = bookOf(current, currency, note, lines);
  return (
    <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); if (good) onSave(book); }}>
      <p className="text-sm text-soft">{t("prices.text")}</p>
      <div className="grid grid-cols-[6rem_minmax(0,1fr)] gap-3">
        <Field label={t("prices.currency")}>{(id) => <Input id={id} value={currency} maxLength={3} required onChange={(event) => setCurrency(event.target.value)} />}</Field>
        <Field label={t("prices.note")}>{(id) => <Input id={id} value={note} maxLength={1000} onChange={(event) => setNote(event.target.value)} />}</Field>
      </div>
      <datalist id="priced-models">{["*", ...(models.data ?? []).map((model) => model.id ?? "")].map((id) => <option key={id} value={id} />)}</datalist>
      <div className="overflow-x-auto" tabIndex={0} role="region" aria-label={t("limits.prices")}>
        <table className="w-full min-w-[34rem] text-sm">
          <thead><tr className="text-left text-xs text-faint">{[t("usage.model"), t("limits.input"), t("limits.cachedInput"), t("limits.output"), ""].map((head) => <th key={head} scope="col" className="pb-1 pr-2 font-medium">{head}</th>)}</tr></thead>
          <tbody>
            {lines.map((line, index) => (
              <tr key={index}>
                <td className="pr-2 pb-2"><Input aria-label={`${t("usage.model")} ${index + 1}`} list="priced-models" value={line.model} onChange={(event) => change(index, { model: event.target.value })} /></td>
                {(["input", "cached", "output"] as const).map((name) => (
                  <td key={name} className="w-28 pr-2 pb-2"><Input aria-label={`${t(name === "cached" ? "limits.cachedInput" : `limits.${name}`)} ${index + 1}`} inputMode="decimal" placeholder={name === "cached" ? line.input : "0.00"} aria-invalid={line[name].trim() !== "" && !decimal.test(line[name].trim())} value={line[name]} onChange={(event) => change(index, { [name]: event.target.value })} /></td>
                ))}
                <td className="w-8 pb-2"><IconButton label={t("prices.removeLine", { model: line.model })} disabled={lines.length === 1} onClick={() => setLines(lines.filter((_, at) => at !== index))}><Trash2 /></IconButton></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Button onClick={() => setLines([...lines, { model: "", input: "", cached: "", output: "" }])}><Plus className="size-4" aria-hidden />{t("prices.addLine")}</Button>
      {dry.data && <p role="status" className="rounded-md bg-sunken px-3 py-2 text-sm">{t("prices.wouldBe", { requests: dry.data.requests, was: amountsText([{ amount_by_currency: dry.data.was_by_currency }]), amount: dry.data.would_be, currency: currency.toUpperCase() })}</p>}
      {dry.error && <ErrorNote error={dry.error} />}
      {error != null && <ErrorNote error={error} />}
      <div className="flex flex-wrap justify-end gap-2">
        <Button kind="quiet" className="mr-auto" disabled={!good} busy={dry.isPending} onClick={() => dry.mutate(book)}>{t("prices.try")}</Button>
        <Button onClick={onClose}>{t("common.cancel")}</Button><Button kind="primary" type="submit" disabled={!good} busy={busy}>{t("prices.save")}</Button>
      </div>
    </form>
  );
}
