import { expect, test } from "vitest";
import { piecesOf } from "./memory_picture";
import { rateBetween, totalsOf } from "./rates";

const owners = [
  { owner: "kv_reserve", kind: "reserve", bytes: 500 },
  { owner: "b", kind: "kv", bytes: 20 },
  { owner: "workspace", kind: "scratch", bytes: 7 },
  { owner: "b", kind: "weights", bytes: 100 },
  { owner: "a", kind: "weights", bytes: 50 },
  { owner: "gone", kind: "weights", bytes: 0 },
];

test("every byte is in the picture once, models first, the reserve last", () => {
  const pieces = piecesOf(owners, ["a", "b"], false);
  expect(pieces.reduce((all, piece) => all + piece.bytes, 0)).toBe(677);
  expect(pieces.map((piece) => `${piece.owner}/${piece.kind}`)).toEqual(["a/weights", "b/weights", "b/kv", "workspace/scratch", "kv_reserve/reserve"]);
  expect(new Set(pieces.slice(0, 3).map((piece) => piece.color)).size).toBe(3);
});

test("rates come from counters, and a restarted server gives no negative ones", () => {
  const totals = (prompt: number, completion: number) => totalsOf([
    { name: "tidepool_prompt_tokens_total", labels: { model: "a" }, value: prompt }, { name: "tidepool_completion_tokens_total", labels: { model: "a" }, value: completion },
    { name: "tidepool_cached_tokens_total", labels: { model: "a" }, value: 10 }]);
  expect(rateBetween({ atS: 10, totals: totals(100, 50) }, { atS: 12, totals: totals(300, 90) })).toEqual({ atS: 12, prefill: 100, decode: 20 });
  expect(rateBetween({ atS: 10, totals: totals(100, 50) }, { atS: 12, totals: totals(10, 0) })).toMatchObject({ prefill: 0, decode: 0 });
});
