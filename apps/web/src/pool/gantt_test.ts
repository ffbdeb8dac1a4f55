import { expect, test } from "vitest";
import type { PoolMoment } from "../api/pool_feed";
import { runsOf } from "./gantt";

const at = (atMs: number, running: string | null): PoolMoment => ({ atMs, running, usedBytes: 0, resident: {}, waiting: 0, active: 0, slackS: {}, loading: [] });

test("moments of one model join; another model, idleness and silence divide", () => {
  expect(runsOf([at(0, "a"), at(250, "a"), at(500, "b"), at(750, null), at(1000, "a"), at(9000, "a")])).toEqual([
    { model: "a", fromMs: 0, toMs: 500 }, { model: "b", fromMs: 500, toMs: 750 }, { model: "a", fromMs: 1000, toMs: 2000 }, { model: "a", fromMs: 9000, toMs: 9250 },
  ]);
  expect(runsOf([])).toEqual([]);
});
