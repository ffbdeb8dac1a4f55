// Oracle: the reply that the test gives in the server's place.
import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { startI18n } from "../i18n";
import { CsvButton } from "./csv_button";

let saved: { name: string; content: Blob }[] = [];
beforeAll(() => startI18n());
beforeEach(() => {
  saved = [];
  let made: Blob;
  URL.createObjectURL = (blob: Blob) => { made = blob; return "blob:x"; };
  URL.revokeObjectURL = () => {};
  vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(function (this: HTMLAnchorElement) { saved.push({ name: this.download, content: made }); });
});
afterEach(cleanup);

const show = () => render(<CsvButton file="rows.csv" from="/api/v1/audit?organisation=a&format=csv" disabled={false} />);
const button = () => screen.getByRole<HTMLButtonElement>("button", { name: "CSV" });
function answer(make: (signal: AbortSignal | null) => Promise<Response> | Response) {
  return vi.spyOn(globalThis, "fetch").mockImplementation(async (_, options) => make(options?.signal ?? null));
}

test("what the server sends is saved as it is, under the page's name", async () => {
  const text = 'number,name\r\n1,"a, b"\r\n';
  const asked = answer(() => new Response(text, { headers: { "Tidepool-Rows": "1" } }));
  show();
  fireEvent.click(button());
  await waitFor(() => expect(saved).toHaveLength(1));
  expect(asked.mock.calls.map(([where]) => where)).toEqual(["/api/v1/audit?organisation=a&format=csv"]);
  expect(saved[0]!.name).toBe("rows.csv");
  expect(saved[0]!.content.size).toBe(new Blob([text]).size);
  expect(screen.queryByRole("status")).toBeNull();
});

test("one click is one file", async () => {
  let go = (_: Response) => {};
  const asked = answer(() => new Promise((resolve) => { go = resolve; }));
  show();
  fireEvent.click(button());
  await waitFor(() => expect(button().disabled).toBe(true));
  fireEvent.click(button());
  go(new Response("a\r\n"));
  await waitFor(() => expect(button().disabled).toBe(false));
  expect(asked).toHaveBeenCalledTimes(1);
  expect(saved).toHaveLength(1);
});

test("a file that ends before the list does says so", async () => {
  answer(() => new Response("a\r\n", { headers: { "Tidepool-Rows": "100000", "Tidepool-Next-Cursor": "c" } }));
  show();
  fireEvent.click(button());
  expect((await screen.findByRole("status")).textContent).toContain("the file ends after 100,000 rows");
  expect(saved).toHaveLength(1);
});

test("a refusal is told, and nothing is saved", async () => {
  answer(() => new Response(JSON.stringify({ error: { code: "store_unavailable", message: "The store does not answer." } }), { status: 503 }));
  show();
  fireEvent.click(button());
  expect((await screen.findByRole("alert")).textContent).toContain("The store does not answer.");
  expect(saved).toEqual([]);
});

test("a page that is left saves nothing", async () => {
  let go = (_: Response) => {};
  let signal: AbortSignal | null = null;
  answer((given) => { signal = given; return new Promise((resolve) => { go = resolve; }); });
  const { unmount } = show();
  fireEvent.click(button());
  unmount();
  expect(signal!.aborted).toBe(true);
  go(new Response("a\r\n"));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(saved).toEqual([]);
});
