import { renderHook, waitFor } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import { loadOlder, usePoolHistory, type Turn } from "./pool_history";

// A server that keeps the last 9,000 of its turns.
let last = 12_000;
const turn = (number: number): Turn => ({ number, model: "a", from: number, to: number + 1, steps: 1, tokens: 1, answered: 1, late: 0, least_slack_s: 1 });
const asked: string[] = [];
vi.stubGlobal("fetch", async (url: string) => {
  asked.push(url);
  const query = new URL(url, "http://h").searchParams;
  const after = Number(query.get("turns_after") ?? 0);
  const first = Math.max(after, last - 9_000) + 1;
  const turns = Array.from({ length: Math.max(0, Math.min(Number(query.get("limit") ?? 20_000), last - first + 1)) }, (_, index) => turn(first + index));
  return new Response(JSON.stringify({ turns, turns_missed: first - 1 - after, turns_last: last, events: [], events_missed: 0, events_last: 0 }));
});

test("begins with the newest, goes on from there, and fetches what is older when it is wanted", async () => {
  const { result, unmount } = renderHook(() => usePoolHistory());
  await waitFor(() => expect(result.current.loaded).toBe(true));
  expect([result.current.turns[0]!.number, result.current.turns.at(-1)!.number, result.current.older]).toEqual([10_001, 12_000, true]);
  last = 12_003;
  await waitFor(() => expect(result.current.turns.at(-1)!.number).toBe(12_003), { timeout: 3_000 });
  expect(asked.at(-1)).toContain("turns_after=11999");
  // In pieces, until the server has no more; a piece that meets the look of the moment is asked for again.
  await waitFor(async () => {
    await loadOlder();
    expect(result.current.older).toBe(false);
  }, { timeout: 5_000 });
  expect(asked.filter((url) => url.includes("limit=5000")).length).toBeGreaterThan(0);
  const numbers = result.current.turns.map((one) => one.number);
  expect(numbers[0]).toBe(3_004);
  expect(numbers.every((number, index) => index === 0 || number === numbers[index - 1]! + 1)).toBe(true);
  // A server that started again counts from 1.
  last = 5;
  await waitFor(() => expect(result.current.turns.map((one) => one.number)).toEqual([1, 2, 3, 4, 5]), { timeout: 5_000 });
  unmount();
});
