// Chat as a person meets it, in a real browser against the real server with the scripted model: what it says, when it stalls and
// when it fails is told in the question. Oracles: the text asked for; what the server kept.
import { execFileSync } from "node:child_process";
import path from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { launch, Visit } from "./browser";
import { Server } from "./server";

const server = new Server(["--open", "--simulated", "--simulated-step-ms", "4"], { TIDEPOOL_POOL_MEMORY: "400MiB", TIDEPOOL_POOL_WARM_MEMORY: "64MiB", TIDEPOOL_LEDGER_FREE_TOKENS: "0" });
let browser: Browser;
let visit: Visit;

beforeAll(async () => {
  await server.start();
  browser = await launch();
});
afterAll(async () => {
  await browser?.close();
  await server.remove();
});
beforeEach(async () => { visit = await Visit.open(browser, server.url); });
afterEach(async () => {
  expect(visit.problems).toEqual([]);
  await visit.close();
});

const last = (v = visit) => v.page.locator('[data-role="assistant"]').last();
async function say(text: string, v = visit) {
  await v.page.getByLabel("Message", { exact: true }).fill(text);
  await v.page.getByRole("button", { name: "Send" }).click();
}
async function ended(v = visit, state = "done") {
  await v.page.locator(`[data-role="assistant"][data-state="${state}"]`).last().waitFor();
}
interface Kept { turns: { id: string; role: string; content: string; reasoning: string; state: string }[]; running: boolean }
const kept = (v = visit) => server.ask<Kept>("GET", `/api/v1/conversations/${v.page.url().split("/").pop()}`);

test("the first visit leads to a first answer", async () => {
  await visit.page.goto(server.url);
  await visit.page.waitForURL(/\/chat$/);
  await say("What is water? [[say:Two **hydrogens** and an oxygen.]]");
  await ended();
  expect(await last().locator(".prose-answer strong").textContent()).toBe("hydrogens");
  await visit.page.waitForURL(/\/chat\/conv-/);
  expect((await kept()).turns.at(-1)).toMatchObject({ content: "Two **hydrogens** and an oxygen.", state: "done" });
  expect(await visit.page.getByRole("link", { name: /What is water/ }).count()).toBe(1);
  expect(await last().textContent()).toMatch(/scripted · \d+ tokens/);
});

test("reasoning is folded and keeps its time", async () => {
  await visit.go("/chat");
  await say("[[think:First this, then that.]][[say:So.]]");
  await ended();
  const fold = last().locator("details");
  expect(await fold.locator("summary").textContent()).toMatch(/Thought for/);
  expect(await fold.getByText("First this, then that.").isVisible()).toBe(false);
  await fold.locator("summary").click();
  expect(await fold.getByText("First this, then that.").isVisible()).toBe(true);
});

test("stop ends it, keeps what came, and continue goes on", async () => {
  await visit.go("/chat");
  await say("[[stall_ms:20]][[repeat:400:word ]]");
  await last().getByText("word word").waitFor();
  await visit.page.getByRole("button", { name: "Stop", exact: true }).click();
  await ended(visit, "stopped");
  const before = (await kept()).turns.at(-1)!;
  expect(before.content).toMatch(/^(word )+/);
  expect(before.content.length).toBeLessThan(1900);
  await last().getByRole("button", { name: "Continue" }).click();
  await visit.page.waitForFunction((length) => (document.querySelector('[data-role="assistant"]')?.textContent?.length ?? 0) > length + 20, before.content.length);
  await visit.page.getByRole("button", { name: "Stop", exact: true }).click();
  await ended(visit, "stopped");
  expect((await kept()).turns.at(-1)!.content.startsWith(before.content)).toBe(true);
});

test("answering again and editing make branches, with arrows between them", async () => {
  await visit.go("/chat");
  await say("[[say:one]]");
  await ended();
  await last().getByRole("button", { name: "Answer again" }).click();
  await visit.page.getByLabel("Branch 2 of 2").waitFor();
  await ended();
  await visit.page.locator('[data-role="user"]').hover();
  await visit.page.getByRole("button", { name: "Edit", exact: true }).click();
  await visit.page.getByLabel("Edit the message").fill("[[say:three]]");
  await visit.page.getByRole("button", { name: "Send as a new branch" }).click();
  await last().getByText("three").waitFor();
  await ended();
  expect((await kept()).turns.map((turn) => turn.content)).toEqual(["[[say:one]]", "one", "one", "[[say:three]]", "three"]);
  await visit.page.locator('[data-role="user"]').hover();
  await visit.page.getByRole("button", { name: "Previous branch" }).first().click();
  await last().getByText("one").waitFor();
  expect(await visit.page.getByLabel("Branch 2 of 2").count()).toBe(1);
  await visit.page.reload();
  await last().getByText("one").waitFor();
});

