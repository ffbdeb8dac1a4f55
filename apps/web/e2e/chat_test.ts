// Chat as a person meets it, in a real browser against the real server with the scripted model: what it says, when it stalls and
// when it fails is told in the question. Oracles: the text asked for; what the server kept.
import { expect, test } from "vitest";
import { Visit } from "./browser";
import { intoStore } from "./fill";
import { Server } from "./server";
import { smallPool, stage, visit } from "./stage";

const server = new Server(["--open", "--simulated", "--simulated-step-ms", "4"], { ...smallPool, TIDEPOOL_LEDGER_FREE_TOKENS: "0" });
stage(server, { pages: "each test's own" });

interface Kept { turns: { id: string; role: string; content: string; reasoning: string; state: string; cost: { amount: string; currency: string; billing: string } | null }[]; running: boolean }
const kept = async () => server.ask<Kept>("GET", `/api/v1/conversations/${await visit.conversation()}`);

test("the first visit leads to a first answer", async () => {
  await visit.page.goto(server.url);
  await visit.page.waitForURL(/\/chat$/);
  await visit.say("What is water? [[say:Two **hydrogens** and an oxygen.]]");
  await visit.answered();
  await expect.poll(() => visit.answer().locator(".prose-answer strong").textContent()).toBe("hydrogens");
  expect((await kept()).turns.at(-1)).toMatchObject({ content: "Two **hydrogens** and an oxygen.", state: "done" });
  await expect.poll(() => visit.page.getByRole("link", { name: /What is water/ }).count()).toBe(1);
  await expect.poll(() => visit.answer().textContent()).toMatch(/scripted · \d+ tokens/);
});

test("reasoning is folded and keeps its time", async () => {
  await visit.go("/chat");
  await visit.say("[[think:First this, then that.]][[say:So.]]");
  await visit.answered();
  const fold = visit.answer().locator("details");
  await expect.poll(() => fold.locator("summary").textContent()).toMatch(/Thought for/);
  await fold.getByText("First this, then that.").waitFor({ state: "hidden" });
  await fold.locator("summary").click();
  await fold.getByText("First this, then that.").waitFor();
});

test("stop ends it, keeps what came, and continue goes on", async () => {
  await visit.go("/chat");
  await visit.say("[[stall_ms:20]][[repeat:2000:word ]]");
  await visit.answer().getByText("word word").waitFor();
  await visit.page.getByRole("button", { name: "Stop", exact: true }).click();
  await visit.answered("stopped");
  const before = (await kept()).turns.at(-1)!;
  expect(before.content).toMatch(/^(word )+/);
  expect(before.content.length).toBeLessThan(9900);
  await visit.answer().getByRole("button", { name: "Continue" }).click();
  await visit.page.waitForFunction((length) => (document.querySelector('[data-role="assistant"]')?.textContent?.length ?? 0) > length + 20, before.content.length);
  await visit.page.getByRole("button", { name: "Stop", exact: true }).click();
  await visit.answered("stopped");
  expect((await kept()).turns.at(-1)!.content.startsWith(before.content)).toBe(true);
});

test("answering again and editing make branches, with arrows between them", async () => {
  await visit.go("/chat");
  await visit.say("[[say:one]]");
  await visit.answered();
  await visit.answerAgain();
  await visit.answered();
  await visit.page.getByLabel("Branch 2 of 2").waitFor();
  await visit.page.locator('[data-role="user"]').hover();
  await visit.page.getByRole("button", { name: "Edit", exact: true }).click();
  await visit.page.getByLabel("Edit the message").fill("[[say:three]]");
  await visit.page.getByRole("button", { name: "Send as a new branch" }).click();
  await visit.answer().getByText("three").waitFor();
  await visit.answered();
  expect((await kept()).turns.map((turn) => turn.content)).toEqual(["[[say:one]]", "one", "one", "[[say:three]]", "three"]);
  await visit.page.locator('[data-role="user"]').hover();
  await visit.page.getByRole("button", { name: "Previous branch" }).first().click();
  await visit.answer().getByText("one").waitFor();
  await visit.page.getByLabel("Branch 2 of 2").waitFor();
  await visit.page.reload();
  await visit.answer().getByText("one").waitFor();
});

