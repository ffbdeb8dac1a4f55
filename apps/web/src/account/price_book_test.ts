import { expect, test } from "vitest";
import type { PriceBook } from "../api/types";
import { bookOf, formOf, linesOf, modelsOf, tierProblem, withTier, type PriceLine } from "./price_book";

const tier = (input: string, output: string, more = {}) => ({ input, cached_input: input, output, reasoning_output: output, ...more });
const book = {
  version: 3, currency: "EUR", valid_from: "", valid_to: null, charge_failed: true, discounts: [{ organisation: "o", factor: "0.5" }],
  models: [{ model: "a", tiers: [tier("1", "2", { cached_input: "0.5", reasoning_output: "9" })], minimum_charge: "0.01" }, { model: "b", tiers: [tier("1", "2", { up_to: 1000 }), tier("3", "4")] }],
} as PriceBook;

const line = (model: string, upTo: string, input: string, output: string, more: Partial<PriceLine> = {}): PriceLine => ({ model, upTo, input, cached: "", output, reasoning: "", ...more });

test("a line is a tier, and what has no line stays", () => {
  const embeds = { model: "e", embedding: "0.1" };
  const before = { ...book, models: [...book.models, embeds] } as PriceBook;
  const lines = linesOf(before);
  expect(lines).toEqual([line("a", "", "1", "2", { cached: "0.5", reasoning: "9" }), line("b", "1000", "1", "2"), line("b", "", "3", "4")]);
  // Nothing changed: the same book, where a price that is as another's need not be said.
  expect(bookOf(formOf(before)).models).toEqual([embeds, { model: "a", minimum_charge: "0.01", tiers: [{ input: "1", output: "2", cached_input: "0.5", reasoning_output: "9" }] }, { model: "b", tiers: [{ up_to: 1000, input: "1", output: "2" }, { input: "3", output: "4" }] }]);
  expect(bookOf({ ...formOf(before), note: " up ", lines: [line("a", "", "7", "2"), line("c", "", "1", "1"), line(" ", "", "", "")] })).toEqual({
    currency: "EUR", note: "up", charge_failed: true, discounts: book.discounts,
    models: [embeds, { model: "a", minimum_charge: "0.01", tiers: [{ input: "7", output: "2" }] }, { model: "c", tiers: [{ input: "1", output: "1" }] }],
  });
  expect(linesOf(undefined)).toEqual([]);
});

test("dates, discounts, embeddings, factors and minimums are written, and what is empty is not", () => {
  const rest = { "*": { embedding: " 0.1 ", batch_factor: "0.5", minimum_charge: "" }, e: { embedding: "2", batch_factor: "", minimum_charge: "" }, gone: { embedding: "", batch_factor: "0.5", minimum_charge: "" } };
  const form = { ...formOf(undefined), from: "2027-01-01", chargeFailed: true, lines: [line("*", "", "1", "1")], discounts: [{ organisation: "o", factor: "0.8" }, { organisation: "", factor: "x" }], rest };
  expect(modelsOf(form)).toEqual(["e", "*"]);
  expect(bookOf(form)).toEqual({
    currency: "USD", valid_from: "2027-01-01T00:00:00Z", charge_failed: true, discounts: [{ organisation: "o", factor: "0.8" }],
    models: [{ model: "e", embedding: "2" }, { model: "*", embedding: "0.1", batch_factor: "0.5", tiers: [{ input: "1", output: "1" }] }],
  });
});

test("tiers go by length, and every length has one price", () => {
  const lines = [line("m", "", "3", "3"), line("m", "8000", "2", "2"), line("m", "1000", "1", "1")];
  expect(tierProblem(lines)).toBeNull();
  expect((bookOf({ ...formOf(undefined), lines }).models as { tiers: { up_to?: number }[] }[])[0]!.tiers.map((one) => one.up_to)).toEqual([1000, 8000, undefined]);
  expect(tierProblem(lines.slice(1))).toEqual({ model: "m", problem: "noEnd" });
  expect(tierProblem([...lines, line("m", "1000", "1", "1")])).toEqual({ model: "m", problem: "twice" });
  const more = withTier(lines, 0);
  expect(more.map((one) => one.upTo)).toEqual(["16000", "", "8000", "1000"]);
  expect(tierProblem(more)).toBeNull();
  expect(withTier([line("n", "", "1", "1")], 0).map((one) => one.upTo)).toEqual(["32768", ""]);
});
