import { expect, test } from "vitest";
import { applyEvent, branchesAt, newestLeaf, pathTo, treeOf } from "./tree";
import type { Conversation, Turn } from "./types";

const turn = (id: string, parent: string | null, more: Partial<Turn> = {}): Turn => ({
  id, parent, role: "user", content: id, reasoning: "", files: [], model: "", state: "done", finish_reason: "", error: null, usage: null, cost: null, timings: {}, dropped_turns: 0, created: 0, ...more,
});
// a - b - c
//   \ d - e
//       \ f
const turns = [turn("a", null), turn("b", "a"), turn("c", "b"), turn("d", "a"), turn("e", "d"), turn("f", "d")];
const ids = (list: Turn[]) => list.map((one) => one.id).join("");

test("a path leads to the leaf asked for, or to the newest", () => {
  const tree = treeOf(turns);
  expect(ids(pathTo(tree, "c"))).toBe("abc");
  expect(ids(pathTo(tree, "e"))).toBe("ade");
  expect(ids(pathTo(tree, null))).toBe("adf");
  expect(ids(pathTo(tree, "gone"))).toBe("adf");
  expect(pathTo(treeOf([]), null)).toEqual([]);
  expect(newestLeaf(tree, "b")?.id).toBe("c");
});

test("branches count what shares a parent, roots too", () => {
  const tree = treeOf([...turns, turn("g", null)]);
  expect(branchesAt(tree, tree.byId.get("d")!)).toMatchObject({ index: 1, siblings: [{ id: "b" }, { id: "d" }] });
  expect(branchesAt(tree, tree.byId.get("g")!).siblings).toHaveLength(2);
});

test("a tree whose parents make a ring still ends", () => {
  expect(pathTo(treeOf([turn("x", "y"), turn("y", "x")]), "x").length).toBeLessThanOrEqual(2);
});

test("events change what they name and nothing else", () => {
  const start: Conversation = { id: "1", title: "", model: "m", pinned: false, running: false, created: 0, updated: 0, system: "", sampling: {}, leaf: null, turns, sequence: 4 };
  const begun = applyEvent(start, { event: "turn", turn: turn("h", "f", { role: "assistant", state: "running", content: "" }) }, 5);
  expect(begun.running).toBe(true);
  const waiting = applyEvent(begun, { event: "progress", turn: "h", phase: "loading", share: 0.5 }, 6);
  expect(waiting.turns.at(-1)!.progress).toEqual({ phase: "loading", share: 0.5 });
  const grown = applyEvent(waiting, { event: "delta", turn: "h", content: "Hi" }, 7);
  expect(grown.turns.at(-1)).toMatchObject({ content: "Hi", progress: undefined });
  expect(grown.turns[0]).toBe(turns[0]);
  expect(grown.sequence).toBe(7);
  const done = applyEvent(grown, { event: "turn", turn: turn("h", "f", { content: "Hi!", state: "done" }) }, 8);
  expect(done.running).toBe(false);
  expect(done.turns).toHaveLength(7);
});
