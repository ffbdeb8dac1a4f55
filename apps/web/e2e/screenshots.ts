// Pictures of every page: three widths in light and English, one width in dark and in Chinese. Writes them to a folder:
//   scripts/web_screenshots FOLDER
import { mkdirSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { launch, Visit } from "./browser";
import { Server, smallModel, testData } from "./server";
import { talk } from "./fill";

const out = process.env.TIDEPOOL_SCREENSHOTS ?? "screenshots";
const only = process.env.TIDEPOOL_LOOKS;
const onlyPages = process.env.TIDEPOOL_PAGES;
mkdirSync(out, { recursive: true });

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
      }], ["shared", `/shared#${token}`], ["model", "/models/smollm2:135m"], ["pool", "/pool"], ["planner", "/planner"], ["requests", "/requests"], ["usage", "/usage"], ["bills", "/bills"], ["limits", "/limits"], ["keys", "/keys"], ["people", "/people"], ["workspaces", "/workspaces"], ["audit", "/audit"], ["settings", "/settings"], ["health", "/doctor"], ["welcome", "/welcome"], ["account", "/account"], ["not-found", "/nothing"],
    ];
    const looks = [
      { name: "wide", width: 1440, height: 900, theme: "light", language: "en" }, { name: "tablet", width: 820, height: 1100, theme: "light", language: "en" },
      { name: "phone", width: 360, height: 740, theme: "light", language: "en" }, { name: "dark", width: 1440, height: 900, theme: "dark", language: "en" }, { name: "chinese", width: 1440, height: 900, theme: "light", language: "zh-CN" },
    ];
    for (const look of looks) {
      if (only && !only.split(",").some((one) => one === look.name)) continue;
      const visit = await Visit.open(browser, server.url, { viewport: { width: look.width, height: look.height }, colorScheme: look.theme as "light" | "dark", locale: look.language });
      for (const [name, where, then] of pages) {
        if (onlyPages && !onlyPages.split(",").includes(name)) continue;
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
