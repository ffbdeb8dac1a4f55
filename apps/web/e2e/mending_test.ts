// What needs attention is said on the overview, and the button beside it mends it; pulls are paused and resumed by their buttons.
// Oracles: the API; a shelf of files on loopback that counts what is asked of it.
import { createHash } from "node:crypto";
import { createServer, type Server as HttpServer, type ServerResponse } from "node:http";
import { readFileSync, renameSync } from "node:fs";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { afterAll, expect, test } from "vitest";
import { Server, smallModel } from "./server";
import { stage, visit } from "./stage";

// Files over HTTP with ranges; what comes after `hold` bytes waits for release().
class Shelf {
  readonly ranges: (string | undefined)[] = [];
  hold = Infinity;
  private readonly files = new Map<string, Buffer>();
  private readonly held: (() => void)[] = [];
  private http: HttpServer | null = null;
  url = "";

  async start() {
    this.http = createServer((request, reply) => this.answer(request.url ?? "", request.headers.range, reply));
    await new Promise<void>((resolve) => { this.http!.listen(0, "127.0.0.1", resolve); });
    this.url = `http://127.0.0.1:${(this.http.address() as AddressInfo).port}`;
  }
  stop() {
    this.release();
    this.http?.closeAllConnections();
    this.http?.close();
  }
  put(name: string, content: Buffer) { this.files.set(name, content); }
  release() {
    this.hold = Infinity;
    for (const go of this.held.splice(0)) go();
  }
  private answer(name: string, range: string | undefined, reply: ServerResponse) {
    const content = this.files.get(name);
    if (!content) return void reply.writeHead(404).end();
    this.ranges.push(range);
    const first = range ? Number(/bytes=(\d+)-/.exec(range)![1]) : 0;
    const body = content.subarray(first);
    reply.writeHead(range ? 206 : 200, { ETag: '"one"', "Content-Length": body.length, ...(range ? { "Content-Range": `bytes ${first}-${content.length - 1}/${content.length}` } : {}) });
    if (this.hold >= body.length) return void reply.end(body);
    reply.write(body.subarray(0, this.hold));
    const from = this.hold;
    this.held.push(() => reply.end(body.subarray(from)));
  }
}

const server = new Server(["--open", "--simulated", "--simulated-step-ms", "2"], {
  TIDEPOOL_POOL_MEMORY: "600MiB", TIDEPOOL_POOL_WARM_MEMORY: "64MiB", TIDEPOOL_LEDGER_FREE_TOKENS: "0", TIDEPOOL_PULL_ALLOW_PRIVATE_ADDRESSES: "true", TIDEPOOL_POOL_ADMISSION_LOAD: "0",
});
const shelf = new Shelf();
stage(server, { pages: "each test's own", prepare: () => shelf.start() });
afterAll(() => shelf.stop());

const content = readFileSync(smallModel);
interface PullRow { id: string; model: string; state: string; bytes_done: number; bytes_total: number }
const pulls = async () => (await server.ask<{ data: PullRow[] }>("GET", "/api/v1/pulls")).data;
const pullOf = async (file: string) => (await pulls()).find((one) => one.model === `${shelf.url}/${file}`)!;
const concern = (text: string | RegExp) => visit.page.getByRole("list", { name: "Needs attention" }).getByRole("listitem").filter({ hasText: text });
const scripted = (text: string) => server.ask("POST", "/v1/chat/completions", { model: "scripted", messages: [{ role: "user", content: text }] });

