// What a person sees while there is nothing to read yet: the place in the waiting line, how full the context is, where models are.
// Oracles: the API's own answers.
import { expect, test } from "vitest";
import { Server, smallModel } from "./server";
import { stage, visit } from "./stage";

// One sequence at a time: who comes second waits, and is not turned away.
const server = new Server(["--open", "--simulated", "--simulated-step-ms", "4", "--simulated-context-length", "320"], {
  TIDEPOOL_POOL_MEMORY: "500MiB", TIDEPOOL_POOL_WARM_MEMORY: "256MiB", TIDEPOOL_POOL_MAX_SEQUENCES: "1", TIDEPOOL_POOL_ADMISSION_LOAD: "0", TIDEPOOL_LEDGER_FREE_TOKENS: "0",
});
stage(server, { pages: "each test's own" });

// An answer of the better part of a minute, which the test ends when it has seen what it waited for: however slow the page is, it is
// there to be waited for.
function occupy(content: string) {
  const ending = new AbortController();
  const ended = fetch(`${server.url}/v1/chat/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: "scripted", stream: true, messages: [{ role: "user", content: `[[stall_ms:200]][[repeat:30:${content} ]]` }] }), signal: ending.signal })
    .then((reply) => reply.text()).then(() => "answered", () => "ended");
  return { end: async () => { ending.abort(); expect(await ended).toBe("ended"); } };
}
interface Pool { models: { id: string; waiting: number; active: number; pooled: boolean; bytes: { resident: number; warm: number } }[] }
const pool = async (id: string) => (await server.ask<Pool>("GET", "/api/v1/pool")).models.find((one) => one.id === id)!;

test("the place in the waiting line is shown while a request waits, and moves up", async () => {
  await visit.go("/chat");
  const first = occupy("first");
  await expect.poll(async () => (await pool("scripted")).active).toBe(1);
  const second = occupy("second");
  await expect.poll(async () => (await pool("scripted")).waiting).toBe(1);
  await visit.say("[[say:at last]]");
  const line = visit.answer().getByRole("status");
  await line.getByText(/^Waiting in the queue, 1 ahead/).waitFor();
  expect((await pool("scripted")).waiting).toBe(2);
  await first.end();
  await line.getByText(/^Waiting in the queue, 0 ahead/).waitFor();
  await second.end();
  await visit.answered();
  await visit.answer().locator(".prose-answer").getByText("at last").waitFor();
});

interface Kept { turns: { role: string; dropped_turns: number; usage: { prompt_tokens: number; completion_tokens: number } | null }[] }
test("the meter counts the draft and the context, warns when it fills, and what is left out is said", async () => {
  await visit.go("/chat");
  const draft = "How many tokens is this?";
  await visit.page.getByLabel("Message", { exact: true }).fill(draft);
  const { count } = await server.ask<{ count: number }>("POST", "/tokenize", { model: "scripted", prompt: draft, add_special_tokens: false });
  const meter = visit.page.getByTitle(/how much of the model's context/);
  const text = async () => (await meter.textContent())!.trim();
  await expect.poll(text).toBe(`${count} tokens`);
  const kept = async () => (await server.ask<Kept>("GET", `/api/v1/conversations/${await visit.conversation()}`)).turns.filter((turn) => turn.role === "assistant");
  await visit.say("[[repeat:20:wave ]]");
  await visit.answered();
  const { usage } = (await kept()).at(-1)!;
  await expect.poll(text).toBe(`${usage!.prompt_tokens + usage!.completion_tokens} of 320 context`);
  await expect.poll(() => meter.getAttribute("class")).toContain("text-faint");
  // Filled up: first a warning, then the oldest turns go, in sight.
  for (let i = 0; i < 12 && !(await kept()).at(-1)!.dropped_turns; ++i) {
    await visit.say(`[[repeat:30:wave ]] ${i}`);
    await visit.answered();
    await expect.poll(async () => (await kept()).at(-1)!.usage).not.toBeNull();
  }
  expect((await kept()).at(-1)!.dropped_turns).toBeGreaterThan(0);
  await visit.answer().getByText(/^The oldest .*left out here: the context was full/).waitFor();
  await visit.page.getByLabel("Message", { exact: true }).fill("tide ".repeat(300));
  await expect.poll(() => meter.getAttribute("class")).toContain("text-bad");
});

test("the picker says of each model whether it is in memory, warm or on disk", async () => {
  const name = "smollm2:135m";
  await server.store(smallModel, name);
  await visit.go("/chat");
  const trigger = visit.page.getByRole("button", { name: /^Model/ });
  const placeOf = async () => {
    await trigger.click();
    const text = (await visit.page.getByRole("menuitem", { name: new RegExp(`^${name}`) }).textContent())!;
    await visit.page.keyboard.press("Escape");
    return /(resident|warm|on disk|loading)$/.exec(text)?.[1];
  };
  await expect.poll(placeOf, { timeout: 15_000 }).toBe("on disk");
  await server.ask("POST", "/v1/chat/completions", { model: name, messages: [{ role: "user", content: "Hi" }], max_tokens: 4 });
  expect((await pool(name)).bytes.resident).toBeGreaterThan(0);
  await expect.poll(placeOf, { timeout: 15_000 }).toBe("resident");
  // Idle weights leave memory; what they are read from stays.
  await server.ask("POST", "/api/v1/pool/policy", { model: name, idle_ttl_s: 0.5 });
  await expect.poll(async () => (await pool(name)).bytes.resident, { timeout: 20_000 }).toBe(0);
  expect((await pool(name)).bytes.warm).toBeGreaterThan(0);
  await expect.poll(placeOf, { timeout: 15_000 }).toBe("warm");
  await trigger.click();
  await visit.page.getByRole("menuitem", { name: new RegExp(`^${name}`) }).click();
  await expect.poll(() => trigger.textContent()).toMatch(/warm$/);
});
