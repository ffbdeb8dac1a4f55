import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { csvCell, csvOf, withHead } from "./lists";

test("cells that a spreadsheet would run become text", () => {
  for (const bad of ["=HYPERLINK(1)", "+1", "-1+cmd", "@SUM(1)"]) expect(csvCell(bad)).toMatch(/^"?'/);
  expect(csvCell(-5)).toBe("-5");
});

test("what came since stands before what was known, each row once", () => {
  const row = (id: string) => ({ id });
  expect(withHead([row("d"), row("c"), row("b")], [row("b"), row("a")]).map((one) => one.id)).toEqual(["d", "c", "b", "a"]);
  const known = [row("b"), row("a")];
  expect(withHead([row("b")], known)).toBe(known);
});

test("Python's csv reads the same cells", () => {
  const rows = [{ a: 'say "hi", you', b: "two\nlines" }, { a: "", b: null }];
  const read = execFileSync("python3", ["-c", "import csv, io, json, sys\nprint(json.dumps(list(csv.reader(io.StringIO(sys.stdin.read(), newline='')))))"], { input: csvOf(["a", "b"], rows), encoding: "utf8" });
  expect(JSON.parse(read)).toEqual([["a", "b"], ['say "hi", you', "two\nlines"], ["", ""]]);
});
