import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { csvCell, csvOf } from "./lists";

test("cells that a spreadsheet would run become text", () => {
  for (const bad of ["=HYPERLINK(1)", "+1", "-1+cmd", "@SUM(1)"]) expect(csvCell(bad)).toMatch(/^"?'/);
  expect(csvCell(-5)).toBe("-5");
});

test("Python's csv reads the same cells", () => {
  const rows = [{ a: 'say "hi", you', b: "two\nlines" }, { a: "", b: null }];
  const read = execFileSync("python3", ["-c", "import csv, io, json, sys\nprint(json.dumps(list(csv.reader(io.StringIO(sys.stdin.read(), newline='')))))"], { input: csvOf(["a", "b"], rows), encoding: "utf8" });
  expect(JSON.parse(read)).toEqual([["a", "b"], ['say "hi", you', "two\nlines"], ["", ""]]);
});
