// A new version of the price book: what there is, changed; and what the month so far would have cost with it.
import { Layers, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import { useMutation } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { postJson } from "../api/client";
import type { PriceBook } from "../api/types";
import { useModels } from "../api/queries";
import { Button, ErrorNote, Field, IconButton, Input } from "../ui/kit";
import { amountsText } from "../ui/money";

// One tier of one model: what a prompt of at most so many tokens costs. An empty `upTo`: any longer one. Empty `cached` and
// `reasoning`: as input and output.
export interface PriceLine { model: string; upTo: string; input: string; cached: string; output: string; reasoning: string }

const decimal = /^\d+(\.\d{1,9})?$/;
const emptyLine: PriceLine = { model: "", upTo: "", input: "", cached: "", output: "", reasoning: "" };

// What a form of lines has no place for (prices of embeddings alone) has none, and stays as it is.
export function linesOf(book: PriceBook | undefined): PriceLine[] {
  return (book?.models ?? []).flatMap((one) => (one.tiers ?? []).map((tier) => ({
    model: one.model, upTo: tier.up_to ? String(tier.up_to) : "", input: tier.input, cached: tier.cached_input === tier.input ? "" : tier.cached_input, output: tier.output, reasoning: tier.reasoning_output === tier.output ? "" : tier.reasoning_output,
  })));
}
const lengthOf = (line: PriceLine) => (line.upTo.trim() === "" ? Infinity : Number(line.upTo));
export function bookOf(before: PriceBook | undefined, currency: string, note: string, lines: PriceLine[]): Record<string, unknown> {
  const byModel = new Map<string, PriceLine[]>();
  for (const line of lines) if (line.model.trim() !== "") byModel.set(line.model.trim(), [...(byModel.get(line.model.trim()) ?? []), line]);
  const kept = (before?.models ?? []).filter((one) => !one.tiers?.length && !byModel.has(one.model));
  return {
    currency: currency.trim(), ...(note.trim() ? { note: note.trim() } : {}), ...(before?.charge_failed ? { charge_failed: true } : {}), ...(before?.discounts?.length ? { discounts: before.discounts } : {}),
    models: [...kept, ...[...byModel].map(([model, own]) => ({
      ...before?.models.find((one) => one.model === model), model,
      tiers: [...own].sort((a, b) => lengthOf(a) - lengthOf(b)).map((line) => ({
        ...(line.upTo.trim() ? { up_to: Number(line.upTo) } : {}), input: line.input.trim(), output: line.output.trim(), ...(line.cached.trim() ? { cached_input: line.cached.trim() } : {}), ...(line.reasoning.trim() ? { reasoning_output: line.reasoning.trim() } : {}),
      })),
    }))],
  };
}
// One more tier of that line's model, below the one that goes on for ever.
export function withTier(lines: PriceLine[], index: number): PriceLine[] {
  const line = lines[index]!;
  const own = (one: PriceLine) => one.model.trim() === line.model.trim();
  const ends = lines.filter(own).map(lengthOf).filter((end) => Number.isFinite(end) && end > 0);
  const last = lines.findIndex((one) => own(one) && one.upTo.trim() === "");
  const at = last < 0 ? index + 1 : last;
  return [...lines.slice(0, at), { ...line, upTo: String(ends.length > 0 ? 2 * Math.max(...ends) : 32_768) }, ...lines.slice(at)];
}

// Every length of prompt has one price: exactly one line of a model goes on for ever, and no two end at the same length.
export function tierProblem(lines: PriceLine[]): { model: string; problem: "noEnd" | "twice" } | null {
  for (const model of new Set(lines.map((line) => line.model.trim()))) {
    const ends = lines.filter((line) => line.model.trim() === model).map(lengthOf);
    if (new Set(ends).size < ends.length) return { model, problem: "twice" };
    if (!ends.includes(Infinity)) return { model, problem: "noEnd" };
  }
  return null;
}

export function PriceBookForm({ current, busy, error, onSave, onClose }: { current: PriceBook | undefined; busy: boolean; error: unknown; onSave: (book: Record<string, unknown>) => void; onClose: () => void }) {
  const { t } = useTranslation();
  const models = useModels();
  const [currency, setCurrency] = useState(current?.currency ?? "USD");
  const [note, setNote] = useState("");
  const [lines, setLines] = useState<PriceLine[]>(() => { const known = linesOf(current); return known.length > 0 ? known : [{ ...emptyLine, model: "*" }]; });
  const dry = useMutation({ mutationFn: (book: Record<string, unknown>) => postJson("/api/v1/prices/dry_run", { book, month: new Date().toISOString().slice(0, 7) }) });
  const change = (index: number, next: Partial<PriceLine>) => { dry.reset(); setLines(lines.map((line, at) => (at === index ? { ...line, ...next } : line))); };
  const money = (text: string, needed: boolean) => (text.trim() === "" ? !needed : decimal.test(text.trim()));
  const whole = (text: string) => text.trim() === "" || (/^\d{1,15}$/.test(text.trim()) && Number(text) > 0);
  const wellFormed = lines.every((line) => line.model.trim() !== "" && whole(line.upTo) && money(line.input, true) && money(line.output, true) && money(line.cached, false) && money(line.reasoning, false));
  const problem = wellFormed ? tierProblem(lines) : null;
  const good = /^[A-Za-z]{3}$/.test(currency.trim()) && wellFormed && problem === null;
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
        <table className="w-full min-w-[40rem] text-sm">
          <thead><tr className="text-left text-xs text-faint">{[t("usage.model"), t("limits.upTo"), t("limits.input"), t("limits.cachedInput"), t("limits.output"), t("prices.reasoning"), ""].map((head) => <th key={head} scope="col" className="pb-1 pr-2 font-medium">{head}</th>)}</tr></thead>
          <tbody>
            {lines.map((line, index) => (
              <tr key={index}>
                <td className="pr-2 pb-2"><Input aria-label={`${t("usage.model")} ${index + 1}`} list="priced-models" value={line.model} onChange={(event) => change(index, { model: event.target.value })} /></td>
                <td className="w-24 pr-2 pb-2"><Input aria-label={`${t("limits.upTo")} ${index + 1}`} inputMode="numeric" placeholder="∞" aria-invalid={!whole(line.upTo)} value={line.upTo} onChange={(event) => change(index, { upTo: event.target.value })} /></td>
                {([["input", t("limits.input"), "0.00"], ["cached", t("limits.cachedInput"), line.input], ["output", t("limits.output"), "0.00"], ["reasoning", t("prices.reasoning"), line.output]] as const).map(([name, label, placeholder]) => (
                  <td key={name} className="w-22 pr-2 pb-2"><Input aria-label={`${label} ${index + 1}`} inputMode="decimal" placeholder={placeholder} aria-invalid={!money(line[name], false)} value={line[name]} onChange={(event) => change(index, { [name]: event.target.value })} /></td>
                ))}
                <td className="w-16 pb-2 whitespace-nowrap">
                  <IconButton label={t("prices.addTier", { model: line.model })} disabled={line.model.trim() === ""} onClick={() => { dry.reset(); setLines(withTier(lines, index)); }}><Layers /></IconButton>
                  <IconButton label={t("prices.removeLine", { model: line.model })} disabled={lines.length === 1} onClick={() => { dry.reset(); setLines(lines.filter((_, at) => at !== index)); }}><Trash2 /></IconButton>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p className="text-xs text-faint">{t("prices.tierHelp")}</p>
      {problem && <p role="alert" className="text-sm text-bad">{t(problem.problem === "twice" ? "prices.tierTwice" : "prices.tierNoEnd", { model: problem.model })}</p>}
      <Button onClick={() => setLines([...lines, emptyLine])}><Plus className="size-4" aria-hidden />{t("prices.addLine")}</Button>
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