test("a reload and a second tab during the stream miss nothing", async () => {
  await visit.go("/chat");
  await say("[[stall_ms:10]][[repeat:60:drop ]]");
  await last().getByText("drop drop").waitFor();
  const second = await Visit.inContext(visit.context, server.url);
  await second.page.goto(visit.page.url());
  await visit.page.reload();
  await ended();
  await ended(second);
  const text = "drop ".repeat(60).trim();
  expect((await last().locator(".prose-answer").textContent())?.trim()).toBe(text);
  expect((await last(second).locator(".prose-answer").textContent())?.trim()).toBe(text);
  expect(second.problems).toEqual([]);
});

test("a closed page does not end the answer", async () => {
  await visit.go("/chat");
  await say("[[stall_ms:10]][[repeat:60:tide ]]");
  await last().getByText("tide").waitFor();
  const where = visit.page.url();
  await visit.page.goto("about:blank");
  await visit.page.waitForTimeout(1500);
  await visit.page.goto(where);
  await ended();
  expect((await kept()).turns.at(-1)!.content.trim()).toBe("tide ".repeat(60).trim());
});

test("a failure says why and can be tried again", async () => {
  await visit.go("/chat");
  await say("[[fail_after:3]][[tokens:20]]");
  await ended(visit, "failed");
  expect(await last().getByRole("alert").textContent()).not.toBe("");
  await last().getByRole("button", { name: "Answer again" }).click();
  await visit.page.getByLabel("Branch 2 of 2").waitFor();
});

test("drafts survive a reload, a file comes along, and the tokens are counted", async () => {
  await visit.go("/chat");
  await visit.page.getByLabel("Message", { exact: true }).fill("half a thought");
  await visit.page.locator('input[type="file"]').setInputFiles({ name: "<img src=x onerror=alert(1)>.py", mimeType: "text/plain", buffer: Buffer.from("print('hi')\n") });
  await visit.page.getByText(/^2\d tokens|^\d+ tokens/).waitFor();
  await visit.page.reload();
  expect(await visit.page.getByLabel("Message", { exact: true }).inputValue()).toBe("half a thought");
  await visit.page.locator('input[type="file"]').setInputFiles({ name: "x.bin", mimeType: "application/octet-stream", buffer: Buffer.from([0, 1, 2]) });
  expect(await visit.page.getByRole("alert").textContent()).toContain("x.bin is not a text");
  await visit.page.getByRole("button", { name: "Send" }).click();
  await ended();
  expect((await kept()).turns.at(-1)!.content).toContain("print('hi')");
  expect(await visit.page.getByLabel("Message", { exact: true }).inputValue()).toBe("");
});

test("what is typed while a message is on its way stays, in a new conversation and in one that is there", async () => {
  // Each is let through when the test says so.
  let go = () => {};
  await visit.page.route("**/turns", async (route) => {
    await new Promise<void>((resolve) => { go = resolve; });
    await route.continue();
  });
  const box = visit.page.getByLabel("Message", { exact: true });
  await visit.go("/chat");
  for (const [text, since] of [["[[say:one]]", "typed since"], ["[[say:two]]", "typed again"]] as const) {
    const asked = visit.page.waitForRequest(/\/turns$/);
    await say(text);
    await asked;
    await box.fill(since);
    go();
    await last().getByText(text === "[[say:one]]" ? "one" : "two", { exact: true }).waitFor();
    await ended();
    expect(await box.inputValue()).toBe(since);
  }
  await visit.page.reload();
  expect(await box.inputValue()).toBe("typed again");
  expect((await kept()).turns.filter((turn) => turn.role === "user").map((turn) => turn.content)).toEqual(["[[say:one]]", "[[say:two]]"]);
});

test("what a model says is inert", async () => {
  await visit.go("/chat");
  await say("[[say:<script>window.hit=1</script><img src=x onerror='window.hit=1'>\n\n![p](https://example.org/x.png) [l](javascript:window.hit=1)\n\n<iframe src=/></iframe>]]");
  await ended();
  // As plain text, which comes before the renderer is loaded, anything would be inert.
  await last().locator('a[href="https://example.org/x.png"]').waitFor();
  expect(await last().locator("img, iframe, script").count()).toBe(0);
  expect(await visit.page.evaluate(() => (window as { hit?: number }).hit)).toBeUndefined();
  expect(await last().locator('a[href="https://example.org/x.png"]').count()).toBe(1);
  expect(await last().locator('a[href^="javascript"]').count()).toBe(0);
});

