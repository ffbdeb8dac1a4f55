// What is taken out of the page works elsewhere: copies, exports, and code that is run as it was copied. Oracles: what the server
// kept; what the programs print.
import { execFile, execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, expect, test } from "vitest";
import { ranker, Server, testData } from "./server";
import { smallPool, stage, visit } from "./stage";

const run = promisify(execFile);
const server = new Server(["--simulated"], smallPool);
const folder = mkdtempSync(path.join(os.tmpdir(), "tidepool-snippets-"));
stage(server, { pages: "one for all", owner: true, context: { permissions: ["clipboard-read", "clipboard-write"] } });
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Turn { id: string; role: string; content: string; reasoning: string; files: { name: string; text: string }[] }
const asPage = <T>(where: string) => visit.page.evaluate(async (at) => (await fetch(at)).json() as unknown, where) as Promise<T>;

test("copies are the text itself: of an answer, of a block of code, of a question", async () => {
  await visit.go("/chat");
  const answer = "**Tides** & <moons>\n\n```python\nif a < b:\n    print(\"ü\")\n```\n\n$x^2$";
  await visit.say(`[[say:${answer}]]`);
  await visit.answered();
  await visit.answer().locator(".hljs-keyword").first().waitFor();
  await visit.answer().getByRole("button", { name: "Copy", exact: true }).last().click();
  await expect.poll(() => visit.copied()).toBe(answer);
  await visit.answer().getByRole("button", { name: "Copied" }).waitFor();
  await visit.answer().locator("pre").locator("..").getByRole("button", { name: "Copy" }).first().click();
  await expect.poll(async () => (await visit.copied()).trimEnd()).toBe("if a < b:\n    print(\"ü\")");
  await visit.page.locator('[data-role="user"]').hover();
  await visit.page.locator('[data-role="user"]').getByRole("button", { name: "Copy" }).click();
  await expect.poll(() => visit.copied()).toBe(`[[say:${answer}]]`);
});

test("the exports hold what was said: the branch as Markdown, the whole tree as JSON", async () => {
  await visit.go("/chat");
  await visit.page.locator('input[type="file"]').setInputFiles({ name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("high water at six\n") });
  await visit.say("[[think:hm]][[say:one | two]] <b>Bold?</b>");
  await visit.answered();
  await visit.answerAgain();
  await visit.answered();
  const id = await visit.conversation();
  const save = async (item: string) => {
    const [download] = await Promise.all([visit.page.waitForEvent("download"), visit.page.getByRole("button", { name: "More", exact: true }).click().then(() => visit.page.getByRole("menuitem", { name: item }).click())]);
    return { name: download.suggestedFilename(), text: readFileSync(await download.path(), "utf8") };
  };
  const json = await save("Export as JSON");
  expect(json.name).toBe(`${id}.json`);
  const whole = await asPage<{ turns: Turn[] }>(`/api/v1/conversations/${id}`);
  const exported = JSON.parse(json.text) as { id: string; turns: Turn[] };
  expect(exported.id).toBe(id);
  expect(exported.turns.map((turn) => [turn.id, turn.role, turn.content, turn.reasoning, turn.files])).toEqual(whole.turns.map((turn) => [turn.id, turn.role, turn.content, turn.reasoning, turn.files]));
  expect(exported.turns).toHaveLength(3);
  const markdown = await save("Export as Markdown");
  expect(markdown.name).toBe(`${id}.md`);
  for (const part of ["<b>Bold?</b>", "one | two", "notes.txt", "high water at six"]) expect(markdown.text).toContain(part);
  // The branch, one of the two answers: in the title, in the question, and in the answer.
  expect(markdown.text.split("one | two").length - 1).toBe(3);
});

// The official clients, where the tests' data has them (scripts/test_data).
const python = path.join(testData, "venv/bin/python");
const modules = path.join(testData, "npm_openai/node_modules");
const haveClients = existsSync(python) && existsSync(modules);
const environment = (more: Record<string, string>) => ({ PATH: process.env.PATH!, HOME: folder, NO_PROXY: "*", ...more });

async function output(language: string, text: string, keys: Record<string, string>): Promise<string> {
  if (language === "curl") return (await run("sh", ["-c", text], { env: environment(keys) })).stdout;
  if (language === "Python") {
    const file = path.join(folder, "snippet.py");
    writeFileSync(file, text);
    return (await run(python, [file], { env: environment(keys) })).stdout;
  }
  const file = path.join(folder, "snippet.mjs");
  writeFileSync(file, text);
  if (!existsSync(path.join(folder, "node_modules"))) symlinkSync(modules, path.join(folder, "node_modules"));
  return (await run(process.execPath, [file], { env: environment(keys) })).stdout;
}
async function copySnippet(language: string): Promise<string> {
  const code = visit.page.getByRole("region", { name: "As code" });
  await code.getByRole("button", { name: language, exact: true }).click();
  await code.getByRole("button", { name: language, exact: true, pressed: true }).waitFor();
  await code.getByRole("button", { name: /^(Copy|Copied)$/ }).click();
  const text = (await code.locator("pre").textContent())!;
  await expect.poll(() => visit.copied()).toBe(text);
  return text;
}
const languages = ["curl", "Python", "JavaScript"];
const said = `it's "so" \\ $HOME \`x\` 漢字`;

