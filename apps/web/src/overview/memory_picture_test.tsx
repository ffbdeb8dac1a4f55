import { expect, test } from "vitest";
import type { Owner } from "../api/types";
import { piecesOf } from "./memory_picture";

const owners = [
  { owner: "kv_reserve", kind: "reserve", bytes: 500 },
  { owner: "b", kind: "kv", bytes: 20 },
  { owner: "workspace", kind: "scratch", bytes: 7 },
  { owner: "b", kind: "weights", bytes: 100 },
  { owner: "a", kind: "weights", bytes: 50 },
  { owner: "gone", kind: "weights", bytes: 0 },
] satisfies Owner[];

test("every byte is in the picture once, models first, the reserve last", () => {
  const pieces = piecesOf(owners, ["a", "b"], false);
  expect(pieces.reduce((all, piece) => all + piece.bytes, 0)).toBe(677);
  expect(pieces.map((piece) => `${piece.owner}/${piece.kind}`)).toEqual(["a/weights", "b/weights", "b/kv", "workspace/scratch", "kv_reserve/reserve"]);
  expect(new Set(pieces.slice(0, 3).map((piece) => piece.color)).size).toBe(3);
});
