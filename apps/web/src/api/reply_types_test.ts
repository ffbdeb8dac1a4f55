// @vitest-environment node
// What the server answers has the type that api/openapi.json gives it: a page cannot give it one of its own.
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";
import { at, deleteJson, getJson, postJson } from "./client";

const source = path.resolve(import.meta.dirname, "..");
// client.ts and lists.ts carry out the typing; sse.ts and the others are held to it.
const typed = new Set(["api/client.ts", "account/lists.ts"]);
const calls = /^(getJson|postJson|putJson|patchJson|deleteJson)$/;
const ofTheApi = /^(EventOf|ReplyOf|RowOf)<|^(object|unknown)$/;

function problemsOf(name: string, text: string): string[] {
  const file = ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true, name.endsWith("x") ? ts.ScriptKind.TSX : ts.ScriptKind.TS);
  const out: string[] = [];
  const isReply = (node: ts.Expression): boolean => {
    if (ts.isAwaitExpression(node) || ts.isParenthesizedExpression(node) || ts.isAsExpression(node)) return isReply(node.expression);
    if (!ts.isCallExpression(node)) return false;
    const callee = node.expression;
    if (ts.isIdentifier(callee)) return calls.test(callee.text);
    if (!ts.isPropertyAccessExpression(callee)) return false;
    return callee.name.text === "json" || (callee.getText() === "JSON.parse" && /\.data$/.test(node.arguments[0]?.getText() ?? ""));
  };
  const visit = (node: ts.Node) => {
    if (ts.isAsExpression(node) && isReply(node.expression) && !ofTheApi.test(node.type.getText())) out.push(`${name}:${file.getLineAndCharacterOfPosition(node.getStart()).line + 1}: ${node.getText().slice(0, 120)}`);
    ts.forEachChild(node, visit);
  };
  visit(file);
  return out;
}

test("no source casts a reply or an event to a type of its own", () => {
  const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((name) => /\.tsx?$/.test(name) && !/_test\.|openapi\.d/.test(name) && !typed.has(name));
  expect(files.length).toBeGreaterThan(50);
  expect(files.flatMap((name) => problemsOf(name, readFileSync(path.join(source, name), "utf8")))).toEqual([]);
});

test("such a cast is found", () => {
  expect(problemsOf("a.ts", 'const a = (await getJson("/api/v1/status")) as Mine;')).toHaveLength(1);
  expect(problemsOf("a.ts", "const a = (await reply.json()) as { mine: string };")).toHaveLength(1);
  expect(problemsOf("a.ts", "const a = JSON.parse(event.data) as unknown as Mine;")).toHaveLength(1);
  expect(problemsOf("a.ts", 'const a = JSON.parse(event.data) as EventOf<"PoolEvents", "state">; const b = JSON.parse(kept) as Draft;')).toEqual([]);
});

// Never called: the compiler, which is part of this run (scripts/test_web unit), refuses what is marked.
export function refusedByTheCompiler() {
  // @ts-expect-error a type of one's own
  void getJson<{ mine: string }>("/api/v1/status");
  // @ts-expect-error a path that is not served
  void getJson("/api/v1/nothing");
  // @ts-expect-error a method that the path has not
  void deleteJson("/api/v1/status");
  // @ts-expect-error a part that is missing
  void getJson(at("/api/v1/models/{id}", {}));
  // @ts-expect-error a field that the reply has not
  void postJson("/tokenize").then((reply) => reply.mine);
}

test("an address holds its parts and query encoded", () => {
  expect(at("/api/v1/models/{id}", { id: "org/repo:Q4?x#y" })).toBe("/api/v1/models/org/repo%3AQ4%3Fx%23y");
  expect(at("/api/v1/conversations/{id}/turns/{turn}/stop", { id: "a b", turn: "c&d" })).toBe("/api/v1/conversations/a%20b/turns/c%26d/stop");
  expect(at("/api/v1/usage", {}, { from: "2026-11-28T00:00:00Z", limit: 5 })).toBe("/api/v1/usage?from=2026-11-28T00%3A00%3A00Z&limit=5");
});
