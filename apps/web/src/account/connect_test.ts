import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { dialectsOf } from "./connect";

const list = dialectsOf("http://127.0.0.1:8433", "it's \"a\":1", "bge's");

test("every dialect has its own base", () => {
  expect(list.map((one) => [one.name, one.base.replace("http://127.0.0.1:8433", "")])).toEqual([["OpenAI", "/v1"], ["Anthropic", ""], ["Ollama", ""], ["Bailian", "/compatible-mode/v1"], ["Rerank", "/v1/rerank"]]);
  expect(dialectsOf("http://h", "m", undefined)).toHaveLength(4);
});

test("the snippets are Python, and a body that survives the shell", () => {
  for (const one of list.filter((dialect) => dialect.name !== "Rerank")) {
    const python = one.text.split("\n").filter((line) => !line.startsWith("export ")).join("\n");
    execFileSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: python });
  }
  const out = execFileSync("sh", ["-c", `curl() { for last; do :; done; printf %s "$last"; }\n${list.at(-1)!.text}`], { encoding: "utf8" });
  expect(JSON.parse(out)).toMatchObject({ model: "bge's", top_n: 1 });
});