test("moving between branches while an answer is written neither stops it nor loses any of it", async () => {
  await visit.go("/chat");
  const words = "tide ".repeat(200);
  await visit.say("[[stall_ms:25]][[repeat:200:tide ]]");
  await visit.answer().getByText("tide tide").waitFor();
  await visit.page.getByRole("button", { name: "Stop", exact: true }).click();
  await visit.answered("stopped");
  await visit.answerAgain();
  await visit.answered("running");
  await visit.page.getByLabel("Branch 2 of 2").waitFor();
  await visit.answer().getByRole("button", { name: "Previous branch" }).click();
  await visit.page.getByLabel("Branch 1 of 2").waitFor();
  expect((await kept()).turns.map((turn) => turn.state)).toEqual(["done", "stopped", "running"]);
  await visit.answer().getByLabel("answering").waitFor();
  // Here nothing runs: this branch goes on beside the other.
  await visit.say("[[say:beside it]]");
  await visit.answered();
  await visit.page.getByRole("button", { name: "Next branch" }).click();
  await visit.page.getByLabel("Branch 2 of 2").waitFor();
  await visit.page.locator('[data-role="assistant"][data-state="done"]').waitFor();
  await expect.poll(() => visit.answer().locator(".prose-answer").textContent()).toContain(words.trim());
  const { turns } = await kept();
  expect(turns.map((turn) => turn.state)).toEqual(["done", "stopped", "done", "done", "done"]);
  expect(turns[2]!.content.trim()).toBe(words.trim());
});

test("a reload and a second tab during the stream miss nothing", async () => {
  await visit.go("/chat");
  await visit.say("[[stall_ms:10]][[repeat:60:drop ]]");
  await visit.answer().getByText("drop drop").waitFor();
  const second = await Visit.inContext(visit.context, server.url);
  await second.page.goto(visit.page.url());
  await visit.page.reload();
  for (const tab of [visit, second]) {
    await tab.answered();
    await expect.poll(async () => (await tab.answer().locator(".prose-answer").textContent())?.trim()).toBe("drop ".repeat(60).trim());
  }
  expect(second.problems).toEqual([]);
});

test("a closed page does not end the answer", async () => {
  await visit.go("/chat");
  await visit.say("[[stall_ms:10]][[repeat:60:tide ]]");
  await visit.answer().getByText("tide").waitFor();
  const where = `/chat/${await visit.conversation()}`;
  await visit.page.goto("about:blank");
  await visit.page.waitForTimeout(1500);
  await visit.go(where);
  await visit.answered();
  expect((await kept()).turns.at(-1)!.content.trim()).toBe("tide ".repeat(60).trim());
});

test("a failure says why and can be tried again", async () => {
  await visit.go("/chat");
  await visit.say("[[fail_after:3]][[tokens:20]]");
  await visit.answered("failed");
  await expect.poll(() => visit.answer().getByRole("alert").textContent()).not.toBe("");
  await visit.answerAgain();
  await visit.page.getByLabel("Branch 2 of 2").waitFor();
});