test("names of files and what errors say are inert", async () => {
  const hostile = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>";
  const inert = async () => {
    expect(await visit.page.locator("main img[src=x], main script").count()).toBe(0);
    expect(await visit.page.evaluate(() => (window as { hit?: number }).hit)).toBeUndefined();
  };
  await visit.go("/chat");
  await visit.page.locator('input[type="file"]').setInputFiles({ name: `${hostile}.txt`, mimeType: "text/plain", buffer: Buffer.from(hostile) });
  await visit.page.getByText("<img src=x").first().waitFor();
  await inert();
  await say(`[[say:ok]] ${hostile}`);
  await ended();
  const question = visit.page.locator('[data-role="user"]');
  await question.locator("summary").click();
  expect(await question.locator("pre").textContent()).toBe(hostile);
  expect(await question.textContent()).toContain("<script>");
  await inert();
  await visit.page.route("**/turns", (route) => route.fulfill({ status: 400, contentType: "application/json", body: JSON.stringify({ error: { message: hostile, code: "invalid_value", param: null } }) }));
  await say("[[say:again]]");
  await visit.page.getByRole("alert").getByText("<img src=x").waitFor();
  await inert();
  // What could not be sent is there again.
  expect(await visit.page.getByLabel("Message", { exact: true }).inputValue()).toBe("[[say:again]]");
});

test("formulas, tables and code are drawn", async () => {
  await visit.go("/chat");
  await say("[[say:$$E = mc^2$$\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nconst x = 1;\n```\n]]");
  await ended();
  await last().locator(".katex").waitFor();
  await last().locator(".hljs-keyword").waitFor();
  expect(await last().locator("td").allTextContents()).toEqual(["1", "2"]);
});

test("rename, pin, search, export, delete", async () => {
  await visit.go("/chat");
  await say("[[say:a needle in a haystack]]");
  await ended();
  const id = visit.page.url().split("/").pop()!;
  await visit.page.getByRole("button", { name: /^More about/ }).first().click();
  await visit.page.getByRole("menuitem", { name: "Rename" }).click();
  await visit.page.getByLabel("Title").fill("Straw & <b>needles</b>");
  await visit.page.getByRole("button", { name: "Save" }).click();
  await visit.page.getByRole("link", { name: "Straw & <b>needles</b>" }).waitFor();
  await visit.page.getByRole("button", { name: "More about “Straw & <b>needles</b>”" }).click();
  await visit.page.getByRole("menuitem", { name: "Pin" }).click();
  await visit.page.getByRole("region", { name: "Pinned" }).waitFor();
  await visit.page.getByLabel("Search").fill("HAYSTACK");
  await visit.page.waitForFunction(() => document.querySelectorAll("aside li").length === 1);
  const download = visit.page.waitForEvent("download");
  await visit.page.getByRole("button", { name: "More", exact: true }).click();
  await visit.page.getByRole("menuitem", { name: "Export as Markdown" }).click();
  expect((await download).suggestedFilename()).toBe(`${id}.md`);
  await visit.page.getByRole("button", { name: "More about “Straw & <b>needles</b>”" }).click();
  await visit.page.getByRole("menuitem", { name: "Delete" }).click();
  await visit.page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await visit.page.waitForURL(/\/chat$/);
  await expect(server.ask("GET", `/api/v1/conversations/${id}`)).rejects.toThrow(/404/);
});

test("prompt and sampling belong to the conversation", async () => {
  await visit.go("/chat");
  await visit.page.getByRole("button", { name: "Prompt and sampling" }).click();
  await visit.page.getByLabel("System prompt").fill("Be brief.");
  await visit.page.getByLabel("Most tokens").fill("4");
  await visit.page.getByRole("button", { name: "Save" }).click();
  await say("[[repeat:50:x]]");
  await ended();
  expect((await kept()).turns.at(-1)!.content).toBe("xxxx");
  expect(await last().textContent()).toContain("cut off by the token limit");
});

test("what an answer cost is said, added up over branches, and equals the ledger", async () => {
  await visit.go("/chat");
  await say("[[say:nothing yet]]");
  await ended();
  expect(await last().textContent()).toContain("unpriced");
  expect(await visit.page.getByTestId("spent").textContent()).toBe("unpriced");
  await server.ask("POST", "/api/v1/prices", { currency: "EUR", models: [{ model: "*", tiers: [{ input: "2.5", output: "10" }] }] });
  await say("[[repeat:40:wave ]]");
  await ended();
  await visit.page.waitForFunction(() => /EUR/.test([...document.querySelectorAll('[data-role="assistant"]')].at(-1)?.textContent ?? ""));
  await last().getByRole("button", { name: "Answer again" }).click();
  await visit.page.getByLabel("Branch 2 of 2").waitFor();
  await ended();
  await visit.page.waitForFunction(() => / EUR spent$/.test(document.querySelector('[data-testid="spent"]')?.textContent ?? ""));
  const turns = (await server.ask<{ turns: { cost: { amount: string; currency: string; billing: string } | null }[] }>("GET", `/api/v1/conversations/${visit.page.url().split("/").pop()}`)).turns;
  const paid = turns.filter((turn) => turn.cost?.billing === "paid").map((turn) => turn.cost!);
  expect(paid).toHaveLength(2);
  const rows = async () => (await server.ask<{ data: { amount: string }[] }>("GET", "/api/v1/requests?limit=2")).data.map((row) => row.amount).sort();
  await expect.poll(rows, { timeout: 5_000 }).toEqual(paid.map((cost) => cost.amount).sort());
  const total = paid.reduce((all, cost) => all + Number(cost.amount), 0);
  expect(total).toBeGreaterThan(0);
  const shown = (await visit.page.getByTestId("spent").textContent())!;
  expect(Math.abs(Number(shown.split(" ")[0]) - total)).toBeLessThan(total * 0.01);
  expect(await visit.page.getByTestId("spent").getAttribute("title")).toContain("1 answer without a price");
});

