import { expect, test } from "vitest";
import { daysOf, largestFirst, stacked, valuesOf } from "./usage_picture";

const day = (text: string) => Date.parse(`${text}T00:00:00Z`) / 1e3;

test("every day of the range has a bar, and of more than a year the last 366", () => {
  expect(daysOf("2026-02-27", "2026-03-02")).toEqual(["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"].map(day));
  expect(daysOf("2026-03-02", "2026-03-02")).toEqual([day("2026-03-02")]);
  const long = daysOf("2020-01-01", "2026-11-28");
  expect(long.length).toBe(366);
  expect(long.at(-1)).toBe(day("2026-11-28"));
});

test("days without requests are nothing, not a gap", () => {
  expect(valuesOf([[day("2026-11-27"), 5], [day("2026-11-29"), 7]], daysOf("2026-11-27", "2026-11-30"))).toEqual([5, 0, 7, 0]);
});

test("a stack is as high as its layers together, the largest at the bottom, the others at the top", () => {
  const layers = largestFirst([{ name: "small", values: [1, 2], others: false }, { name: "rest", values: [100, 0], others: true }, { name: "large", values: [10, 0], others: false }]);
  expect(layers.map((one) => one.name)).toEqual(["large", "small", "rest"]);
  expect(stacked(layers.map((one) => one.values))).toEqual([[10, 0], [11, 2], [111, 2]]);
});
