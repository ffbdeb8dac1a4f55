import { expect, test, vi } from "vitest";
import { allRows, withHead } from "./lists";

test("what came since stands before what was known, each row once", () => {
  const row = (id: string) => ({ id });
  expect(withHead([row("d"), row("c"), row("b")], [row("b"), row("a")]).map((one) => one.id)).toEqual(["d", "c", "b", "a"]);
  const known = [row("b"), row("a")];
  expect(withHead([row("b")], known)).toBe(known);
});

// Rows 1 to `count`; the cursor is the last row's number.
function serve(count: number, cursor = (last: number) => String(last)) {
  const asked: string[] = [];
  vi.spyOn(globalThis, "fetch").mockImplementation(async (where) => {
    asked.push(String(where));
    const query = new URL(String(where), "http://x").searchParams;
    const after = Number(query.get("after") ?? 0);
    const data = Array.from({ length: Math.min(Number(query.get("limit")), count - after) }, (_, index) => ({ id: after + index + 1 }));
    const last = after + data.length;
    return new Response(JSON.stringify({ data, next_cursor: last < count ? cursor(last) : null }));
  });
  return asked;
}
const ids = async (most: number) => ((await allRows("/api/v1/budgets", most, new AbortController().signal)) as unknown as { id: number }[]).map((row) => row.id);

test("every page of a list comes once and in order, up to the most that is asked for", async () => {
  const asked = serve(2345);
  expect(await ids(10_000)).toEqual(Array.from({ length: 2345 }, (_, index) => index + 1));
  expect(asked).toEqual(["", "&after=1000", "&after=2000"].map((after) => `/api/v1/budgets?limit=1000${after}`));
  expect(await ids(1500)).toHaveLength(1500);
});

test("a list whose cursor stands still ends", async () => {
  const asked = serve(5000, () => "7");
  expect((await ids(10_000)).length).toBeGreaterThan(0);
  expect(asked).toHaveLength(2);
});
