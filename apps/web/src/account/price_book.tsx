// A new version of the price book: what there is, changed; and what the month so far would have cost with it.
import { Layers, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import { useMutation } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { postJson } from "../api/client";
import type { PriceBook } from "../api/types";
import { useModels } from "../api/queries";
import { Button, ErrorNote, Field, IconButton, Input, Select } from "../ui/kit";
import { amountsText } from "../ui/money";
import { useCursorList } from "./lists";

// One tier of one model: what a prompt of at most so many tokens costs. An empty `upTo`: any longer one. Empty `cached` and
// `reasoning`: as input and output.
export interface PriceLine { model: string; upTo: string; input: string; cached: string; output: string; reasoning: string }

// What a model's prices have beside their tiers. Empty: no price of its own for embeddings, a factor of 1, no minimum.
export interface ModelRest { embedding: string; batch_factor: string; minimum_charge: string }
export interface Discount { organisation: string; factor: string }
// A book as it is written in the form. `from`: a day in UTC; empty: at once.
export interface BookForm { currency: string; note: string; from: string; chargeFailed: boolean; lines: PriceLine[]; rest: Record<string, ModelRest>; discounts: Discount[] }

const decimal = /^\d+(\.\d{1,9})?$/;
const emptyLine: PriceLine = { model: "", upTo: "", input: "", cached: "", output: "", reasoning: "" };

// A model with a price of embeddings alone has no line.
export function linesOf(book: PriceBook | undefined): PriceLine[] {
  return (book?.models ?? []).flatMap((one) => (one.tiers ?? []).map((tier) => ({
    model: one.model, upTo: tier.up_to ? String(tier.up_to) : "", input: tier.input, cached: tier.cached_input === tier.input ? "" : tier.cached_input, output: tier.output, reasoning: tier.reasoning_output === tier.output ? "" : tier.reasoning_output,
  })));
}
const lengthOf = (line: PriceLine) => (line.upTo.trim() === "" ? Infinity : Number(line.upTo));
const noRest: ModelRest = { embedding: "", batch_factor: "", minimum_charge: "" };
export function formOf(book: PriceBook | undefined): BookForm {
  return {
    currency: book?.currency ?? "USD", note: "", from: "", chargeFailed: book?.charge_failed ?? false, lines: linesOf(book), discounts: (book?.discounts ?? []).map((one) => ({ ...one })),
    rest: Object.fromEntries((book?.models ?? []).map((one) => [one.model, { embedding: one.embedding ?? "", batch_factor: Number(one.batch_factor ?? 1) === 1 ? "" : one.batch_factor, minimum_charge: Number(one.minimum_charge ?? 0) === 0 ? "" : one.minimum_charge }])),
  };
}
// The models of a form: those with lines, and those with a price of embeddings alone.
export function modelsOf({ lines, rest }: Pick<BookForm, "lines" | "rest">): string[] {
  const lined = lines.map((line) => line.model.trim()).filter(Boolean);
  return [...new Set([...Object.keys(rest).filter((model) => rest[model]!.embedding.trim() !== "" && !lined.includes(model)), ...lined])];
}
export function bookOf(form: BookForm): Record<string, unknown> {
  const discounts = form.discounts.filter((one) => one.organisation !== "");
  return {
    currency: form.currency.trim(), ...(form.note.trim() ? { note: form.note.trim() } : {}), ...(form.from ? { valid_from: `${form.from}T00:00:00Z` } : {}), ...(form.chargeFailed ? { charge_failed: true } : {}),
    ...(discounts.length > 0 ? { discounts: discounts.map((one) => ({ ...one, factor: one.factor.trim() })) } : {}),
    models: modelsOf(form).map((model) => {
      const own = form.lines.filter((line) => line.model.trim() === model).sort((a, b) => lengthOf(a) - lengthOf(b));
      const tiers = own.map((line) => ({
        ...(line.upTo.trim() ? { up_to: Number(line.upTo) } : {}), input: line.input.trim(), output: line.output.trim(), ...(line.cached.trim() ? { cached_input: line.cached.trim() } : {}), ...(line.reasoning.trim() ? { reasoning_output: line.reasoning.trim() } : {}),
      }));
      const rest = Object.entries(form.rest[model] ?? noRest).map(([name, text]) => [name, text.trim()] as const).filter(([, text]) => text !== "");
      return { model, ...Object.fromEntries(rest), ...(tiers.length > 0 ? { tiers } : {}) };
    }),
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

const isDiscount = (text: string) => decimal.test(text.trim()) && Number(text) <= 1;

// What most books have nothing of: a day in the future, discounts, prices of embeddings, of batches, and least charges.
function RestOfBook({ form, set }: { form: BookForm; set: (next: Partial<BookForm>) => void }) {
  const { t } = useTranslation();
  const organisations = useCursorList("/api/v1/organisations", {}, { limit: 1000 });
  const [open] = useState(form.chargeFailed || form.discounts.length > 0 || Object.values(form.rest).some((one) => Object.values(one).some((text) => text !== "")));
  // A row stays while its field is empty between two prices.
  const [alone] = useState(() => modelsOf({ lines: [], rest: form.rest }));
  const discount = (index: number, next: Partial<Discount>) => set({ discounts: form.discounts.map((one, at) => (at === index ? { ...one, ...next } : one)) });
  const known = organisations.rows.map((one): [string, string] => [one.id, one.name]);
  return (
    <details className="rounded-md border border-line" open={open}>
      <summary className="cursor-pointer px-3 py-2 text-sm font-medium">{t("prices.rest")}</summary>
      <div className="space-y-4 border-t border-line p-3">
        <div className="grid grid-cols-1 items-start gap-3 sm:grid-cols-2">
          <Field label={t("prices.from")} help={t("prices.fromHelp")}>{(id, help) => <Input id={id} aria-describedby={help} type="date" value={form.from} onChange={(event) => set({ from: event.target.value })} />}</Field>
          <label className="flex items-center gap-2 text-sm sm:pt-7"><input type="checkbox" className="accent-(--accent)" checked={form.chargeFailed} onChange={(event) => set({ chargeFailed: event.target.checked })} />{t("prices.chargeFailed")}</label>
        </div>
        <div className="overflow-x-auto" tabIndex={0} role="region" aria-label={t("prices.byModel")}>
          <table className="w-full min-w-[30rem] text-sm">
            <thead><tr className="text-left text-xs text-faint">{[t("usage.model"), t("prices.embedding"), t("prices.batch"), t("prices.minimum")].map((head) => <th key={head} scope="col" className="pr-2 pb-1 font-medium">{head}</th>)}</tr></thead>
            <tbody>
              {[...new Set([...alone, ...modelsOf(form)])].map((model) => (
                <tr key={model}>
                  <th scope="row" className="max-w-48 truncate pr-2 pb-2 text-left font-normal" title={model}>{model}</th>
                  {([["embedding", t("prices.embedding"), t("limits.input")], ["batch_factor", t("prices.batch"), "1"], ["minimum_charge", t("prices.minimum"), "0.00"]] as const).map(([name, label, placeholder]) => {
                    const value = form.rest[model]?.[name] ?? "";
                    return <td key={name} className="w-28 pr-2 pb-2"><Input aria-label={`${label}: ${model}`} inputMode="decimal" placeholder={placeholder} aria-invalid={value.trim() !== "" && !decimal.test(value.trim())} value={value} onChange={(event) => set({ rest: { ...form.rest, [model]: { ...noRest, ...form.rest[model], [name]: event.target.value } } })} /></td>;
                  })}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        <div>
          {form.discounts.map((one, index) => (
            <div key={index} className="mb-2 flex items-center gap-2">
              <Select className="w-60 min-w-0" aria-label={t("prices.discountOf", { index: index + 1 })} value={one.organisation} onChange={(event) => discount(index, { organisation: event.target.value })}>
                <option value="">–</option>{(one.organisation && !known.some(([id]) => id === one.organisation) ? [...known, [one.organisation, one.organisation]] : known).map(([id, name]) => <option key={id} value={id}>{name}</option>)}
              </Select>
              <span className="text-sm text-faint">×</span>
              <Input className="w-24" aria-label={t("prices.factor", { index: index + 1 })} inputMode="decimal" placeholder="0.8" aria-invalid={one.organisation !== "" && !isDiscount(one.factor)} value={one.factor} onChange={(event) => discount(index, { factor: event.target.value })} />
              <IconButton label={t("prices.removeDiscount", { index: index + 1 })} onClick={() => set({ discounts: form.discounts.filter((_, at) => at !== index) })}><Trash2 /></IconButton>
            </div>
          ))}
          <Button onClick={() => set({ discounts: [...form.discounts, { organisation: "", factor: "" }] })}><Plus className="size-4" aria-hidden />{t("prices.addDiscount")}</Button>
          <p className="mt-1 text-xs text-faint">{t("prices.discountHelp")}</p>
        </div>
      </div>
    </details>
  );
}

export function PriceBookForm({ current, busy, error, onSave, onClose }: { current: PriceBook | undefined; busy: boolean; error: unknown; onSave: (book: Record<string, unknown>) => void; onClose: () => void }) {
  const { t } = useTranslation();
  const models = useModels();
  const [form, setForm] = useState<BookForm>(() => { const known = formOf(current); return modelsOf(known).length > 0 ? known : { ...known, lines: [{ ...emptyLine, model: "*" }] }; });
  const { currency, note, lines } = form;
  const dry = useMutation({ mutationFn: (book: Record<string, unknown>) => postJson("/api/v1/prices/dry_run", { book, month: new Date().toISOString().slice(0, 7) }) });
  const set = (next: Partial<BookForm>) => { dry.reset(); setForm((old) => ({ ...old, ...next })); };
  const change = (index: number, next: Partial<PriceLine>) => set({ lines: lines.map((line, at) => (at === index ? { ...line, ...next } : line)) });
  const money = (text: string, needed: boolean) => (text.trim() === "" ? !needed : decimal.test(text.trim()));
  const whole = (text: string) => text.trim() === "" || (/^\d{1,15}$/.test(text.trim()) && Number(text) > 0);
  const wellFormed = lines.every((line) => line.model.trim() !== "" && whole(line.upTo) && money(line.input, true) && money(line.output, true) && money(line.cached, false) && money(line.reasoning, false));
  const problem = wellFormed ? tierProblem(lines) : null;
  const restGood = Object.values(form.rest).every((one) => Object.values(one).every((text) => money(text, false))) && form.discounts.every((one) => one.organisation === "" || isDiscount(one.factor));
  const good = /^[A-Za-z]{3}$/.test(currency.trim()) && wellFormed && problem === null && restGood;
  const book = bookOf(form);
  return (
    <form className="space-y-4" onSubmit={(event) => { event.preventDefault(); if (good) onSave(book); }}>
      <p className="text-sm text-soft">{t("prices.text")}</p>
      <div className="grid grid-cols-[6rem_minmax(0,1fr)] gap-3">
        <Field label={t("prices.currency")}>{(id) => <Input id={id} value={currency} maxLength={3} required onChange={(event) => set({ currency: event.target.value })} />}</Field>
        <Field label={t("prices.note")}>{(id) => <Input id={id} value={note} maxLength={1000} onChange={(event) => set({ note: event.target.value })} />}</Field>
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
                  <IconButton label={t("prices.addTier", { model: line.model })} disabled={line.model.trim() === ""} onClick={() => set({ lines: withTier(lines, index) })}><Layers /></IconButton>
                  <IconButton label={t("prices.removeLine", { model: line.model })} disabled={lines.length === 1} onClick={() => set({ lines: lines.filter((_, at) => at !== index) })}><Trash2 /></IconButton>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p className="text-xs text-faint">{t("prices.tierHelp")}</p>
      {problem && <p role="alert" className="text-sm text-bad">{t(problem.problem === "twice" ? "prices.tierTwice" : "prices.tierNoEnd", { model: problem.model })}</p>}
      <Button onClick={() => set({ lines: [...lines, emptyLine] })}><Plus className="size-4" aria-hidden />{t("prices.addLine")}</Button>
      <RestOfBook form={form} set={set} />
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
