import { expect, test } from "vitest";
import { timelineOf } from "./requests";

test("each millisecond of a request is shown once", () => {
  const sum = (parts: [string, number][]) => parts.reduce((all, [, ms]) => all + ms, 0);
  // In line for 100 ms, of which 80 for weights; 300 ms of decoding, 120 of them in other models' turns.
  const parts = timelineOf({ queue_ms: 100, load_ms: 80, prefill_ms: 50, decode_ms: 300, stall_ms: 120 });
  expect(Object.fromEntries(parts)).toEqual({ queue: 20, load: 80, prefill: 50, decode: 180, stall: 120 });
  expect(sum(parts)).toBe(450);
  // Loaded before it was in line; stalled longer than it decoded.
  expect(Object.fromEntries(timelineOf({ queue_ms: 5, load_ms: 900, prefill_ms: 50, decode_ms: 10, stall_ms: 30 }))).toEqual({ queue: 5, load: 900, prefill: 30, decode: 0, stall: 30 });
});
