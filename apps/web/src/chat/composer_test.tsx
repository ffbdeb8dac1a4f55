// Oracle: every character that was typed is sent, in the box, or in what the next page finds.
import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { Tooltip } from "radix-ui";
import { afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { startI18n } from "../i18n";
import { Composer, readDraft, writeDraft, type Draft } from "./composer";

beforeAll(async () => {
  window.matchMedia ??= (() => ({ matches: false })) as unknown as typeof matchMedia;
  await startI18n();
});
beforeEach(() => {
  localStorage.clear();
  vi.spyOn(globalThis, "fetch").mockImplementation(async () => new Response('{"count": 1}'));
});
afterEach(cleanup);

// A send that ends when the test says so.
function waiting() {
  const sent: Draft[] = [];
  let end: { resolve: (id: string) => void; reject: (error: Error) => void };
  const onSend = (draft: Draft) => {
    sent.push(draft);
    return new Promise<string>((resolve, reject) => { end = { resolve, reject }; });
  };
  return { sent, onSend, arrive: (id: string) => end.resolve(id), fail: () => end.reject(new Error("no")) };
}
function show(id: string, onSend: (draft: Draft) => Promise<string>, onSent: (id: string) => void = () => {}) {
  return render(
    <Tooltip.Provider><Composer id={id} model="m" running={false} usedTokens={0} contextTokens={0} costs={[]} onSend={onSend} onSent={onSent} onStop={() => {}} /></Tooltip.Provider>,
  );
}
const box = () => screen.getByLabelText<HTMLTextAreaElement>("Message");
const type = (text: string) => fireEvent.change(box(), { target: { value: text } });
const press = () => fireEvent.click(screen.getByLabelText("Send"));
const idle = () => waitFor(() => expect(screen.getByLabelText<HTMLButtonElement>("Send").disabled).toBe(box().value === ""));

test("what is typed while a message is on its way stays", async () => {
  const { sent, onSend, arrive } = waiting();
  show("conv-1", onSend);
  type("first");
  press();
  expect(box().value).toBe("");
  type("second");
  // A page that is loaded again now does not know whether the first arrived: nothing is lost.
  expect(readDraft("conv-1").text).toBe("first\nsecond");
  arrive("conv-1");
  await waitFor(() => expect(readDraft("conv-1").text).toBe("second"));
  expect(box().value).toBe("second");
  await idle();
  press();
  expect(sent.map((draft) => draft.text)).toEqual(["first", "second"]);
});

test("what could not be sent comes back, before what was typed since", async () => {
  const { onSend, fail } = waiting();
  writeDraft("conv-1", { text: "first", files: [{ name: "a.txt", text: "a" }] });
  show("conv-1", onSend);
  press();
  expect(screen.queryByText("a.txt")).toBeNull();
  type("second");
  fail();
  await waitFor(() => expect(box().value).toBe("first\nsecond"));
  screen.getByText("a.txt");
  expect(readDraft("conv-1")).toEqual({ text: "first\nsecond", files: [{ name: "a.txt", text: "a" }] });
});

test("what is typed while a conversation is made goes along into it", async () => {
  const { onSend, arrive } = waiting();
  const went: string[] = [];
  show("new", onSend, (id) => went.push(`${id}: ${readDraft(id).text}`));
  type("first");
  press();
  type("second");
  arrive("conv-2");
  await waitFor(() => expect(went).toEqual(["conv-2: second"]));
  expect(readDraft("new").text).toBe("");
});

test("a send that ends after the box is gone leaves what was typed in another one", async () => {
  const { onSend, arrive } = waiting();
  const { unmount } = show("conv-1", onSend);
  type("first");
  press();
  unmount();
  show("conv-1", onSend);
  type("first and more");
  arrive("conv-1");
  await new Promise((resolve) => setTimeout(resolve));
  expect(readDraft("conv-1").text).toBe("first and more");
});

test("text typed while a file is read stays", async () => {
  const { container } = show("conv-1", async () => "conv-1");
  type("before");
  let read: (bytes: ArrayBuffer) => void = () => {};
  const file = new File(["x"], "x.txt");
  file.arrayBuffer = () => new Promise((resolve) => { read = resolve; });
  fireEvent.change(container.querySelector('input[type="file"]')!, { target: { files: [file] } });
  type("before and after");
  read(new TextEncoder().encode("x").buffer);
  await screen.findByText("x.txt");
  expect(box().value).toBe("before and after");
});

test("where storage has no room for a draft's files, its newest text outlives the page", async () => {
  writeDraft("conv-1", { text: "old", files: [] });
  const setItem = Storage.prototype.setItem;
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(function (this: Storage, name: string, value: string) {
    if (value.length > 100) throw new DOMException("full", "QuotaExceededError");
    setItem.call(this, name, value);
  });
  const draft = { text: "newest", files: [{ name: "large.txt", text: "x".repeat(200) }] };
  writeDraft("conv-1", draft);
  expect(readDraft("conv-1")).toEqual(draft);
  vi.resetModules();
  expect((await import("./composer")).readDraft("conv-1")).toEqual({ text: "newest", files: [] });
});
