import { expect, test } from "vitest";
import { EventParser, type ServerEvent } from "./sse";

const text = 'event: progress\ndata: {"a":1}\n\n: comment\n\ndata: one\ndata: two\r\nid: 7\n\ndata:[DONE]\n\nevent: lost\n\n';
const expected: ServerEvent[] = [
  { event: "progress", data: '{"a":1}', id: "" },
  { event: "message", data: "one\ntwo", id: "7" },
  { event: "message", data: "[DONE]", id: "7" },
];

test("any split of the text gives the same events", () => {
  expect(new EventParser().feed(text)).toEqual(expected);
  for (let at = 0; at <= text.length; ++at) {
    const parser = new EventParser();
    expect([...parser.feed(text.slice(0, at)), ...parser.feed(text.slice(at))]).toEqual(expected);
  }
  const parser = new EventParser();
  expect([...text].flatMap((c) => parser.feed(c))).toEqual(expected);
});
