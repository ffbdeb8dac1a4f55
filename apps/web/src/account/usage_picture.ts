// Days of usage as a stacked picture: which bars, how high, of which colour.

const dayS = 86_400;
const mostDays = 366;

// Midnights in UTC of the days from `from` to `to` ("2026-11-28"), both included; of more than a year the last.
export function daysOf(from: string, to: string): number[] {
  const last = Date.parse(`${to}T00:00:00Z`) / 1e3;
  const first = Math.max(Date.parse(`${from}T00:00:00Z`) / 1e3, last - (mostDays - 1) * dayS);
  return Array.from({ length: Math.max(1, Math.round((last - first) / dayS) + 1) }, (_, index) => first + index * dayS);
}

// One value a day; a day without requests is 0.
export function valuesOf(points: number[][], days: number[]): number[] {
  const at = new Map(points.map(([time = 0, value = 0]) => [time - (time % dayS), value]));
  return days.map((day) => at.get(day) ?? 0);
}

// Heights of a stack: each layer on top of those before it.
export function stacked(layers: number[][]): number[][] {
  const out: number[][] = [];
  for (const layer of layers) {
    const below = out.at(-1);
    out.push(layer.map((value, index) => value + (below?.[index] ?? 0)));
  }
  return out;
}

export const sum = (values: number[]) => values.reduce((all, value) => all + value, 0);

// The largest first: it stands at the bottom. What is left of all others is last, whatever its size.
export function largestFirst<T extends { values: number[]; others: boolean }>(layers: T[]): T[] {
  return [...layers].sort((a, b) => Number(a.others) - Number(b.others) || sum(b.values) - sum(a.values));
}
