// Pictures of every page, and of its states (empty, loading, failed, full of long names and huge numbers; signing in, set-up):
// three widths in light and English, one width in dark and in Chinese. Writes them to a folder:
//   scripts/web_screenshots FOLDER
import { mkdirSync } from "node:fs";
import path from "node:path";
import type { Browser } from "playwright-core";
import { expect, test } from "vitest";
import { launch, Visit } from "./browser";
import { Server, smallModel, testData } from "./server";
import { intoStore, talk, usageRow } from "./fill";
import { makeOwner, password, setupLink } from "./stage";

const out = process.env.TIDEPOOL_SCREENSHOTS ?? "screenshots";
const only = process.env.TIDEPOOL_LOOKS;
const onlyPages = process.env.TIDEPOOL_PAGES;
mkdirSync(out, { recursive: true });

const looks = [
  { name: "wide", width: 1440, height: 900, theme: "light", language: "en" }, { name: "tablet", width: 820, height: 1100, theme: "light", language: "en" },
  { name: "phone", width: 360, height: 740, theme: "light", language: "en" }, { name: "dark", width: 1440, height: 900, theme: "dark", language: "en" }, { name: "chinese", width: 1440, height: 900, theme: "light", language: "zh-CN" },
  // Large pictures: only where they are asked for.
  { name: "wall", width: 3840, height: 2160, theme: "light", language: "en" },
].filter((look) => (only ? only.split(",").includes(look.name) : look.name !== "wall"));
const wanted = (name: string) => !onlyPages || onlyPages.split(",").some((one) => name === one || (one.endsWith("*") && name.startsWith(one.slice(0, -1))));

// A name, where it is, what is done there before the picture, and what is done before the page is opened.
interface Scene { name: string; where: string; then?: (visit: Visit) => Promise<void>; before?: (visit: Visit) => Promise<void>; waitMs?: number }
async function take(browser: Browser, server: Server, scenes: Scene[]) {
  for (const look of looks) {
    for (const scene of scenes) {
      if (!wanted(scene.name)) continue;
      const visit = await Visit.open(browser, server.url, { viewport: { width: look.width, height: look.height }, colorScheme: look.theme as "light" | "dark", locale: look.language });
      await scene.before?.(visit);
      await visit.page.goto(server.url + scene.where);
      await visit.page.locator("main, h1").first().waitFor({ state: "attached" });
      await scene.then?.(visit);
      await visit.page.waitForTimeout(scene.waitMs ?? 900);
      await visit.page.screenshot({ path: path.join(out, `${scene.name}-${look.name}.png`) });
      expect(visit.problems).toEqual([]);
      await visit.context.close();
    }
  }
}
// Every answer of the API but who one is: held back for ever, or an error in many words.
const hold = (visit: Visit) => visit.page.route(/\/(api\/v1|v1|ready|metrics)/, (route) => (route.request().url().includes("/sessions/current") ? route.continue() : undefined));
const fail = (visit: Visit) => visit.page.route(/\/(api\/v1|v1|ready|metrics)/, (route) => (route.request().url().includes("/sessions/current") ? route.continue()
  : route.fulfill({ status: 503, contentType: "application/json", headers: { "X-Request-Id": "req-0123456789abcdef" }, body: JSON.stringify({ error: { message: "The store does not answer: could not connect to server \"db.internal.example.org\" (10.20.30.40), port 5432: Connection refused. Is it running on that host and accepting connections?", type: "server_error", code: "store_unavailable_here", param: null } }) })));