test.skipIf(!haveClients)("the playground's requests run as copied", async () => {
  await server.store(ranker, "ranker:1");
  await server.store(path.join(testData, "all-MiniLM-L6-v2"), "minilm:l6-v2");
  const key = { OPENAI_API_KEY: server.key };
  await visit.go("/playground?model=scripted");
  await visit.page.getByLabel("System prompt").fill("Don't \"shout\".");
  await visit.page.getByLabel("User message").fill(`[[say:${said}]]`);
  await visit.page.getByLabel("Temperature").fill("0.5");
  await visit.page.getByLabel("Top k").fill("5");
  await visit.page.getByLabel("More fields").fill('{"stop": null, "metadata": {"a": true}}');
  for (const language of languages) {
    const out = await output(language, await copySnippet(language), key);
    if (language === "curl") expect((JSON.parse(out) as { choices: { message: { content: string } }[] }).choices[0]!.message.content).toBe(said);
    else expect(out.trimEnd()).toBe(said);
  }
  // Without a key they are refused: it was the key that let them in.
  expect(await output("curl", await copySnippet("curl"), { OPENAI_API_KEY: "wrong" })).toContain("invalid_api_key");

  await visit.page.getByLabel("More fields").fill("");
  await visit.page.getByRole("radio", { name: "Completion" }).click();
  await visit.page.getByRole("button", { name: /^Model/ }).click();
  await visit.page.getByRole("menuitem", { name: /^scripted/ }).click();
  await visit.page.getByLabel("Prompt", { exact: true }).fill(`[[say:${said}]]`);
  await visit.page.getByLabel("Most tokens").fill("200");
  for (const language of languages) {
    const out = await output(language, await copySnippet(language), key);
    expect(language === "curl" ? (JSON.parse(out) as { choices: { text: string }[] }).choices[0]!.text : out.trimEnd()).toBe(said);
  }

  await visit.go("/playground?model=minilm:l6-v2");
  await visit.page.getByLabel("Texts").fill("it's the sea\n\"moon\"");
  const { data } = await server.ask<{ data: { embedding: number[] }[] }>("POST", "/v1/embeddings", { model: "minilm:l6-v2", input: ["it's the sea", "\"moon\""] });
  for (const language of languages) {
    const out = await output(language, await copySnippet(language), key);
    if (language === "curl") expect((JSON.parse(out) as { data: unknown[] }).data).toHaveLength(2);
    else expect(Number(/-?\d+\.\d+(e-?\d+)?/.exec(out)![0])).toBeCloseTo(data[0]!.embedding[0]!, 4);
  }

  await visit.go("/playground?model=ranker:1");
  await visit.page.getByLabel("Query").fill("it's \"sea\"");
  await visit.page.getByLabel("Documents").fill("the sea\nbread");
  const { results } = await server.ask<{ results: { index: number; relevance_score: number }[] }>("POST", "/v1/rerank", { model: "ranker:1", query: "it's \"sea\"", documents: ["the sea", "bread"] });
  for (const language of languages) {
    const out = await output(language, await copySnippet(language), key);
    const order = language === "curl" ? (JSON.parse(out) as { results: { index: number }[] }).results.map((one) => one.index) : out.trim().split("\n").map((line) => Number(line.split(" ")[1]));
    expect(order).toEqual(results.map((one) => one.index));
  }
}, 180_000);

test.skipIf(!haveClients)("a new key's own code, and each dialect's, run as copied", async () => {
  await visit.go("/keys");
  await visit.page.getByRole("button", { name: "New key" }).first().click();
  await visit.page.getByLabel("Name", { exact: true }).fill("from the page");
  const dialog = visit.page.getByRole("dialog");
  await dialog.getByRole("button", { name: "New key" }).click();
  const key = (await visit.page.getByTestId("key").textContent())!;
  await dialog.getByRole("button", { name: "Copy the key" }).click();
  await expect.poll(() => visit.copied()).toBe(key);
  await dialog.getByRole("button", { name: "Copy", exact: true }).click();
  await expect.poll(() => visit.copied()).toMatch(/^curl /);
  const answer = JSON.parse(execFileSync("sh", ["-c", await visit.copied()], { encoding: "utf8", env: environment({}) })) as { choices: { message: { content: string } }[] };
  expect(answer.choices[0]!.message.content.length).toBeGreaterThan(0);
  await visit.page.getByRole("button", { name: "I have kept it" }).click();
  const section = visit.page.getByRole("region", { name: "Connect a program" });
  for (const dialect of ["OpenAI", "Anthropic", "Ollama", "Bailian"]) {
    await section.getByRole("button", { name: dialect, exact: true }).click();
    await section.getByRole("button", { name: dialect, exact: true, pressed: true }).waitFor();
    await section.locator("pre").locator("..").getByRole("button", { name: /^(Copy|Copied)$/ }).last().click();
    const text = (await section.locator("pre").textContent())!;
    await expect.poll(() => visit.copied()).toBe(text);
    // What a shell is to be told stands before the program.
    const exports = text.split("\n").filter((line) => line.startsWith("export ")).join("\n");
    writeFileSync(path.join(folder, "dialect.py"), text.split("\n").filter((line) => !line.startsWith("export ")).join("\n"));
    const { stdout } = await run("sh", ["-c", `${exports}\nexec "$0" "$1"`, python, path.join(folder, "dialect.py")], { env: environment({ TIDEPOOL_API_KEY: key }) });
    expect(stdout.trim().length, `${dialect}: ${text}`).toBeGreaterThan(0);
  }
}, 120_000);
