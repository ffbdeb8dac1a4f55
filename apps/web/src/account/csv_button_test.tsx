// Oracle: a list that the test holds whole, answered page by page as the server does.
import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { startI18n } from "../i18n";
import { CsvButton, listCsv } from "./csv_button";

let saved: Blob | null = null;
beforeAll(() => startI18n());
beforeEach(() => {
  saved = null;
  URL.createObjectURL = (blob: Blob) => { saved = blob; return "blob:x"; };
  URL.revokeObjectURL = () => {};
  vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(() => {});
});
afterEach(cleanup);

// Rows 1 to `count`; the cursor is the last row's number. `hold` delays an answer.
function serve(count: number, hold: (after: number) => Promise<void> | void = () => {}) {
  const asked: string[] = [];
  vi.spyOn(globalThis, "fetch").mockImplementation(async (where, options) => {
    asked.push(String(where));
    const query = new URL(String(where), "http://x").searchParams;
    const after = Number(query.get("after") ?? 0), limit = Number(query.get("limit"));
    if (limit > 1000) return new Response("{}", { status: 400 });
    await hold(after);
    options?.signal?.throwIfAborted();
    const data = Array.from({ length: Math.min(limit, count - after) }, (_, index) => ({ number: after + index + 1, name: `row, ${after + index + 1}` }));
    const last = after + data.length;
    return new Response(JSON.stringify({ data, has_more: last < count, next_cursor: last < count ? String(last) : null }));
  });
  return asked;
}
const show = () => render(<CsvButton file="rows.csv" disabled={false} make={listCsv("/api/v1/audit", { organisation: "a" }, ["number", "name"])} />);
const click = () => fireEvent.click(screen.getByRole("button", { name: "CSV" }));
const lines = async () => {
  await waitFor(() => expect(saved).not.toBeNull(), { timeout: 10_000 });
  const reader = new FileReader();
  const read = new Promise((resolve) => { reader.onload = resolve; });
  reader.readAsText(saved!);
  await read;
  return (reader.result as string).split("\r\n").slice(0, -1);
};

test("every row of every page is in the file, once and in order", async () => {
  const asked = serve(2345);
  show();
  click();
  expect(await lines()).toEqual(["number,name", ...Array.from({ length: 2345 }, (_, index) => `${index + 1},"row, ${index + 1}"`)]);
  expect(asked).toEqual(["", "&after=1000", "&after=2000"].map((after) => `/api/v1/audit?organisation=a&limit=1000${after}`));
  expect(screen.queryByRole("status")).toBeNull();
});

test("how far it is can be seen, and one click is one file", async () => {
  let go = () => {};
  const asked = serve(1500, (after) => (after === 1000 ? new Promise((resolve) => { go = resolve; }) : undefined));
  show();
  click();
  const button = await screen.findByRole<HTMLButtonElement>("button", { name: "CSV: 1,000 rows so far" });
  expect(button.disabled).toBe(true);
  expect(saved).toBeNull();
  go();
  expect(await lines()).toHaveLength(1501);
  expect(asked).toHaveLength(2);
});

test("a file that ends before the list does says so", async () => {
  serve(100_001);
  show();
  click();
  expect(await lines()).toHaveLength(100_001);
  expect((await screen.findByRole("status")).textContent).toContain("the file ends after 100,000 rows");
});

test("a page that fails is told, and no half of a file is saved", async () => {
  serve(1500, (after) => { if (after > 0) throw new TypeError("offline"); });
  show();
  click();
  await screen.findByRole("alert");
  expect(saved).toBeNull();
});

test("a list whose cursor stands still ends", async () => {
  vi.spyOn(globalThis, "fetch").mockImplementation(async () => new Response(JSON.stringify({ data: [{ number: 1 }], next_cursor: "1" })));
  show();
  click();
  expect(await lines()).toHaveLength(3);
  await screen.findByRole("status");
});

test("a page that is left asks no more", async () => {
  let go = () => {};
  const asked = serve(5000, (after) => (after === 1000 ? new Promise((resolve) => { go = resolve; }) : undefined));
  const { unmount } = show();
  click();
  await screen.findByText(/rows so far/);
  unmount();
  go();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(asked).toHaveLength(2);
  expect(saved).toBeNull();
});