test("pictures of every page", async () => {
  const server = new Server(["--open", "--simulated", "--simulated-step-ms", "8"], { TIDEPOOL_POOL_MEMORY: "1GiB", TIDEPOOL_POOL_WARM_MEMORY: "256MiB", TIDEPOOL_LEDGER_FREE_TOKENS: "0" });
  await server.start();
  const browser = await launch();
  // Requests to every model, so that there is something to see.
  const busy = async (forMs: number) => {
    const end = Date.now() + forMs;
    const ask = async (where: string, body: object) => {
      while (Date.now() < end) await server.ask("POST", where, body).catch(() => {});
    };
    const chat = (model: string, text: string) => ask("/v1/chat/completions", { model, messages: [{ role: "user", content: text }], max_tokens: 120 });
    await Promise.all([chat("smollm2:135m", "Tell me about the sea."), chat("gemma3:270m", "Tell me about the moon."), ask("/v1/embeddings", { model: "minilm:l6-v2", input: ["tide", "moon", "harbour"] })]);
  };
  try {
    await server.store(smallModel, "smollm2:135m");
    await server.store(path.join(testData, "gemma-3-270m-Q4_K_M.gguf"), "gemma3:270m");
    await server.store(path.join(testData, "all-MiniLM-L6-v2"), "minilm:l6-v2");
    await server.ask("POST", "/api/v1/prices", { currency: "EUR", note: "picture", models: [{ model: "*", tiers: [{ input: "0.10", cached_input: "0.02", output: "0.40" }] }] });
    const conversation = await talk(server);
    await server.ask("POST", "/api/v1/deployments", { name: "support", base: "smollm2:135m", description: "What the help desk calls", pinned: true, max_output_tokens: 512, defaults: { temperature: 0.3 } });
    await server.ask("POST", "/api/v1/deployments", { name: "search/embed", base: "minilm:l6-v2" });
    await server.ask("PATCH", "/api/v1/workspaces/default", { sharing: true });
    const { token } = await server.ask<{ token: string }>("POST", `/api/v1/conversations/${conversation}/shares`, { days: 30 });
    const pages: [string, string, ((visit: Visit) => Promise<void>)?][] = [
      ["chat-new", "/chat"], ["chat", `/chat/${conversation}`], ["compare", "/compare"], ["playground", "/playground?model=smollm2:135m", async ({ page }) => {
        await page.getByLabel("User message").or(page.getByLabel("用户消息")).fill("Name three sea animals.");
        await page.getByRole("button", { name: /^(Run|运行)$/ }).click();
        await page.getByTestId("tokens").waitFor({ timeout: 20_000 }).catch(() => {});
        await page.waitForTimeout(1500);
      }],
      ["overview", "/overview"], ["models", "/models"], ["deploy", "/models", async ({ page }) => {
        await page.getByRole("button", { name: /^(Deploy|部署)$/ }).click();
        await page.getByLabel(/^(Name|名称)$/).fill("support-v2");
      }], ["share", `/chat/${conversation}`, async ({ page }) => {
        await page.getByRole("button", { name: /^(Share|分享)$/ }).click();
        await page.getByRole("button", { name: /^(Make a link|生成链接)$/ }).click();
      }], ["shared", `/shared#${token}`], ["model", "/models/smollm2:135m"], ["pool", "/pool"], ["planner", "/planner"], ["plan", "/planner", async ({ page }) => {
        await page.locator('input[name="devices"]').fill("H800,H20");
        await page.locator('input[name="duration_s"]').fill("60");
        await page.locator('main button[type="submit"]').click();
        await page.locator("figure").first().waitFor({ timeout: 60_000 });
        await page.locator("figure").first().scrollIntoViewIfNeeded();
      }], ["requests", "/requests"], ["usage", "/usage"], ["bills", "/bills"], ["limits", "/limits"], ["keys", "/keys"], ["people", "/people"], ["workspaces", "/workspaces"], ["audit", "/audit"], ["settings", "/settings"], ["health", "/doctor"], ["welcome", "/welcome"], ["account", "/account"], ["not-found", "/nothing"],
    ];
    for (const look of looks) {
      const visit = await Visit.open(browser, server.url, { viewport: { width: look.width, height: look.height }, colorScheme: look.theme as "light" | "dark", locale: look.language });
      for (const [name, where, then] of pages) {
        if (!wanted(name)) continue;
        await visit.go(where);
        const live = name === "overview" || name === "pool";
        const work = live ? busy(9_000) : Promise.resolve();
        await then?.(visit);
        await visit.page.waitForTimeout(name === "health" ? 6_000 : live ? 8_000 : 1_200);
        await visit.page.screenshot({ path: path.join(out, `${name}-${look.name}.png`) });
        // For README.md (docs/images).
        if (look.name === "wide" && (name === "chat" || name === "overview")) await visit.page.screenshot({ path: path.join(out, `${name}.jpg`), type: "jpeg", quality: 82 });
        await work;
      }
      expect(visit.problems).toEqual([]);
      await visit.close();
    }
  } finally {
    await browser.close();
    await server.remove();
  }
});

const consolePages = ["overview", "models", "pool", "requests", "usage", "bills", "limits", "keys", "people", "workspaces", "audit", "settings", "doctor"];