test("a pull shows its progress, is paused and resumed by its buttons, and goes on where it was", async () => {
  shelf.put("/held.gguf", content);
  shelf.hold = 20_000_000;
  await visit.go("/models");
  await visit.page.getByRole("button", { name: "Add a model" }).click();
  await visit.page.getByLabel("Source").fill(`${shelf.url}/held.gguf`);
  await visit.page.getByLabel("Store it as").fill("held:1");
  await visit.page.getByRole("dialog").getByRole("button", { name: "Get", exact: true }).click();
  const row = visit.page.getByRole("listitem").filter({ hasText: "/held.gguf" });
  await row.getByText(/^running/).waitFor();
  const meter = row.getByRole("meter");
  await expect.poll(async () => Number(await meter.getAttribute("aria-valuenow")), { timeout: 20_000 }).toBeGreaterThan(0);
  const running = await pullOf("held.gguf");
  expect(running.bytes_total).toBe(content.length);
  expect(running.bytes_done).toBeLessThanOrEqual(20_000_000);
  await row.getByText(/MiB \/ 9\d\.\d MiB · \d+/).waitFor();
  await row.getByRole("button", { name: "Pause" }).click();
  await row.getByText("paused").waitFor();
  await expect.poll(async () => (await pullOf("held.gguf")).state).toBe("paused");
  await visit.page.reload();
  await row.getByText("paused").waitFor();
  shelf.release();
  await row.getByRole("button", { name: "Resume" }).click();
  await visit.page.getByRole("link", { name: "held:1" }).waitFor({ timeout: 30_000 });
  await row.waitFor({ state: "detached" });
  const resumed = Number(/bytes=(\d+)-/.exec(shelf.ranges.at(-1)!)![1]);
  expect(resumed).toBeGreaterThan(0);
  expect(resumed).toBeLessThanOrEqual(20_000_000);
  const blob = path.join(server.home, "models/blobs", `sha256-${createHash("sha256").update(content).digest("hex")}`);
  expect(readFileSync(blob).equals(content)).toBe(true);
});

test("a pull that failed is tried again from the overview, and one that is not wanted is dropped", async () => {
  await server.ask("POST", "/api/v1/pulls", { source: `${shelf.url}/late.gguf`, name: "late:1" });
  await visit.go("/overview");
  const late = concern("/late.gguf could not be fetched");
  await late.waitFor({ timeout: 40_000 });
  shelf.put("/late.gguf", content);
  await late.getByRole("button", { name: "Try again" }).click();
  await late.waitFor({ state: "detached", timeout: 20_000 });
  await expect.poll(async () => (await pullOf("late.gguf")).state, { timeout: 20_000 }).toBe("done");

  shelf.hold = 1_000_000;
  shelf.put("/unwanted.gguf", content);
  await server.ask("POST", "/api/v1/pulls", { source: `${shelf.url}/unwanted.gguf`, name: "unwanted:1" });
  await visit.go("/models");
  const row = visit.page.getByRole("listitem").filter({ hasText: "/unwanted.gguf" });
  await row.getByRole("button", { name: "Cancel and drop what came" }).click();
  await row.waitFor({ state: "detached" });
  await expect.poll(async () => (await pullOf("unwanted.gguf")).state).toBe("cancelled");
  shelf.release();
}, 90_000);

test("a model that could not be loaded is tried again by its button", async () => {
  // Its file is gone; after a few attempts the pool puts the model aside.
  const blobs = path.join(server.home, "models/blobs");
  const blob = path.join(blobs, `sha256-${createHash("sha256").update(content).digest("hex")}`);
  renameSync(blob, `${blob}.away`);
  const state = async () => (await server.ask<{ state: string }>("GET", "/api/v1/models/held:1")).state;
  for (let i = 0; i < 5 && (await state()) !== "quarantined"; ++i) {
    await server.ask("POST", "/v1/chat/completions", { model: "held:1", messages: [{ role: "user", content: "Hi" }], max_tokens: 2 }).catch(() => {});
  }
  expect(await state()).toBe("quarantined");
  await visit.go("/overview");
  const failed = concern("held:1 could not be loaded");
  await failed.waitFor({ timeout: 20_000 });
  renameSync(`${blob}.away`, blob);
  await failed.getByRole("button", { name: "Try again" }).click();
  await failed.waitFor({ state: "detached", timeout: 20_000 });
  await expect.poll(state, { timeout: 20_000 }).toBe("ready");
});

