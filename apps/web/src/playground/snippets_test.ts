import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { pythonLiteral, snippetsOf } from "./snippets";

const hard = { model: "a:b", messages: [{ role: "user", content: "it's \"quoted\" \\ $HOME `x`\n\u2028 漢字 🌊" }], temperature: 0, logprobs: true, top_k: 5, stop: null };

test("curl's body survives the shell byte for byte", () => {
  const text = snippetsOf("http://127.0.0.1:1", "/v1/chat/completions", hard)[0]!.text;
  // curl is replaced by a function that prints what follows -d.
  const out = execFileSync("sh", ["-c", `curl() { for last; do :; done; printf %s "$last"; }\n${text}`], { encoding: "utf8" });
  expect(JSON.parse(out)).toEqual(hard);
});

test("Python reads its literal as the same value", () => {
  const out = execFileSync("python3", ["-c", `import json\nprint(json.dumps(${pythonLiteral(hard, "")}))`], { encoding: "utf8" });
  expect(JSON.parse(out)).toEqual(hard);
});

test("ranking needs no client", () => {
  const body = { model: "r", query: "it's", documents: ["a \"b\"", "漢"], top_n: null };
  const [curl, python] = snippetsOf("http://h", "/v1/rerank", body);
  const out = execFileSync("sh", ["-c", `curl() { for last; do :; done; printf %s "$last"; }\n${curl!.text}`], { encoding: "utf8" });
  expect(JSON.parse(out)).toEqual(body);
  execFileSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: python!.text });
});

test("fields that OpenAI's Python client does not know go to extra_body", () => {
  const text = snippetsOf("http://h", "/v1/chat/completions", hard)[1]!.text;
  expect(text).toContain("extra_body={\n        \"top_k\": 5,");
  execFileSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: text });
});
