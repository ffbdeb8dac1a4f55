import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { Tooltip } from "radix-ui";
import { afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { startI18n } from "../i18n";
import { Message, type MessageActions } from "./message";
import type { Turn } from "./types";

beforeAll(() => startI18n());
beforeEach(() => localStorage.clear());
afterEach(cleanup);

const turn = { id: "turn-1", parent: null, role: "user", content: "as it was", reasoning: "", files: [], model: "m", state: "done", finish_reason: "stop", error: null, usage: null, cost: null, timings: {}, dropped_turns: 0, created: 0 } satisfies Turn;
const nothing: MessageActions = { onBranch: () => {}, onRegenerate: () => {}, onContinue: () => {}, onEdit: async () => {} };
const show = (onEdit: MessageActions["onEdit"] = async () => {}) => render(
  <QueryClientProvider client={new QueryClient()}><Tooltip.Provider><Message turn={turn} index={0} count={1} elsewhere={false} last actions={{ ...nothing, onEdit }} /></Tooltip.Provider></QueryClientProvider>,
);
const box = () => screen.queryByLabelText<HTMLTextAreaElement>("Edit the message");
function edit(text: string) {
  fireEvent.click(screen.getByLabelText("Edit"));
  expect(document.activeElement).toBe(box());
  fireEvent.change(box()!, { target: { value: text } });
}

test("an edit outlives its row, which a long conversation takes down when it is scrolled away", () => {
  const { unmount } = show();
  edit("half an edit");
  unmount();
  show();
  expect(box()?.value).toBe("half an edit");
  expect(document.activeElement).not.toBe(box());  // somebody may be typing elsewhere
});

test("an edit that was cancelled or sent is gone, one that failed stays", async () => {
  let fails = true;
  const sent: string[] = [];
  const { unmount } = show(async (_, content) => {
    if (fails) throw new Error("no");
    sent.push(content);
  });
  edit("given up");
  fireEvent.click(screen.getByText("Cancel"));
  expect(box()).toBeNull();
  edit("better");
  fireEvent.click(screen.getByText("Send as a new branch"));
  await waitFor(() => expect(box()?.readOnly).toBe(false));
  expect(box()?.value).toBe("better");
  fails = false;
  fireEvent.click(screen.getByText("Send as a new branch"));
  await waitFor(() => expect(box()).toBeNull());
  expect(sent).toEqual(["better"]);
  unmount();
  show();
  expect(box()).toBeNull();
});

test("branches can be left while one is written, and one that is written elsewhere is told", () => {
  const moves: number[] = [];
  const answer = { ...turn, id: "turn-2", role: "assistant", state: "running", content: "so far" } satisfies Turn;
  const shown = (elsewhere: boolean) => (
    <QueryClientProvider client={new QueryClient()}><Tooltip.Provider><Message turn={answer} index={1} count={2} elsewhere={elsewhere} last actions={{ ...nothing, onBranch: (_, by) => moves.push(by) }} /></Tooltip.Provider></QueryClientProvider>
  );
  const { rerender } = render(shown(false));
  expect(screen.queryByLabelText("answering")).toBeNull();
  fireEvent.click(screen.getByLabelText("Previous branch"));
  expect(moves).toEqual([-1]);
  rerender(shown(true));
  screen.getByLabelText("answering");
});