test("drafts survive a reload, a file comes along, and the tokens are counted", async () => {
  await visit.go("/chat");
  await visit.page.getByLabel("Message", { exact: true }).fill("half a thought");
  await visit.page.locator('input[type="file"]').setInputFiles({ name: "<img src=x onerror=alert(1)>.py", mimeType: "text/plain", buffer: Buffer.from("print('hi')\n") });
  await visit.page.getByText(/^2\d tokens|^\d+ tokens/).waitFor();
  await visit.page.reload();
  await expect.poll(() => visit.page.getByLabel("Message", { exact: true }).inputValue()).toBe("half a thought");
  await visit.page.locator('input[type="file"]').setInputFiles({ name: "x.bin", mimeType: "application/octet-stream", buffer: Buffer.from([0, 1, 2]) });
  await visit.page.getByRole("alert").getByText("x.bin is not a text").waitFor();
  await visit.page.getByRole("button", { name: "Send" }).click();
  await visit.answered();
  expect((await kept()).turns.at(-1)!.content).toContain("print('hi')");
  await expect.poll(() => visit.page.getByLabel("Message", { exact: true }).inputValue()).toBe("");
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
    await visit.say(text);
    await asked;
    await box.fill(since);
    go();
    await visit.answer().getByText(text === "[[say:one]]" ? "one" : "two", { exact: true }).waitFor();
    await visit.answered();
    expect(await box.inputValue()).toBe(since);
  }
  await visit.page.reload();
  await expect.poll(() => box.inputValue()).toBe("typed again");
  expect((await kept()).turns.filter((turn) => turn.role === "user").map((turn) => turn.content)).toEqual(["[[say:one]]", "[[say:two]]"]);
});

test("what a model says is inert", async () => {
  await visit.go("/chat");
  await visit.say("[[say:<script>window.hit=1</script><img src=x onerror='window.hit=1'>\n\n![p](https://example.org/x.png) [l](javascript:window.hit=1)\n\n<iframe src=/></iframe>]]");
  await visit.answered();
  // As plain text, which comes before the renderer is loaded, anything would be inert.
  await visit.answer().locator('a[href="https://example.org/x.png"]').waitFor();
  expect(await visit.answer().locator("img, iframe, script").count()).toBe(0);
  expect(await visit.page.evaluate(() => (window as { hit?: number }).hit)).toBeUndefined();
  expect(await visit.answer().locator('a[href="https://example.org/x.png"]').count()).toBe(1);
  expect(await visit.answer().locator('a[href^="javascript"]').count()).toBe(0);
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
  await visit.say(`[[say:ok]] ${hostile}`);
  await visit.answered();
  const question = visit.page.locator('[data-role="user"]');
  await question.locator("summary").click();
  await expect.poll(() => question.locator("pre").textContent()).toBe(hostile);
  await expect.poll(() => question.textContent()).toContain("<script>");
  await inert();
  await visit.page.route("**/turns", (route) => route.fulfill({ status: 400, contentType: "application/json", body: JSON.stringify({ error: { message: hostile, code: "invalid_value", param: null } }) }));
  await visit.say("[[say:again]]");
  await visit.page.getByRole("alert").getByText("<img src=x").waitFor();
  await inert();
  // What could not be sent is there again.
  await expect.poll(() => visit.page.getByLabel("Message", { exact: true }).inputValue()).toBe("[[say:again]]");
});

test("formulas, tables and code are drawn", async () => {
  await visit.go("/chat");
  await visit.say("[[say:$$E = mc^2$$\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nconst x = 1;\n```\n]]");
  await visit.answered();
  await visit.answer().locator(".katex").waitFor();
  await visit.answer().locator(".hljs-keyword").waitFor();
  await expect.poll(() => visit.answer().locator("td").allTextContents()).toEqual(["1", "2"]);
});

test("rename, pin, search, export, delete", async () => {
  await visit.go("/chat");
  await visit.say("[[say:a needle in a haystack]]");
  await visit.answered();
  const id = await visit.conversation();
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
  await visit.say("[[repeat:50:x]]");
  await visit.answered();
  expect((await kept()).turns.at(-1)!.content).toBe("xxxx");
  await visit.answer().getByText("cut off by the token limit").waitFor();
});

