import { expect, test } from "vitest";
import type { PriceBook } from "../api/types";
import { bookOf, linesOf } from "./price_book";

const tier = (input: string, output: string, more = {}) => ({ input, cached_input: input, output, reasoning_output: output, ...more });
const book = {
  version: 3, currency: "EUR", valid_from: "", valid_to: null, charge_failed: true, discounts: [{ organisation: "o", factor: "0.5" }],
  models: [{ model: "a", tiers: [tier("1", "2", { cached_input: "0.5", reasoning_output: "9" })], minimum_charge: "0.01" }, { model: "b", tiers: [tier("1", "2", { up_to: 1000 }), tier("3", "4")] }],
} as PriceBook;

test("a line is changed, and what has no line stays", () => {
  expect(linesOf(book)).toEqual([{ model: "a", input: "1", cached: "0.5", output: "2" }]);
  expect(bookOf(book, "EUR", " up ", [{ model: "a", input: "7", cached: "", output: "2" }, { model: "c", input: "1", cached: "", output: "1" }, { model: " ", input: "", cached: "", output: "" }])).toEqual({
    currency: "EUR", note: "up", charge_failed: true, discounts: book.discounts,
    models: [book.models[1], { model: "a", minimum_charge: "0.01", tiers: [{ input: "7", output: "2", reasoning_output: "9" }] }, { model: "c", tiers: [{ input: "1", output: "1" }] }],
  });
  expect(linesOf(undefined)).toEqual([]);
});
