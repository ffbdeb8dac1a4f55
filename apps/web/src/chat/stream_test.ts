import { expect, test } from "vitest";
import { piecesOf } from "./stream";

test("tokens of both dialects of probabilities", () => {
  const chat = { content: [{ token: "a", logprob: -0.5, top_logprobs: [{ token: "a", logprob: -0.5 }, { token: "b", logprob: -2 }] }, { token: "c", logprob: -1 }] };
  // As src/gateway/server_test.cc has it: the first token of an echo has none.
  const lists = { tokens: ["x", "y"], token_logprobs: [null, -2], top_logprobs: [null, { y: -2, z: -1 }], text_offset: [0, 1] };
  expect(piecesOf(chat)).toEqual([{ text: "a", logprob: -0.5, top: [{ text: "a", logprob: -0.5 }, { text: "b", logprob: -2 }] }, { text: "c", logprob: -1, top: [] }]);
  expect(piecesOf(lists)).toEqual([{ text: "x", logprob: null, top: [] }, { text: "y", logprob: -2, top: [{ text: "z", logprob: -1 }, { text: "y", logprob: -2 }] }]);
  expect([piecesOf(null), piecesOf(undefined), piecesOf({ content: null })]).toEqual([[], [], []]);
});
