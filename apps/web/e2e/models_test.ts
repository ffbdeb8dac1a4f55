// Cards of the catalogue, what a model needs here, where its weights are, and who used it last. Oracles: the API; the server's own
// fit check.
import { expect, test } from "vitest";
import { Server, smallModel } from "./server";
import { complete, stage, visit } from "./stage";

const server = new Server(["--open", "--simulated"], { TIDEPOOL_POOL_MEMORY: "600MiB", TIDEPOOL_POOL_WARM_MEMORY: "256MiB" });
stage(server, { pages: "one for all", prepare: () => server.store(smallModel, "smollm2:135m") });

const bytesOf = (text: string) => {
  const [, value, unit] = /([\d.]+) ([KMG]iB)/.exec(text)!;
  return Number(value) * { KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 }[unit as "KiB"];
};

test("a card has every quantisation with its size, what it needs, whether it fits and how fast it can be", async () => {
  await visit.go("/models");
  await visit.page.getByLabel("Search models").fill("qwen3:0.6b");
  const card = visit.page.getByRole("list", { name: "Quantisations of qwen3:0.6b" });
  const variants = async () => (await card.getByRole("listitem").allTextContents()).map((text) => text.replace(/\s+/g, " "));
  await expect.poll(async () => (await variants()).map((text) => /^[A-Z0-9_]+/.exec(text)?.[0])).toEqual(["Q4_K_M", "Q8_0", "Q8_0"]);
  // What the machine can do comes with another reply.
  await expect.poll(async () => (await variants())[0]).toMatch(/≈ [\d.]+ MiB · needs [\d.]+ MiB · at most [\d.]+ tokens\/s here/);
  expect((await variants())[1]).toMatch(/needs [\d.]+ MiB · does not fit/);
  // Each can be asked for by its own name.
  expect(await card.getByRole("button").evaluateAll((buttons) => buttons.map((one) => one.getAttribute("aria-label")))).toEqual(["Get qwen3:0.6b-q4_k_m", "Get qwen3:0.6b", "Get qwen3:0.6b-q8_0"]);
  await visit.page.getByLabel("Only what fits").check();
  await expect.poll(async () => (await variants()).length).toBe(1);
  await visit.page.getByLabel("Only what fits").uncheck();
  await visit.page.getByLabel("Search models").fill("smollm2:135m");
  const stored = visit.page.getByRole("list", { name: "Quantisations of smollm2:135m" }).getByRole("listitem").filter({ has: visit.page.getByText("here", { exact: true }) });
  await stored.waitFor();
  const { bytes } = await server.ask<{ bytes: number }>("GET", "/api/v1/models/smollm2:135m");
  expect(bytesOf((await stored.textContent())!) / bytes).toBeCloseTo(1, 1);
  expect(await visit.checkAccessibility()).toEqual([]);
  for (const width of [360, 3840, 1280]) {
    await visit.page.setViewportSize({ width, height: 800 });
    expect(await visit.stickingOut()).toEqual([]);
  }
});

test("what a stored model needs is what the server asks of the pool", async () => {
  const fit = await server.ask<{ needed_bytes: number }>("POST", "/api/v1/deployments/fit", { base: "smollm2:135m", pinned: false });
  await visit.go("/models/smollm2:135m");
  const facts = visit.page.getByRole("region", { name: "Facts" });
  const needed = facts.locator("div", { has: visit.page.getByText("Memory needed", { exact: true }) }).last().locator("dd");
  await expect.poll(async () => bytesOf((await needed.textContent())!) / fit.needed_bytes).toBeCloseTo(1, 2);
  await facts.getByText(/at most [\d.]+ tokens\/s here/).waitFor();
});

test("where a model's weights are is said to members as the pool has it", async () => {
  interface Model { id: string; place: string }
  interface Pool { models: { id: string; bytes: { resident: number; warm: number } }[] }
  const place = async () => (await server.ask<{ data: Model[] }>("GET", "/api/v1/models")).data.find((one) => one.id === "smollm2:135m")!.place;
  const pool = async () => (await server.ask<Pool>("GET", "/api/v1/pool")).models.find((one) => one.id === "smollm2:135m")?.bytes;
  expect(await place()).toBe("cold");
  await server.ask("POST", "/v1/chat/completions", { model: "smollm2:135m", max_tokens: 1, messages: [{ role: "user", content: "Hi" }] });
  expect(await place()).toBe("resident");
  expect((await pool())!.resident).toBeGreaterThan(0);
  // With nothing to do, its weights go as soon as they may, and stay warm beside the pool.
  await server.ask("POST", "/api/v1/pool/policy", { model: "smollm2:135m", idle_ttl_s: 0 });
  await expect.poll(async () => (await pool())?.resident, { timeout: 20_000 }).toBe(0);
  expect((await pool())!.warm).toBeGreaterThan(0);
  expect(await place()).toBe("warm");
});

test("retiring a stored model says who used it last", async () => {
  await server.store(smallModel, "old:1");
  const retire = async () => {
    await visit.go("/models");
    await visit.page.getByRole("button", { name: "Actions for old:1" }).click();
    await visit.page.getByRole("menuitem", { name: "Retire" }).click();
  };
  await retire();
  const dialog = visit.page.getByRole("dialog");
  await dialog.getByText("Nobody has used it yet.").waitFor();
  const { id, key } = await server.ask<{ id: string; key: string }>("POST", "/api/v1/keys", { name: "night job", service: true });
  for (const times of [1, 2]) {
    expect((await complete(server, key, "Hi", { model: "old:1", max_tokens: times })).status).toBe(200);
  }
  await expect.poll(async () => (await server.ask<{ data: object[] }>("GET", `/api/v1/requests?key=${id}`)).data.length).toBe(2);
  await retire();
  await dialog.getByText(/it was used last, by night job in /).waitFor();
  await expect.poll(() => dialog.getByRole("listitem").allTextContents()).toEqual([expect.stringMatching(/^night job.*2/)]);
  expect(await visit.checkAccessibility()).toEqual([]);
  await visit.page.keyboard.press("Escape");
});