test("pictures of pages that are empty, wait, or failed", async () => {
  const server = new Server(["--open"], { TIDEPOOL_POOL_MEMORY: "1GiB", TIDEPOOL_LEDGER_FREE_TOKENS: "0" });
  await server.start();
  const browser = await launch();
  const every = ["chat", "compare", "playground", ...consolePages];
  try {
    await take(browser, server, [
      ...["chat", "compare", "playground", ...consolePages.filter((name) => name !== "settings" && name !== "doctor"), "welcome", "account", "models/nothing:1", "chat/conv-gone"].map((name) => ({ name: `empty-${name.replace(/[/:]/g, "-")}`, where: `/${name}` })),
      ...every.map((name) => ({ name: `loading-${name}`, where: `/${name}`, before: hold })),
      ...[...every, "models/some:1", "chat/conv-some", "welcome"].map((name) => ({ name: `error-${name.replace(/[/:]/g, "-")}`, where: `/${name}`, before: fail, waitMs: 4_000 })),
      { name: "error-session", where: "/chat", before: (visit) => visit.page.route("**/sessions/current", (route) => route.abort()), waitMs: 9_000 },
      { name: "loading-session", where: "/chat", before: (visit) => visit.page.route("**/sessions/current", () => {}) },
    ]);
  } finally {
    await browser.close();
    await server.remove();
  }
});

test("pictures of signing in and set-up", async () => {
  const server = new Server(["--simulated"], { TIDEPOOL_POOL_MEMORY: "1GiB" });
  await server.start();
  const browser = await launch();
  const setup = setupLink(server);
  const email = "ann.longfellow-featherstonehaugh@harbour-authority.example.org";
  const signIn = async ({ page }: Visit, secret: string) => {
    await page.locator('input[name="email"]').fill(email);
    await page.locator('input[name="password"]').fill(secret);
    await page.locator('button[type="submit"]').click();
  };
  try {
    await take(browser, server, [
      { name: "setup", where: setup }, { name: "setup-no-link", where: "/setup" }, { name: "setup-bad-link", where: "/setup#tpl-nothing" },
      { name: "setup-error", where: setup, then: async ({ page }) => {
        await page.route("**/links/use", (route) => route.fulfill({ status: 400, contentType: "application/json", body: JSON.stringify({ error: { message: "A password has 10 to 1024 characters.", code: "invalid_value", param: "password" } }) }));
        await page.locator('input[name="email"]').fill(email);
        await page.locator('input[name="name"]').fill("Ann");
        await page.locator('input[name="password"]').fill("0123456789");
        await page.locator('button[type="submit"]').click();
      } },
    ]);
    await makeOwner(server, { email, name: "Ann Longfellow-Featherstonehaugh of the Harbour Authority" });
    const { path: invitation } = await server.ask<{ path: string }>("POST", "/api/v1/invitations", { email: "vic@example.org", role: "viewer" });
    const { id } = (await server.ask<{ data: { id: string }[] }>("GET", "/api/v1/members")).data[0]!;
    const { path: reset } = await server.ask<{ path: string }>("POST", `/api/v1/members/${id}/reset`);
    await take(browser, server, [
      { name: "sign-in", where: "/chat" },
      { name: "sign-in-error", where: "/chat", then: (visit) => signIn(visit, "wrong horse") },
      { name: "setup-invitation", where: invitation }, { name: "setup-reset", where: reset },
      { name: "signed-in", where: "/chat", then: async (visit) => { await signIn(visit, password); await visit.page.locator("textarea").waitFor(); } },
      { name: "session-ended", where: "/chat", then: async (visit) => {
        await signIn(visit, password);
        await visit.page.locator("textarea").fill("What I was about to ask");
        await visit.context.clearCookies();
        await visit.page.keyboard.press("Enter");
        await visit.page.getByRole("dialog").waitFor();
      } },
    ]);
  } finally {
    await browser.close();
    await server.remove();
  }
});

