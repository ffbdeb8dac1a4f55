import { beforeEach, expect, test, vi } from "vitest";
import { recall, remember } from "./store";

beforeEach(() => localStorage.clear());

// A browser whose storage takes values of at most `most` characters.
function fullBeyond(most: number) {
  const setItem = Storage.prototype.setItem;
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(function (this: Storage, name: string, value: string) {
    if (value.length > most) throw new DOMException("full", "QuotaExceededError");
    setItem.call(this, name, value);
  });
}
// What a page that was loaded again finds.
async function afterReload(key: string) {
  vi.resetModules();
  return (await import("./store")).recall(key);
}

test("an older value that still fits does not win over a newer one that does not", async () => {
  fullBeyond(10);
  remember("draft", "old");
  remember("draft", "newer than that");
  expect(recall("draft")).toBe("newer than that");
  expect(await afterReload("draft")).toBeNull();
});

test("what fits of a value that does not outlives the page", async () => {
  fullBeyond(10);
  remember("draft", "old");
  remember("draft", "text and a large file", "text");
  expect(recall("draft")).toBe("text and a large file");
  expect(await afterReload("draft")).toBe("text");
});

test("a value that was taken back or written since is not found again", () => {
  fullBeyond(10);
  remember("draft", "newer than that");
  remember("draft", "short");
  expect(recall("draft")).toBe("short");
  remember("draft", "newer than that");
  remember("draft", null);
  expect(recall("draft")).toBeNull();
});

test("without storage values last as long as the page", () => {
  for (const method of ["getItem", "setItem", "removeItem"] as const) vi.spyOn(Storage.prototype, method).mockImplementation(() => { throw new DOMException("off", "SecurityError"); });
  remember("theme", "dark");
  expect(recall("theme")).toBe("dark");
  remember("theme", null);
  expect(recall("theme")).toBeNull();
});