test("what an answer cost is said, added up over branches, and equals the ledger", async () => {
  await visit.go("/chat");
  await visit.say("[[say:nothing yet]]");
  await visit.answered();
  await visit.answer().getByText("unpriced").waitFor();
  await expect.poll(() => visit.page.getByTestId("spent").textContent()).toBe("unpriced");
  await server.ask("POST", "/api/v1/prices", { currency: "EUR", models: [{ model: "*", tiers: [{ input: "2.5", output: "10" }] }] });
  await visit.say("[[repeat:40:wave ]]");
  await visit.answered();
  await visit.answer().getByText(/EUR/).waitFor();
  await visit.answerAgain();
  await visit.answered();
  await visit.answer().getByText(/EUR/).waitFor();
  const paid = (await kept()).turns.flatMap((turn) => (turn.cost?.billing === "paid" ? [turn.cost] : []));
  expect(paid).toHaveLength(2);
  const rows = async () => (await server.ask<{ data: { amount: string }[] }>("GET", "/api/v1/requests?limit=2")).data.map((row) => row.amount).sort();
  await expect.poll(rows).toEqual(paid.map((cost) => cost.amount).sort());
  const total = paid.reduce((all, cost) => all + Number(cost.amount), 0);
  expect(total).toBeGreaterThan(0);
  const shown = async () => Number(/^([\d.]+) EUR spent$/.exec((await visit.page.getByTestId("spent").textContent())!)?.[1]);
  await expect.poll(async () => Math.abs((await shown()) - total)).toBeLessThan(total * 0.01);
  expect(await visit.page.getByTestId("spent").getAttribute("title")).toContain("1 answer without a price");
});

test("two thousand messages scroll like twenty", async () => {
  const made = await server.ask<{ id: string }>("POST", "/api/v1/conversations", { model: "scripted", title: "Long" });
  await intoStore(server, "conversation_turns", Array.from({ length: 2000 }, (_, index) => ({
    id: `turn-${index}`, conversation: made.id, parent: index > 0 ? `turn-${index - 1}` : "", role: index % 2 ? "assistant" : "user", content: `${index % 2 ? "answer" : "**question**"} ${Math.floor(index / 2)}`,
    reasoning: "", files: "[]", model: "scripted", state: "done", finish_reason: "stop", error_code: "", error_message: "", usage: "", timings: "", dropped_turns: 0, created_ms: 0,
  })));
  const started = Date.now();
  await visit.go(`/chat/${made.id}`);
  await visit.answer().getByText("answer 999").waitFor();
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
  await edit.waitFor({ state: "detached" });
  await visit.page.getByRole("button", { name: "To the end" }).click();
  await edit.waitFor();
  await expect.poll(() => edit.inputValue()).toBe("half an edit");
  await box.evaluate((element) => { element.scrollTop = 0; });
  await visit.page.getByText("answer 0", { exact: true }).waitFor();
  expect(await visit.page.locator("[data-turn]").count()).toBeLessThan(60);
});

test("a killed server leaves what arrived, marked, and the page finds it again", async () => {
  await visit.go("/chat");
  await visit.say("[[stall_ms:30]][[repeat:2000:wave ]]");
  await visit.answer().getByText("wave wave").waitFor();
  await visit.page.waitForTimeout(1500);
  await server.stop("SIGKILL");
  await visit.page.getByText("The connection was lost").waitFor();
  await visit.page.getByLabel("Message", { exact: true }).fill("not lost");
  await server.start();
  await visit.answered("interrupted");
  await visit.answer().getByText("The server stopped while this was being written").waitFor();
  expect((await kept()).turns.at(-1)!.content).toMatch(/^(wave )+/);
  await expect.poll(() => visit.page.getByLabel("Message", { exact: true }).inputValue()).toBe("not lost");
  await visit.answer().getByRole("button", { name: "Continue" }).click();
  await visit.answered("running");
  await visit.page.getByRole("button", { name: "Stop", exact: true }).click();
  await visit.answered("stopped");
});

test("axe finds nothing serious in the chat", async () => {
  for (const scheme of ["light", "dark"] as const) {
    await visit.page.emulateMedia({ colorScheme: scheme });
    await visit.go("/chat");
    expect(await visit.checkAccessibility()).toEqual([]);
    await visit.say("[[think:hm]][[say:| a |\n|---|\n| 1 |\n\n```js\nlet x = 'y'; // z\n```\n$$x$$]]");
    await visit.answered();
    await visit.answer().locator(".hljs-keyword").waitFor();
    expect(await visit.checkAccessibility()).toEqual([]);
  }
});
