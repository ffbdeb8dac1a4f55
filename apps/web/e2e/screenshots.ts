// Pictures of every page: three widths in light and English, one width in dark and in Chinese. Writes them to a folder:
//   scripts/web_screenshots FOLDER
import { mkdirSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { launch, Visit } from "./browser";
import { Server, smallModel } from "./server";
import { talk } from "./fill";

const out = process.env.TIDEPOOL_SCREENSHOTS ?? "screenshots";
const only = process.env.TIDEPOOL_LOOKS;
mkdirSync(out, { recursive: true });

test("pictures of every page", async () => {
  const server = new Server(["--open", "--simulated", "--simulated-step-ms", "8"], { TIDEPOOL_POOL_MEMORY: "700MiB", TIDEPOOL_POOL_WARM_MEMORY: "256MiB" });
  await server.start();
  const browser = await launch();
  try {
    await server.store(smallModel, "smollm2:135m");
    const conversation = await talk(server);
    const pages: [string, string, ((visit: Visit) => Promise<void>)?][] = [
      ["chat-new", "/chat"], ["chat", `/chat/${conversation}`], ["compare", "/compare"], ["playground", "/playground?model=smollm2:135m", async ({ page }) => {
        await page.getByLabel("User message").or(page.getByLabel("用户消息")).fill("Name three sea animals.");
        await page.getByRole("button", { name: /^(Run|运行)$/ }).click();
        await page.getByTestId("tokens").waitFor({ timeout: 20_000 }).catch(() => {});
        await page.waitForTimeout(1500);
      }],
      ["overview", "/overview"], ["models", "/models"], ["model", "/models/smollm2:135m"], ["pool", "/pool"], ["planner", "/planner"], ["requests", "/requests"], ["usage", "/usage"], ["bills", "/bills"], ["limits", "/limits"], ["keys", "/keys"], ["people", "/people"], ["workspaces", "/workspaces"], ["audit", "/audit"], ["settings", "/settings"], ["health", "/doctor"], ["not-found", "/nothing"],
    ];
    const looks = [
      { name: "wide", width: 1440, height: 900, theme: "light", language: "en" }, { name: "tablet", width: 820, height: 1100, theme: "light", language: "en" },
      { name: "phone", width: 360, height: 740, theme: "light", language: "en" }, { name: "dark", width: 1440, height: 900, theme: "dark", language: "en" }, { name: "chinese", width: 1440, height: 900, theme: "light", language: "zh-CN" },
    ];
    for (const look of looks) {
      if (only && !only.split(",").some((one) => one === look.name)) continue;
      const visit = await Visit.open(browser, server.url, { viewport: { width: look.width, height: look.height }, colorScheme: look.theme as "light" | "dark", locale: look.language });
      for (const [name, where, then] of pages) {
        await visit.go(where);
        const load = fetch(`${server.url}/v1/chat/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: "smollm2:135m", messages: [{ role: "user", content: "Tell me about the sea." }], max_tokens: 60 }) }).catch(() => null);
        await then?.(visit);
        await visit.page.waitForTimeout(name === "health" ? 5000 : 1200);
        await visit.page.screenshot({ path: path.join(out, `${name}-${look.name}.png`) });
        await load;
      }
      expect(visit.problems).toEqual([]);
      await visit.close();
    }
  } finally {
    await browser.close();
    await server.remove();
  }
});
