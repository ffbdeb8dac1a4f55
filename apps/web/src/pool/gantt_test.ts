import { expect, test } from "vitest";
import { joined, type Happening, type Turn } from "../api/pool_history";
import { residentSteps, stepOf, sumsOf } from "./gantt";

const turn = (number: number, model: string, from: number, to: number, more: Partial<Turn> = {}): Turn => ({ number, model, from, to, steps: 2, tokens: 4, answered: 2, late: 0, least_slack_s: 1, ...more });
const event = (name: string, time: number, resident_segments: number): Happening => ({ number: time, event: name, time, model: "a", resident_segments });

test("a turn that grew replaces what was known of it", () => {
  const known = [turn(1, "a", 0, 1), turn(2, "b", 1, 2)];
  expect(joined(known, [turn(2, "b", 1, 5), turn(3, "a", 5, 6)]).map((one) => one.to)).toEqual([1, 5, 6]);
  expect(joined(known, [])).toEqual(known);
  expect(joined([], known)).toEqual(known);
});

test("quanta, switches and slack are of the window", () => {
  const turns = [turn(1, "a", 0, 10), turn(2, "b", 10, 12, { late: 1, least_slack_s: -0.5 }), turn(3, "a", 12, 13, { least_slack_s: null }), turn(4, "b", 30, 31)];
  const sums = sumsOf(turns, 8, 20);
  expect(sums.switches).toBe(2);
  expect(sums.busyS).toBe(5);
  expect(sums.models).toEqual([
    { model: "a", turns: 2, busyS: 3, longestS: 10, steps: 4, answered: 4, late: 0, leastSlackS: 1 },
    { model: "b", turns: 1, busyS: 2, longestS: 2, steps: 2, answered: 2, late: 1, leastSlackS: -0.5 },
  ]);
  expect(sumsOf(turns, 14, 20)).toEqual({ models: [], switches: 0, busyS: 0 });
});

test("the axis is marked where people count", () => {
  expect([[60, 8], [60, 3], [5, 8], [900, 8], [4 * 3600, 3], [12 * 3600, 9]].map(([span, most]) => stepOf(span!, most!))).toEqual([10, 30, 1, 120, 2 * 3600, 2 * 3600]);
});

test("what was resident when follows from the events", () => {
  const model = { id: "a", segments: 4, resident: 4 };
  expect(residentSteps(model, [])).toEqual([[0, 1]]);
  expect(residentSteps(model, [event("load", 10, 0), event("loaded", 12, 4), event("switch", 13, 4), event("evict", 20, 1)])).toEqual([[0, 0], [12, 1], [20, 0.25]]);
  expect(residentSteps(model, [event("evict", 20, 0)])).toEqual([[0, 1], [20, 0]]);
  expect(residentSteps({ id: "scripted", segments: 0, resident: 5 }, [])).toEqual([[0, 1]]);
});
