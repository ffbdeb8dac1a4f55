// The console in a real browser against the real server with SmolLM2 and the scripted model. Oracle: the API's own answers.
import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { launch, Visit } from "./browser";
import { Server, smallModel } from "./server";

const server = new Server(["--open", "--simulated"], { TIDEPOOL_POOL_MEMORY: "600MiB", TIDEPOOL_POOL_WARM_MEMORY: "256MiB" });
let browser: Browser;
let visit: Visit;

beforeAll(async () => {
  await server.start();
  await server.store(smallModel, "smollm2:135m");
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

interface Pool { memory: { used_bytes: number; limit_bytes: number; owners: { owner: string; kind: string; bytes: number }[] } }
const picture = () => visit.page.getByTestId("memory").evaluate((element) => ({
  used: Number((element as HTMLElement).dataset.used), limit: Number((element as HTMLElement).dataset.limit), width: element.getBoundingClientRect().width,
  pieces: [...element.querySelectorAll<HTMLElement>("[data-bytes]")].map((piece) => ({ owner: piece.dataset.owner!, kind: piece.dataset.kind!, bytes: Number(piece.dataset.bytes), width: piece.getBoundingClientRect().width })),
}));
const ask = (model: string) => server.ask("POST", "/v1/chat/completions", { model, messages: [{ role: "user", content: "Tell me about the sea." }], max_tokens: 16 });

test("the picture's bytes are the pool's, and move when a model loads", async () => {
  await server.ask("POST", "/api/v1/models/smollm2:135m/unload", { force: true }).catch(() => {});
  await visit.go("/overview");
  const equal = async () => {
    // Two looks at a pool at rest.
    for (let tries = 0; ; ++tries) {
      const pool = await server.ask<Pool>("GET", "/api/v1/pool");
      const shown = await picture();
      const wanted = pool.memory.owners.filter((one) => one.bytes > 0).map((one) => `${one.owner}/${one.kind}/${one.bytes}`).sort();
      const seen = shown.pieces.map((one) => `${one.owner}/${one.kind}/${one.bytes}`).sort();
      if (tries === 40 || (shown.used === pool.memory.used_bytes && JSON.stringify(seen) === JSON.stringify(wanted))) {
        expect(seen).toEqual(wanted);
        expect(shown.used).toBe(pool.memory.used_bytes);
        expect(shown.limit).toBe(pool.memory.limit_bytes);
        expect(seen.reduce((all, one) => all + Number(one.split("/").at(-1)), 0)).toBe(pool.memory.used_bytes);
        return shown;
      }
      await visit.page.waitForTimeout(250);
    }
  };
  const before = await equal();
  expect(before.pieces.some((piece) => piece.kind === "weights")).toBe(false);
  await ask("smollm2:135m");
  await visit.page.locator('[data-owner="smollm2:135m"][data-kind="weights"]').waitFor();
  await visit.page.waitForTimeout(800);  // widths move for half a second
  const after = await equal();
  const weights = after.pieces.find((piece) => piece.owner === "smollm2:135m" && piece.kind === "weights")!;
  expect(weights.bytes).toBeGreaterThan(90e6);
  expect(Math.abs(weights.width / after.width - weights.bytes / after.limit)).toBeLessThan(0.01);
});

test("pin and unpin from the overview", async () => {
  await ask("smollm2:135m");
  await visit.go("/overview");
  const pinned = async () => (await server.ask<{ models: { id: string; pinned: boolean }[] }>("GET", "/api/v1/pool")).models.find((one) => one.id === "smollm2:135m")!.pinned;
  await visit.page.getByRole("button", { name: "Keep smollm2:135m in memory" }).click();
  await visit.page.getByRole("button", { name: "Do not keep smollm2:135m in memory" }).waitFor();
  expect(await pinned()).toBe(true);
  await visit.page.getByRole("button", { name: "Do not keep smollm2:135m in memory" }).click();
  await visit.page.getByRole("button", { name: "Keep smollm2:135m in memory", exact: true }).waitFor();
  expect(await pinned()).toBe(false);
});

test("a cordoned pool says so and is opened again by its button", async () => {
  await server.ask("POST", "/api/v1/pool/cordon", { cordoned: true });
  await visit.go("/overview");
  await visit.page.getByText("The pool is cordoned").waitFor();
  await visit.page.getByRole("button", { name: "Open it again" }).click();
  await visit.page.getByText("All is well").waitFor();
});

test("models: search, the fit check, a pull that fails, unload, retire", async () => {
  await visit.go("/models");
  await visit.page.getByLabel("Search models").fill("qwen3:32b");
  await visit.page.getByRole("button", { name: "Get qwen3:32b", exact: true }).click();
  const dialog = visit.page.getByRole("dialog");
  expect(await dialog.textContent()).toMatch(/qwen3:32b needs about .* GiB, the pool has 600 MiB\. The nearest that fits is qwen3:0\.6b/);
  await visit.page.keyboard.press("Escape");
  await visit.page.getByRole("button", { name: "Add a model" }).click();
  await visit.page.getByLabel("Source").fill("<img src=x onerror=alert(1)>/x");
  await dialog.getByRole("button", { name: "Get", exact: true }).click();
  await visit.page.getByText(/<img src=x/).first().waitFor();
  expect(await visit.page.locator("img[src=x]").count()).toBe(0);
  await visit.page.keyboard.press("Escape");

  await server.store(smallModel, "second:1");
  await visit.page.getByRole("link", { name: "second:1" }).waitFor();
  await visit.page.getByRole("button", { name: "Actions for second:1" }).click();
  await visit.page.getByRole("menuitem", { name: "Load now" }).click();
  await visit.page.getByRole("row", { name: /second:1/ }).getByText("ready").waitFor();
  await visit.page.getByRole("button", { name: "Actions for second:1" }).click();
  await visit.page.getByRole("menuitem", { name: "Unload" }).click();
  await visit.page.getByRole("row", { name: /second:1/ }).getByText("stored").waitFor();
  await visit.page.getByRole("button", { name: "Actions for second:1" }).click();
  await visit.page.getByRole("menuitem", { name: "Retire" }).click();
  expect(await dialog.textContent()).toContain("will be deleted from this server");
  await dialog.getByRole("button", { name: "Retire" }).click();
  await visit.page.getByRole("link", { name: "second:1" }).waitFor({ state: "detached" });
  await expect(server.ask("GET", "/api/v1/models/second:1")).rejects.toThrow(/404/);
});

test("a model's page: promise, numbers, speed", async () => {
  await ask("smollm2:135m");
  await visit.go("/models/smollm2:135m");
  await visit.page.getByLabel("First token within (s)").fill("3");
  await visit.page.getByRole("button", { name: "Apply" }).click();
  await visit.page.getByText("Done").waitFor();
  const model = (await server.ask<{ models: { id: string; ttft_s: number }[] }>("GET", "/api/v1/pool")).models.find((one) => one.id === "smollm2:135m")!;
  expect(model.ttft_s).toBe(3);
  await visit.page.getByRole("button", { name: "Measure" }).click();
  await visit.page.getByRole("region", { name: "Speed here" }).first().getByRole("cell", { name: "Prefill" }).waitFor({ timeout: 50_000 });
});

test("the playground shows tokens with probabilities, and code that is the request", async () => {
  await visit.go("/playground?model=smollm2:135m");
  await visit.page.getByLabel("Temperature").fill("0");
  await visit.page.getByLabel("Most tokens").fill("8");
  await visit.page.getByLabel("User message").fill("Say \"hi\", it's me.");
  await visit.page.getByRole("button", { name: "Run" }).click();
  await visit.page.getByText(/Ended by/).waitFor();
  const tokens = await visit.page.getByTestId("tokens").locator("[data-logprob]").evaluateAll((all) => all.map((one) => Number((one as HTMLElement).dataset.logprob)));
  expect(tokens).toHaveLength(8);
  expect(tokens.every((one) => one <= 0 && one > -20)).toBe(true);
  const reply = await server.ask<{ choices: { message: { content: string } }[] }>("POST", "/v1/chat/completions", { model: "smollm2:135m", temperature: 0, max_tokens: 8, messages: [{ role: "user", content: "Say \"hi\", it's me." }] });
  expect(await visit.page.getByTestId("tokens").textContent()).toBe(reply.choices[0]!.message.content);
  expect(await visit.page.locator("pre").textContent()).toContain(`curl ${server.url}/v1/chat/completions`);
});

test("compare runs two at once and stops them", async () => {
  await visit.go("/compare");
  await visit.page.getByLabel("Prompt").fill("[[say:left and right]] Say something.");
  // A small model at its own temperature now and then talks until its context is full.
  await visit.page.getByText("Parameters").click();
  await visit.page.getByLabel("Most tokens").fill("40");
  await visit.page.getByRole("button", { name: "Run" }).click();
  await visit.page.getByText("left and right", { exact: true }).waitFor();
  await visit.page.getByText("Tokens in + out").nth(1).waitFor({ timeout: 50_000 });
});

test("the planner draws a plan", async () => {
  await visit.go("/planner");
  await visit.page.getByLabel("Models", { exact: true }).fill("4xqwen2.5-7b");
  await visit.page.getByLabel("Requests", { exact: true }).fill("poisson:0.1x4");
  await visit.page.getByLabel("Devices", { exact: true }).fill("H20");
  await visit.page.getByLabel("Simulated time (s)").fill("60");
  await visit.page.getByRole("button", { name: "Plan", exact: true }).click();
  await visit.page.getByRole("heading", { name: "Devices needed" }).waitFor({ timeout: 50_000 });
  await visit.page.getByLabel("Devices", { exact: true }).fill("NoSuchDevice");
  await visit.page.getByRole("button", { name: "Plan", exact: true }).click();
  expect(await visit.page.getByRole("alert").textContent()).toContain("NoSuchDevice");
});

test("settings, health and the pool show what the API says", async () => {
  await visit.go("/settings");
  const settings = await server.ask<{ data: { id: string }[] }>("GET", "/api/v1/settings");
  await visit.page.getByText("pool.memory", { exact: true }).waitFor();
  expect(await visit.page.locator("main li").count()).toBe(settings.data.length);
  await visit.page.getByLabel("Only what was changed").check();
  expect(await visit.page.locator("main li").count()).toBeLessThan(10);
  await visit.go("/pool");
  await visit.page.getByRole("img", { name: "Models on the device over time" }).waitFor();
  await visit.go("/doctor");
  await visit.page.getByText("Memory bandwidth").waitFor({ timeout: 50_000 });
});

test("theme and language change at once and stay", async () => {
  await visit.go("/models");
  await visit.page.getByRole("button", { name: "Theme" }).click();
  await visit.page.getByRole("menuitem", { name: "Dark" }).click();
  await visit.page.getByRole("button", { name: "Language" }).click();
  await visit.page.getByRole("menuitem", { name: "简体中文" }).click();
  await visit.page.getByRole("heading", { name: "模型", level: 1 }).waitFor();
  await visit.page.reload();
  await visit.page.getByRole("heading", { name: "模型", level: 1 }).waitFor();
  expect(await visit.page.evaluate(() => [document.documentElement.classList.contains("dark"), document.documentElement.lang])).toEqual([true, "zh-CN"]);
});

test("the first load is small and quick", async () => {
  const sizes = new Map<string, number>();
  const cdp = await visit.context.newCDPSession(visit.page);
  await cdp.send("Network.enable");
  const urls = new Map<string, string>();
  cdp.on("Network.responseReceived", (event) => urls.set(event.requestId, event.response.url));
  cdp.on("Network.loadingFinished", (event) => sizes.set(urls.get(event.requestId) ?? "", event.encodedDataLength));
  await visit.page.goto(`${server.url}/chat`);
  await visit.page.getByLabel("Message", { exact: true }).waitFor();
  const files = [...sizes].filter(([url]) => !url.includes("/api/"));
  const total = files.reduce((all, [, bytes]) => all + bytes, 0);
  const readyMs = await visit.page.evaluate(() => performance.now());
  console.log(`first load ${Math.round(total / 1000)} kB in ${files.length} files, usable after ${Math.round(readyMs)} ms`);
  expect(total).toBeGreaterThan(50_000);
  expect(total).toBeLessThan(300_000);
});

const everyPage = ["/chat", "/compare", "/playground?model=smollm2:135m", "/overview", "/models", "/models/smollm2:135m", "/pool", "/planner", "/settings", "/doctor", "/nothing"];
test("axe finds nothing serious on any page, and none is wider than a phone", async () => {
  await visit.page.setViewportSize({ width: 360, height: 740 });
  const problems: string[] = [];
  for (const scheme of ["light", "dark"] as const) {
    await visit.page.emulateMedia({ colorScheme: scheme });
    for (const where of everyPage) {
      await visit.go(where);
      await visit.page.waitForTimeout(300);
      problems.push(...(await visit.checkAccessibility()).map((one) => `${scheme} ${where}: ${one}`));
      const width = await visit.page.evaluate(() => document.documentElement.scrollWidth);
      if (width > 360) problems.push(`${where} is ${width} pixels wide`);
    }
  }
  expect(problems).toEqual([]);
}, 120_000);
