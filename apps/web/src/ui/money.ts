// Money as the server writes it: decimals with at most nine places.
import type { Cost } from "../api/types";

const nano = 1_000_000_000n;

function nanosOf(text: string): bigint {
  const match = /^(-?)(\d+)(?:\.(\d{1,9}))?$/.exec(text.trim());
  if (!match) return 0n;
  const value = BigInt(match[2]!) * nano + BigInt((match[3] ?? "").padEnd(9, "0"));
  return match[1] ? -value : value;
}

// Decimals are added as whole numbers of 10^-9: a sum of money is never a floating point number.
export function addAmounts(amounts: string[]): string {
  const nanos = amounts.reduce((all, text) => all + nanosOf(text), 0n);
  const sign = nanos < 0n ? "-" : "";
  const size = nanos < 0n ? -nanos : nanos;
  const digits = (size % nano).toString().padStart(9, "0").replace(/0+$/, "").padEnd(2, "0");
  return `${sign}${size / nano}.${digits}`;
}

// Sums by currency of rows that say what they come to in each; as text "1.00 EUR + 2.00 USD".
export interface Amounts { amount_by_currency: Record<string, string> }
export function addByCurrency(rows: Amounts[]): [currency: string, amount: string][] {
  const currencies = [...new Set(rows.flatMap((row) => Object.keys(row.amount_by_currency)))].sort();
  return currencies.map((currency) => [currency, addAmounts(rows.map((row) => row.amount_by_currency[currency] ?? "0"))]);
}
export const amountsText = (rows: Amounts[]) => addByCurrency(rows).map(([currency, amount]) => `${amount} ${currency}`).join(" + ") || "0.00";

// For a line of figures: three digits that count, cents at least. The exact amount belongs into a title.
export function shortAmount(amount: string): string {
  const value = Number(amount);
  if (!Number.isFinite(value) || value === 0) return "0.00";
  const places = Math.min(9, Math.max(2, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return value.toFixed(places);
}

// What several requests came to, by currency; how many of them have no price.
export function spent(costs: (Cost | null | undefined)[]): { totals: [currency: string, amount: string][]; unpriced: number; free: number } {
  const byCurrency = new Map<string, string[]>();
  let unpriced = 0;
  let free = 0;
  for (const cost of costs) {
    if (!cost) continue;
    if (cost.billing === "unpriced") ++unpriced;
    else if (cost.billing === "free") ++free;
    else byCurrency.set(cost.currency, [...(byCurrency.get(cost.currency) ?? []), cost.amount]);
  }
  return { totals: [...byCurrency].map(([currency, amounts]) => [currency, addAmounts(amounts)]), unpriced, free };
}
