import { expect, test } from "vitest";
import type { Cost } from "../api/types";
import { addAmounts, addByCurrency, type Amounts, amountsText, shortAmount, spent } from "./money";

test("amounts are added to the last place", () => {
  expect(addAmounts(["0.1", "0.2"])).toBe("0.30");
  expect(addAmounts(Array.from({ length: 1000 }, () => "0.000000001"))).toBe("0.000001");
  expect(addAmounts(["9007199254740993.000000001", "-0.000000002", "rubbish"])).toBe("9007199254740992.999999999");
  expect(addAmounts(["-1.5", "0.25"])).toBe("-1.25");
  expect(addAmounts([])).toBe("0.00");
});

test("short amounts keep three digits that count", () => {
  expect(["0.000012345", "0.00", "1.239", "1234.5678", "0.5", "0.000000001"].map(shortAmount)).toEqual(["0.0000123", "0.00", "1.24", "1234.57", "0.500", "0.000000001"]);
});

test("what has a price is summed, and what has none is counted", () => {
  const cost = (amount: string, currency: string, billing: Cost["billing"]): Cost => ({ amount, currency, billing, free_tokens: 0 });
  expect(spent([cost("0.01", "EUR", "paid"), null, cost("0.02", "EUR", "mixed"), cost("1", "USD", "paid"), cost("0.00", "USD", "unpriced"), cost("0.00", "EUR", "free"), undefined]))
    .toEqual({ totals: [["EUR", "0.03"], ["USD", "1.00"]], unpriced: 1, free: 1 });
});

test("amounts of different currencies are not added", () => {
  const rows: Amounts[] = [{ amount_by_currency: { USD: "1.00" } }, { amount_by_currency: { EUR: "0.000001", USD: "0.50" } }, { amount_by_currency: {} }];
  expect(addByCurrency(rows)).toEqual([["EUR", "0.000001"], ["USD", "1.50"]]);
  expect(amountsText(rows)).toBe("0.000001 EUR + 1.50 USD");
  expect(amountsText([])).toBe("0.00");
});