test("two thousand messages scroll like twenty", async () => {
  const made = await server.ask<{ id: string }>("POST", "/api/v1/conversations", { model: "scripted", title: "Long" });
  // Straight into the store: what is looked at is the page.
  await server.stop();
  execFileSync("python3", ["-c", `
import sqlite3, sys
rows = [(f"turn-{i}", sys.argv[2], f"turn-{i - 1}" if i else "", "assistant" if i % 2 else "user", f"answer {i // 2}" if i % 2 else f"**question** {i // 2}") for i in range(2000)]
store = sqlite3.connect(sys.argv[1])
store.executemany("INSERT INTO conversation_turns (id, conversation, parent, role, content, reasoning, files, model, state, finish_reason, error_code, error_message, usage, timings, dropped_turns, created_ms)"
                  " VALUES (?, ?, ?, ?, ?, '', '[]', 'scripted', 'done', 'stop', '', '', '', '', 0, 0)", rows)
store.commit()`, path.join(server.home, "tidepool.db"), made.id]);
  await server.start();
  const started = Date.now();
  await visit.go(`/chat/${made.id}`);
  await last().getByText("answer 999").waitFor();
  console.log(`2,000 messages shown after ${Date.now() - started} ms`);
  expect(await visit.page.locator("[data-turn]").count()).toBeLessThan(60);
  const box = visit.page.getByRole("log");
  // An edit is there again where its message is looked at again.
  const edit = visit.page.getByLabel("Edit the message");
  await visit.page.locator('[data-role="user"]').last().hover();
  await visit.page.locator('[data-role="user"]').last().getByRole("button", { name: "Edit", exact: true }).click();
  await edit.fill("half an edit");
  await box.evaluate((element) => { element.scrollTop = 0; });
  await visit.page.getByText("answer 0", { exact: true }).waitFor();
  expect(await edit.count()).toBe(0);
  await visit.page.getByRole("button", { name: "To the end" }).click();
  await edit.waitFor();
  expect(await edit.inputValue()).toBe("half an edit");
  await box.evaluate((element) => { element.scrollTop = 0; });
  await visit.page.getByText("answer 0", { exact: true }).waitFor();
  expect(await visit.page.locator("[data-turn]").count()).toBeLessThan(60);
});

test("a killed server leaves what arrived, marked, and the page finds it again", async () => {
  await visit.go("/chat");
  await say("[[stall_ms:30]][[repeat:2000:wave ]]");
  await last().getByText("wave wave").waitFor();
  await visit.page.waitForTimeout(1500);
  await server.stop("SIGKILL");
  await visit.page.getByText("The connection was lost").waitFor();
  await visit.page.getByLabel("Message", { exact: true }).fill("not lost");
  await server.start();
  await ended(visit, "interrupted");
  expect(await last().textContent()).toContain("The server stopped while this was being written");
  expect((await kept()).turns.at(-1)!.content).toMatch(/^(wave )+/);
  expect(await visit.page.getByLabel("Message", { exact: true }).inputValue()).toBe("not lost");
  await last().getByRole("button", { name: "Continue" }).click();
  await visit.page.locator('[data-state="running"]').waitFor();
  await visit.page.getByRole("button", { name: "Stop", exact: true }).click();
  await ended(visit, "stopped");
});

test("axe finds nothing serious in the chat", async () => {
  for (const scheme of ["light", "dark"] as const) {
    await visit.page.emulateMedia({ colorScheme: scheme });
    await visit.go("/chat");
    expect(await visit.checkAccessibility()).toEqual([]);
    await say("[[think:hm]][[say:| a |\n|---|\n| 1 |\n\n```js\nlet x = 'y'; // z\n```\n$$x$$]]");
    await ended();
    await last().locator(".hljs-keyword").waitFor();
    expect(await visit.checkAccessibility()).toEqual([]);
  }
});
