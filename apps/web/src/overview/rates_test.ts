import { expect, test } from "vitest";
import type { PoolMoment } from "../api/pool_feed";
import { onTimeShare, ratePoints, rateBetween } from "./rates";

const at = (atMs: number, computed: number, generated: number): PoolMoment => ({ atMs, running: null, usedBytes: 0, resident: {}, waiting: 0, active: 0, slackS: {}, loading: [], tokens: { computed, generated, on_time: 0, late: 0 } });

test("rates come from counts, and a restarted server gives no negative ones", () => {
  expect(rateBetween(at(10_000, 100, 50), at(12_000, 340, 90))).toEqual({ atS: 12, prefill: 100, decode: 20 });
  expect(rateBetween(at(10_000, 100, 50), at(12_000, 10, 5))).toEqual({ atS: 12, prefill: 0, decode: 0 });
});

test("answers under way count as they are made, and silence is zero", () => {
  // A hundred a second for four seconds, then nothing is said any more.
  const moments = Array.from({ length: 17 }, (_, index) => at(index * 250, index * 25, index * 25));
  const points = ratePoints(moments, 8_000);
  expect(points.map((point) => Math.round(point.decode))).toEqual([100, 100, 100, 50, 0, 0, 0]);
  expect(points.every((point) => point.prefill === 0)).toBe(true);
  expect(ratePoints([])).toEqual([]);
});

test("a share of nothing is unknown", () => {
  expect(onTimeShare({ on_time: 3, late: 1 })).toBe(0.75);
  expect(onTimeShare({ on_time: 0, late: 0 })).toBeNull();
});