test("a cordoned pool, settings that wait, a budget that is spent, a pool that is too full: each leads to where it is mended", async () => {
  await server.ask("POST", "/api/v1/pool/cordon", { cordoned: true });
  await server.ask("PATCH", "/api/v1/settings", { values: { "pool.ttft_s": "7" } });
  await visit.go("/overview");
  const cordoned = concern("The pool is cordoned");
  await cordoned.getByRole("button", { name: "Open it again" }).click();
  await cordoned.waitFor({ state: "detached" });
  await expect.poll(async () => (await server.ask<{ device: { cordoned: boolean } }>("GET", "/api/v1/pool")).device.cordoned).toBe(false);

  await concern("1 change takes effect at the next start: pool.ttft_s").getByRole("link", { name: "Settings" }).click();
  await visit.page.getByRole("button", { name: "Take back the change of pool.ttft_s" }).click();
  await visit.page.getByRole("button", { name: "Take back the change of pool.ttft_s" }).waitFor({ state: "detached" });
  await visit.go("/overview");
  await visit.page.getByText("All is well").waitFor();

  await server.ask("POST", "/api/v1/prices", { currency: "EUR", models: [{ model: "*", tiers: [{ input: "1", output: "1000" }] }] });
  const { organisation } = await server.ask<{ organisation: string }>("GET", "/api/v1/sessions/current");
  const budget = await server.ask<{ id: string }>("POST", "/api/v1/budgets", { scope: `organisation:${organisation}`, amount: "0.05", block: false });
  await scripted("[[repeat:60:wave ]]");
  await visit.go("/overview");
  await concern(/budget of the whole organisation is spent/).getByRole("link", { name: "Limits and budgets" }).click();
  await visit.page.getByRole("region", { name: "Budgets" }).getByRole("button", { name: "Remove" }).click();
  await visit.page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await expect.poll(async () => (await server.ask<{ data: { id: string }[] }>("GET", "/api/v1/budgets")).data.some((one) => one.id === budget.id)).toBe(false);

  // More in use than a smaller limit allows, until what runs has ended.
  const long = scripted("[[stall_ms:30]][[repeat:200:wave ]]");
  await expect.poll(async () => (await server.ask<{ device: { busy: boolean } }>("GET", "/api/v1/pool")).device.busy).toBe(true);
  await server.ask("POST", "/api/v1/pool/resize", { memory: "16MiB" });
  await visit.go("/overview");
  await concern("more is in use than the pool's limit").getByRole("link", { name: "Pool" }).click();
  await visit.page.waitForURL(/\/pool$/);
  await visit.page.getByLabel(/^Pool: weights and KV in use/).fill("600MiB");
  await visit.page.getByRole("region", { name: "Budgets" }).getByRole("button", { name: "Apply" }).first().click();
  await expect.poll(async () => (await server.ask<{ memory: { limit_bytes: number } }>("GET", "/api/v1/pool")).memory.limit_bytes).toBe(600 << 20);
  await long;
});

test("what comes late, and what is too much for the device, is said with the way to its cause", async () => {
  await visit.go("/overview");
  // Nobody keeps a promise of a token every 0.1 ms.
  await server.ask("POST", "/api/v1/pool/policy", { model: "scripted", ttft_s: 0.01, tpot_s: 0.0001 });
  const answers = [1, 2].map(() => scripted("[[stall_ms:20]][[repeat:250:late ]]"));
  const about = concern(/come later than promised|of the device to keep their pace/);
  await about.first().waitFor({ timeout: 15_000 });
  expect(await about.first().getByRole("link").getAttribute("href")).toMatch(/^\/(pool|planner)$/);
  await Promise.all(answers);
  const late = concern("come later than promised");
  await late.waitFor({ timeout: 15_000 });
  await late.getByRole("link", { name: "See which models" }).click();
  await visit.page.waitForURL(/\/pool$/);
  await visit.page.getByRole("region", { name: "Turns in view" }).getByRole("row", { name: /scripted/ }).waitFor();
  const pool = await server.ask<{ tokens: { late: number } }>("GET", "/api/v1/pool");
  expect(pool.tokens.late).toBeGreaterThan(0);
});
