import { expect, test } from "vitest";
import { filtersOf, queryOf } from "./request_filters";
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

test("filters are what the address says, and a span ends now", () => {
  const filters = filtersOf(new URLSearchParams("model= a:1 &key=key-1&status=error&span=24h&from=2026-01-01&other=x"));
  expect(filters).toEqual({ model: " a:1 ", key: "key-1", member: "", status: "error", endpoint: "", span: "24h", from: "2026-01-01", to: "" });
  const now = Date.parse("2026-11-28T10:11:59Z");
  expect(queryOf(filters, now)).toEqual({ model: "a:1", key: "key-1", member: "", status: "error", endpoint: "", from: "2026-11-27T10:11:00Z", to: "" });
  expect(queryOf({ ...filters, span: "dates", to: "2026-01-02" }, now)).toMatchObject({ from: "2026-01-01T00:00:00Z", to: "2026-01-03T00:00:00Z" });
  expect(queryOf({ ...filters, span: "dates", from: "no date" }, now)).toMatchObject({ from: "", to: "" });
  // What runs has no status of a row.
  expect(queryOf({ ...filters, status: "running", span: "century" }, now)).toMatchObject({ status: "", from: "", to: "" });
});