test("pictures of answers that wait, failed, stopped, and of long names and huge numbers", async () => {
  const server = new Server(["--open", "--simulated", "--simulated-step-ms", "2"], { TIDEPOOL_POOL_MEMORY: "1GiB", TIDEPOOL_LEDGER_FREE_TOKENS: "0" });
  await server.start();
  const browser = await launch();
  const long = "a-very-long-name-of-a-model-that-somebody-made-for-a-special-purpose-and-could-not-make-shorter:instruct-q4_k_m-2026-11-28";
  const words = "The mooring fees of the last three years and what the harbour master might be persuaded to do about them ".repeat(2).trim();
  const make = async (title: string, content: string) => {
    const { id } = await server.ask<{ id: string }>("POST", "/api/v1/conversations", { model: "scripted", title });
    const { turns } = await server.ask<{ turns: { id: string }[] }>("POST", `/api/v1/conversations/${id}/turns`, { parent: null, content });
    return { id, turn: turns.at(-1)!.id };
  };
  try {
    await server.ask("POST", "/api/v1/deployments", { name: long, base: "scripted", description: words });
    await server.ask("POST", "/api/v1/workspaces", { name: words.slice(0, 190) });
    for (const name of [words.slice(0, 180), "CI"]) await server.ask("POST", "/api/v1/keys", { name, models: [long, "qwen3:*"], endpoints: ["/v1/chat/completions"], networks: ["10.0.0.0/8"] });
    await server.ask("POST", "/api/v1/invitations", { email: `${"somebody-".repeat(6)}@example.org`, role: "developer" });
    await server.ask("POST", "/api/v1/prices", { currency: "EUR", note: words.slice(0, 200), models: [{ model: "*", tiers: [{ input: "98765.432109876", output: "100000.00" }] }, { model: long, tiers: [{ up_to: 1000000, input: "0.000000001", output: "1" }, { input: "2", output: "3" }] }] });
    const { organisation } = await server.ask<{ organisation: string }>("GET", "/api/v1/sessions/current");
    await server.ask("PUT", "/api/v1/limits", { scope: `organisation:${organisation}`, model: long, requests_per_minute: 999999999999, tokens_per_minute: 999999999999, tokens_per_day: 0 });
    await server.ask("POST", "/api/v1/budgets", { scope: `organisation:${organisation}`, amount: "9000000000", block: false });
    const failed = await make("It failed", "Tell me everything. [[fail_after:3]][[tokens:20]]");
    const stopped = await make(words, `${words}\n\n[[stall_ms:60]][[repeat:200:Once upon a time ]]`);
    const running = await make("Still thinking", "Think hard. [[stall_ms:4000]][[think:Let me see.]][[say:Well.]]");
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await server.ask("POST", `/api/v1/conversations/${stopped.id}/turns/${stopped.turn}/stop`);
    await server.ask("POST", `/api/v1/conversations/${running.id}/turns/${running.turn}/stop`);
    const now = Date.now();
    await intoStore(server, "usage_rows", Array.from({ length: 60 }, (_, index) => ({
      ...usageRow, id: `use-huge-${index}`, started_ms: now - index * 7_200_000 - 5000, finished_ms: now - index * 7_200_000, request_id: `req-huge-${index}`, organisation, key_id: `key-${index % 3}`,
      model: [long, "scripted", "many:1"][index % 3]!, output_tokens: 1, decode_ms: 400_000, status: ["done", "error", "cancelled", "interrupted"][index % 4]!, error_code: index % 4 === 1 ? "out_of_memory" : "",
      price_version: 1, billing: "paid",
      ...(index % 3 === 0 ? { prompt_tokens: 987_654_321, cached_tokens: 12_345_678, output_tokens: 123_456_789, queue_ms: 86_400_000, device_us: 9_876_543_210_123, amount_nanos: Number.MAX_SAFE_INTEGER } : {}),
    })));
    const again = async () => { await server.ask("POST", `/api/v1/conversations/${running.id}/turns`, { parent: null, content: "Think hard. [[stall_ms:4000]][[think:Let me see.]][[say:Well.]]" }); };
    await take(browser, server, [
      { name: "chat-failed", where: `/chat/${failed.id}` }, { name: "chat-stopped", where: `/chat/${stopped.id}` },
      { name: "chat-waiting", where: `/chat/${running.id}`, before: again },
      { name: "chat-picker", where: "/chat", then: async ({ page }) => { await page.locator("header button[aria-haspopup=menu]").click(); } },
      { name: "chat-settings", where: "/chat", then: async ({ page }) => { await page.getByRole("button", { name: /^(Prompt and sampling|提示词与采样)$/ }).click(); } },
      ...["models", "requests", "usage", "bills", "limits", "keys", "people", "workspaces", "audit", "overview"].map((name) => ({ name: `huge-${name}`, where: `/${name}` })),
      { name: "huge-request", where: "/requests", then: async ({ page }) => { await page.locator('div[role="row"] button').first().click(); } },
    ]);
  } finally {
    await browser.close();
    await server.remove();
  }
});
