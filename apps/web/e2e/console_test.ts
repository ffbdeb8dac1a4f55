// The console in a real browser against the real server with SmolLM2 and the scripted model. Oracle: the API's own answers.
import { expect, test } from "vitest";
import { Visit } from "./browser";
import { intoStore, usageRow } from "./fill";
import { ranker, Server, smallModel } from "./server";
import { browser, stage, visit } from "./stage";

const server = new Server(["--open", "--simulated"], { TIDEPOOL_POOL_MEMORY: "600MiB", TIDEPOOL_POOL_WARM_MEMORY: "256MiB", TIDEPOOL_POOL_TRACE_RECORDS: "10000" });
stage(server, { pages: "each test's own", prepare: () => server.store(smallModel, "smollm2:135m") });

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

interface Usage { data: { prompt_tokens: number; output_tokens: number; amount: string }[] }
test("the overview tells speed while answers are made, what came in time, and today's tokens", async () => {
  await ask("smollm2:135m");
  await visit.go("/overview");
  const speed = visit.page.locator("dl > div", { has: visit.page.getByText("Decode", { exact: true }) }).locator("dd").first();
  // Ends only long after it was looked at: what is under way counts.
  const long = fetch(`${server.url}/v1/chat/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: "scripted", messages: [{ role: "user", content: "[[stall_ms:20]][[repeat:300:wave ]]" }] }) });
  await expect.poll(async () => parseInt((await speed.textContent())!, 10), { timeout: 8_000 }).toBeGreaterThan(10);
  const pool = await server.ask<{ tokens: { on_time: number; late: number; generated: number } }>("GET", "/api/v1/pool");
  expect(pool.tokens.on_time + pool.tokens.late).toBe(pool.tokens.generated);
  await expect.poll(() => visit.page.getByTestId("on-time").textContent()).toMatch(/^\d+\.\d %$/);
  await (await long).text();
  const day = new Date().toISOString().slice(0, 10);
  const shown = async () => (await visit.page.getByTestId("today").textContent())!.replaceAll(",", "");
  await expect.poll(async () => {
    const sums = (await server.ask<Usage>("GET", `/api/v1/usage?from=${day}T00:00:00Z`)).data[0]!;
    return (await shown()) === String(sums.prompt_tokens + sums.output_tokens);
  }, { timeout: 15_000 }).toBe(true);
});

test("pin and unpin from the overview", async () => {
  await ask("smollm2:135m");
  await visit.go("/overview");
  const pinned = async () => (await server.ask<{ models: { id: string; pinned: boolean }[] }>("GET", "/api/v1/pool")).models.find((one) => one.id === "smollm2:135m")!.pinned;
  await visit.page.getByRole("button", { name: "Keep smollm2:135m in memory" }).click();
  await visit.page.getByRole("button", { name: "Do not keep smollm2:135m in memory" }).waitFor();
  await expect.poll(pinned).toBe(true);
  await visit.page.getByRole("button", { name: "Do not keep smollm2:135m in memory" }).click();
  await visit.page.getByRole("button", { name: "Keep smollm2:135m in memory", exact: true }).waitFor();
  await expect.poll(pinned).toBe(false);
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
  await expect.poll(() => dialog.textContent()).toMatch(/qwen3:32b needs about .* GiB, the pool has 600 MiB\. The nearest that fits is qwen3:0\.6b/);
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
  await dialog.getByText("will be deleted from this server").waitFor();
  await dialog.getByRole("button", { name: "Retire" }).click();
  await visit.page.getByRole("link", { name: "second:1" }).waitFor({ state: "detached" });
  await expect(server.ask("GET", "/api/v1/models/second:1")).rejects.toThrow(/404/);
});

test("deploy, call by its name, pin, move to another base, retire", async () => {
  interface Named { name: string; min_resident_s: number; base: string; pinned: boolean; max_output_tokens: number; defaults: { max_tokens: number | null; temperature: number | null; min_p: number | null; stop: string[]; priority: string | null }; system_prompt: string; used_by: { requests: number }[] }
  const named = () => server.ask<Named>("GET", "/api/v1/deployments/support");
  await visit.go("/models");
  await visit.page.getByRole("button", { name: "Actions for scripted" }).click();
  await visit.page.getByRole("menuitem", { name: "Deploy…" }).click();
  const dialog = visit.page.getByRole("dialog");
  await dialog.getByLabel("Name", { exact: true }).fill("scripted");
  await dialog.getByText("It needs about 64 MiB; the pool has 600 MiB.").waitFor();
  await dialog.getByRole("button", { name: "Deploy" }).click();
  await dialog.getByText(/There is a model "scripted" already/).waitFor();
  await dialog.getByLabel("Name", { exact: true }).fill("support");
  await dialog.getByLabel("Description").fill("<img src=x onerror=alert(1)>");
  await dialog.getByText("Defaults", { exact: true }).click();
  await dialog.getByLabel("Tokens of an answer").fill("5");
  await dialog.getByLabel("System prompt").fill("[[say:from the deployment]]");
  expect(await visit.checkAccessibility()).toEqual([]);
  await dialog.getByRole("button", { name: "Deploy" }).click();
  const row = visit.page.getByRole("region", { name: "Deployments" }).getByRole("row", { name: /support/ });
  await row.waitFor();
  expect(await visit.page.locator("img[src=x]").count()).toBe(0);
  const reply = await server.ask<{ model: string; usage: { completion_tokens: number } }>("POST", "/v1/chat/completions", { model: "support", messages: [{ role: "user", content: "[[tokens:40]]" }] });
  expect(reply.model).toBe("support");
  expect(reply.usage.completion_tokens).toBe(5);
  expect((await server.ask<{ data: { id: string; base_model?: string }[] }>("GET", "/v1/models")).data.find((one) => one.id === "support")?.base_model).toBe("scripted");

  // What a program has set stays when a person changes something else.
  await server.ask("PATCH", "/api/v1/deployments/support", { min_resident_s: 7, defaults: { max_tokens: 5, min_p: 0.1, stop: ["END", "two words"], priority: "batch" } });
  await visit.page.reload();
  await row.getByRole("button", { name: "Actions for support" }).click();
  await visit.page.getByRole("menuitem", { name: "Edit" }).click();
  await dialog.getByLabel("Base model").selectOption("smollm2:135m");
  await dialog.getByLabel("System prompt").fill("");
  await dialog.getByLabel("Most output").fill("6");
  await dialog.getByRole("button", { name: "Save" }).click();
  await row.getByText("smollm2:135m").waitFor();
  expect(await named()).toMatchObject({ base: "smollm2:135m", max_output_tokens: 6, system_prompt: "", min_resident_s: 7, defaults: { max_tokens: 5, temperature: null, min_p: 0.1, stop: ["END", "two words"], priority: "batch" } });

  const pool = async () => (await server.ask<{ models: { id: string; pinned: boolean; pinned_by: string }[] }>("GET", "/api/v1/pool")).models.find((one) => one.id === "smollm2:135m");
  await row.getByRole("button", { name: "Actions for support" }).click();
  await visit.page.getByRole("menuitem", { name: "Keep in memory" }).click();
  await row.getByText("in memory").waitFor();
  await expect.poll(async () => (await pool())?.pinned_by, { timeout: 10_000 }).toBe("deployment");

  // In the chat it stands among the models.
  await visit.go("/chat");
  await visit.page.getByRole("button", { name: /^Model/ }).click();
  await visit.page.getByRole("menuitem", { name: /support/ }).click();
  await visit.say("Say something.");
  await visit.answered();

  await expect(server.ask("DELETE", "/api/v1/models/smollm2:135m")).rejects.toThrow(/deployed as support/);
  await visit.go("/models");
  await row.getByRole("button", { name: "Actions for support" }).click();
  await visit.page.getByRole("menuitem", { name: "Retire" }).click();
  await dialog.getByText("Called last by:").waitFor();
  await dialog.getByText(/2 requests/).waitFor();
  await dialog.getByRole("button", { name: "Retire" }).click();
  await row.waitFor({ state: "detached" });
  await expect(named()).rejects.toThrow(/404/);
  await expect.poll(async () => (await pool())?.pinned ?? false).toBe(false);
});

test("a model's page: promise, numbers, speed", async () => {
  await ask("smollm2:135m");
  await visit.go("/models/smollm2:135m");
  await visit.page.getByLabel("First token within (s)").fill("3");
  await visit.page.getByRole("button", { name: "Apply" }).click();
  await visit.page.getByRole("status").getByText("Done").waitFor();
  await expect.poll(async () => (await server.ask<{ models: { id: string; ttft_s: number }[] }>("GET", "/api/v1/pool")).models.find((one) => one.id === "smollm2:135m")!.ttft_s).toBe(3);
  await visit.page.getByRole("region", { name: "Latency" }).first().getByRole("row", { name: /First token/ }).getByText(/ m?s$/).first().waitFor();
  await visit.page.getByRole("region", { name: "Recent requests" }).first().getByRole("row").nth(1).waitFor();
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
  await expect.poll(() => visit.page.locator("pre").textContent()).toContain(`curl ${server.url}/v1/chat/completions`);
  await visit.page.getByLabel("More fields").fill('{"n": 2, "model": "not this"}');
  await expect.poll(() => visit.page.locator("pre").textContent()).toMatch(/"model": "smollm2:135m"[^]*"n": 2/);
  await visit.page.getByLabel("More fields").fill("{");
  await visit.page.getByText("This is no JSON object.").waitFor();
  await expect.poll(() => visit.page.getByRole("button", { name: "Run" }).isDisabled()).toBe(true);
});

test("the playground shows the tokens of a completion, also of an echoed prompt", async () => {
  await visit.go("/playground?model=smollm2:135m");
  await visit.page.getByRole("radio", { name: "Completion" }).click();
  await visit.page.getByRole("button", { name: /^Model/ }).click();
  await visit.page.getByRole("menuitem", { name: /^smollm2:135m/ }).first().click();
  await visit.page.getByLabel("Temperature").fill("0");
  await visit.page.getByLabel("Most tokens").fill("6");
  await visit.page.getByLabel("Prompt", { exact: true }).fill("The sea is");
  await visit.page.getByLabel("More fields").fill('{"echo": true}');
  await visit.page.getByRole("button", { name: "Run" }).click();
  await visit.page.getByText(/Ended by/).waitFor();
  const reply = await server.ask<{ choices: { text: string; logprobs: { tokens: string[]; token_logprobs: (number | null)[] } }[] }>("POST", "/v1/completions", { model: "smollm2:135m", temperature: 0, max_tokens: 6, prompt: "The sea is", echo: true, logprobs: 5 });
  const { text, logprobs } = reply.choices[0]!;
  const shown = await visit.page.getByTestId("tokens").locator("[data-token]").evaluateAll((all) => all.map((one) => [one.textContent, (one as HTMLElement).dataset.logprob ?? null]));
  expect(shown.map(([token]) => token)).toEqual(logprobs.tokens);
  expect(shown.map(([token]) => token).join("")).toBe(text);
  expect(shown.map(([, logprob]) => (logprob === null ? null : Number(logprob).toFixed(2)))).toEqual(logprobs.token_logprobs.map((one) => one?.toFixed(2) ?? null));
});

test("a model that ranks is tried where its page leads", async () => {
  await server.store(ranker, "ranker:1");
  await visit.go("/models/ranker:1");
  await visit.page.getByText("rerank", { exact: true }).waitFor();
  await visit.page.getByRole("link", { name: "Try it" }).click();
  await visit.page.getByLabel("Query").fill("sea");
  await visit.page.getByLabel("Documents").fill("the sea\nbread\n<b>moon</b>");
  await expect.poll(() => visit.page.locator("pre").textContent()).toContain(`curl ${server.url}/v1/rerank`);
  await visit.page.getByRole("button", { name: "Run" }).click();
  const ranking = visit.page.getByTestId("ranking").locator("li");
  await ranking.first().waitFor({ timeout: 30_000 });
  const reply = await server.ask<{ results: { index: number; relevance_score: number }[] }>("POST", "/v1/rerank", { model: "ranker:1", query: "sea", documents: ["the sea", "bread", "<b>moon</b>"] });
  const texts = ["the sea", "bread", "<b>moon</b>"];
  await expect.poll(() => ranking.allTextContents()).toEqual(reply.results.map((one) => one.relevance_score.toFixed(4) + texts[one.index]!));
  // What is typed next is not what was ranked.
  await visit.page.getByLabel("Documents").fill("something else");
  await expect.poll(() => ranking.allTextContents()).toEqual(reply.results.map((one) => one.relevance_score.toFixed(4) + texts[one.index]!));
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
  // What each cost, or why nothing.
  await expect.poll(() => visit.page.locator("dl > div", { has: visit.page.getByText("Cost", { exact: true }) }).count()).toBe(2);
  await expect.poll(() => visit.page.locator("dl > div", { has: visit.page.getByText("Cost", { exact: true }) }).first().textContent()).toContain("unpriced");
});

test("the planner draws a plan", async () => {
  await visit.go("/planner");
  await visit.page.getByLabel("Models", { exact: true }).fill("4xqwen2.5-7b");
  await visit.page.getByLabel("Requests", { exact: true }).fill("poisson:0.1x4");
  await visit.page.getByLabel("Devices", { exact: true }).fill("H20");
  await visit.page.getByLabel("Simulated time (s)").fill("60");
  await visit.page.getByRole("button", { name: "Plan", exact: true }).click();
  await visit.page.getByRole("heading", { name: "Devices needed" }).waitFor({ timeout: 50_000 });
  // With what this server was asked: its requests play those of the mix's models, one after another.
  await ask("smollm2:135m");
  await visit.page.getByRole("button", { name: "Take the requests seen here" }).click();
  await visit.page.getByText("from requests.jsonl").waitFor();
  let asked = "";
  await visit.page.route("**/api/v1/plan", (route) => {
    asked = (route.request().postDataJSON() as { trace: { text: string } }).trace.text;
    return route.fulfill({ status: 400, contentType: "application/json", body: JSON.stringify({ error: { code: "not_now", message: "Asked is enough.", param: null } }) });
  });
  await visit.page.getByRole("button", { name: "Plan", exact: true }).click();
  await visit.page.getByRole("alert").getByText("Asked is enough.").waitFor();
  expect(asked).toMatch(/"model": ?"smollm2:135m"/);
  await visit.page.unroute("**/api/v1/plan");
  await visit.page.getByRole("button", { name: "Without requests.jsonl" }).click();
  await visit.page.getByText("from requests.jsonl").waitFor({ state: "detached" });
  await visit.page.getByLabel("Devices", { exact: true }).fill("NoSuchDevice");
  await visit.page.getByRole("button", { name: "Plan", exact: true }).click();
  await visit.page.getByRole("alert").getByText("NoSuchDevice").waitFor();
});

test("settings, health and the pool show what the API says", async () => {
  await visit.go("/settings");
  const settings = await server.ask<{ data: { id: string }[] }>("GET", "/api/v1/settings");
  await visit.page.getByText("pool.memory", { exact: true }).waitFor();
  await expect.poll(() => visit.page.locator("main li[data-setting]").count()).toBe(settings.data.length);
  await visit.page.getByLabel("Only what was changed").check();
  await expect.poll(() => visit.page.locator("main li[data-setting]").count()).toBeLessThan(10);
  await visit.go("/pool");
  await visit.page.getByRole("img", { name: "Models on the device over time" }).waitFor();
  await visit.go("/doctor");
  await visit.page.getByText("Memory bandwidth").waitFor({ timeout: 50_000 });
});

test("the pool's picture begins before the page was opened, and zooms", async () => {
  await ask("smollm2:135m");
  await ask("scripted");
  const before = await server.ask<{ turns: { model: string; from: number; to: number; number: number }[]; turns_last: number }>("GET", "/api/v1/pool/history");
  expect(before.turns.map((turn) => turn.model)).toEqual(expect.arrayContaining(["smollm2:135m", "scripted"]));
  await visit.go("/pool");
  const picture = visit.page.getByRole("img", { name: "Models on the device over time" });
  await visit.page.waitForFunction((least) => Number(document.querySelector<HTMLElement>("canvas[data-turns]")?.dataset.turns) >= least, before.turns.length);
  await visit.page.getByRole("region", { name: "Turns in view" }).getByRole("cell", { name: "smollm2:135m" }).waitFor();
  await expect.poll(() => picture.getAttribute("data-span")).toBe("60");
  await visit.page.getByRole("button", { name: "Zoom in" }).click();
  await expect.poll(() => picture.getAttribute("data-span")).toBe("30");
  await picture.focus();
  await visit.page.keyboard.press("-");
  await visit.page.keyboard.press("-");
  await expect.poll(() => picture.getAttribute("data-span")).toBe("120");
  // A policy is changed where it is seen.
  await visit.page.getByRole("button", { name: "Promise and priority of smollm2:135m" }).click();
  await visit.page.getByRole("dialog").getByLabel("Weight").fill("2");
  await visit.page.getByRole("dialog").getByRole("button", { name: "Apply" }).click();
  await expect.poll(async () => (await server.ask<{ models: { id: string; weight: number }[] }>("GET", "/api/v1/pool")).models.find((one) => one.id === "smollm2:135m")!.weight).toBe(2);
});

interface SettingRow { id: string; value: string; next: string | null; source: string; editable: boolean }
const setting = async (id: string) => (await server.ask<{ data: SettingRow[] }>("GET", "/api/v1/settings")).data.find((one) => one.id === id)!;
test("settings are changed with help and validation, for the next start or at once", async () => {
  await visit.go("/settings");
  const row = (id: string) => visit.page.locator(`li[data-setting="${id}"]`);
  await visit.page.getByRole("button", { name: "Change pool.ttft_s" }).click();
  const field = visit.page.getByLabel("New value of pool.ttft_s");
  await field.fill("soon");
  await row("pool.ttft_s").getByText("This is no number.").waitFor();
  await field.fill("0");
  await row("pool.ttft_s").getByText("At least 0.01.").waitFor();
  await field.fill("7");
  await row("pool.ttft_s").getByRole("button", { name: "Save" }).click();
  await row("pool.ttft_s").getByText("from the next start: 7").waitFor();
  expect(await setting("pool.ttft_s")).toMatchObject({ value: "10", next: "7" });
  await visit.page.getByText("1 change takes effect at the next start: pool.ttft_s.").waitFor();
  // What only the server can check, it says.
  await visit.page.getByRole("button", { name: "Change models.schedule" }).click();
  await visit.page.getByLabel("New value of models.schedule").fill("now and then");
  await row("models.schedule").getByRole("button", { name: "Save" }).click();
  await visit.page.waitForFunction(() => /schedule|now and then/.test(document.querySelector('li[data-setting="models.schedule"] form p')?.textContent ?? ""));
  expect((await setting("models.schedule")).next).toBeNull();
  // At once.
  await visit.page.getByRole("button", { name: "Change log.level" }).click();
  await visit.page.getByLabel("New value of log.level").selectOption("warn");
  await row("log.level").getByRole("button", { name: "Save" }).click();
  await expect.poll(async () => (await setting("log.level")).value).toBe("warn");
  // A variable beats it; what reaches beyond the server is not offered.
  expect(await visit.page.getByRole("button", { name: "Change pool.memory" }).count()).toBe(0);
  for (const id of ["home", "listen", "http.open", "pull.pip", "store.postgresql"]) expect(await visit.page.getByRole("button", { name: `Change ${id}`, exact: true }).count()).toBe(0);
  await server.stop();
  await server.start();
  expect(await setting("pool.ttft_s")).toMatchObject({ value: "7", next: null, source: "console" });
  expect((await setting("log.level")).value).toBe("warn");
  await visit.go("/settings");
  for (const id of ["pool.ttft_s", "log.level"]) await visit.page.getByRole("button", { name: `Take back the change of ${id}` }).click();
  await expect.poll(async () => [(await setting("pool.ttft_s")).next, (await setting("log.level")).value]).toEqual(["10", "info"]);
});

test("ten thousand requests scroll like ten", async () => {
  const { organisation } = await server.ask<{ organisation: string }>("GET", "/api/v1/sessions/current");
  const now = Date.now();
  await intoStore(server, "usage_rows", Array.from({ length: 10_000 }, (_, index) => ({
    ...usageRow, id: `use-many-${String(index).padStart(5, "0")}`, started_ms: now - index * 1000 - 5, finished_ms: now - index * 1000, request_id: `req-many-${index}`, organisation,
    key_id: `key-many-${String(index % 1500).padStart(4, "0")}`, model: "many:1", prompt_tokens: index, output_tokens: 7,
  })));
  await visit.go("/requests");
  await visit.page.getByLabel("Model", { exact: true }).fill("many:1");
  await visit.page.getByLabel("State").selectOption("done");
  const rows = visit.page.getByRole("row");
  await rows.nth(5).waitFor();
  expect(await rows.count()).toBeLessThan(80);
  const box = visit.page.getByRole("rowgroup");
  const count = () => visit.page.getByRole("table").getAttribute("aria-rowcount").then(Number);
  const started = Date.now();
  // To the end of what is there, again and again: more comes each time.
  while ((await count()) < 10_000 && Date.now() - started < 50_000) {
    await box.evaluate((element) => { element.scrollTop = element.scrollHeight; });
    await visit.page.waitForTimeout(20);
  }
  await expect.poll(count).toBe(10_000);
  // The list may still grow to its height when the last rows have come.
  await expect.poll(async () => {
    await box.evaluate((element) => { element.scrollTop = element.scrollHeight; });
    return visit.page.getByText(/^9,999|^10 k \+ 7|10 k/).first().isVisible();
  }, { timeout: 30_000 }).toBe(true);
  expect(await rows.count()).toBeLessThan(80);
  // Drawn within a few frames wherever one looks.
  const framesMs = await box.evaluate(async (element) => {
    const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
    const begin = performance.now();
    for (let i = 0; i < 20; ++i) {
      element.scrollTop = (element.scrollHeight * ((i * 7) % 20)) / 20;
      await frame();
      await frame();
    }
    return (performance.now() - begin) / 20;
  });
  console.log(`10,000 rows loaded in ${Date.now() - started} ms; ${framesMs.toFixed(1)} ms for a jump`);
  await box.evaluate((element) => { element.scrollTop = 0; });
  // The file has them all, and nothing that the filters leave out.
  const saved = (await visit.saveCsv()).rows;
  expect(saved).toHaveLength(10_000);
  expect(new Set(saved.map((row) => `${row.model} ${row.status}`))).toEqual(new Set(["many:1 done"]));
});

test("the CSV of usage has every group, also where the page shows the first thousand", async () => {
  // The 1,500 keys of the requests above, some of which may be of yesterday: the page shows thirty days.
  await visit.go("/usage");
  await visit.page.getByLabel("Group by").selectOption("key");
  await visit.page.getByRole("button", { name: "Show more" }).waitFor();
  const { rows } = await visit.saveCsv();
  interface Sums { key: string; requests: number; prompt_tokens: number; output_tokens: number }
  const groups: Sums[] = [];
  for (let after = ""; ;) {
    const page = await server.ask<{ data: Sums[]; next_cursor: string | null }>("GET", `/api/v1/usage?group_by=key&limit=700${after && `&after=${after}`}`);
    groups.push(...page.data);
    if (!page.next_cursor) break;
    after = page.next_cursor;
  }
  expect(groups.length).toBeGreaterThanOrEqual(1500);
  const cells = (key: string | undefined, ...sums: (number | string | undefined)[]) => [key, ...sums.map(String)].join(" ");
  expect(rows.map((row) => cells(row.key, row.requests, row.prompt_tokens, row.output_tokens)).sort()).toEqual(groups.map((row) => cells(row.key, row.requests, row.prompt_tokens, row.output_tokens)).sort());
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
  await expect.poll(() => visit.page.evaluate(() => [document.documentElement.classList.contains("dark"), document.documentElement.lang])).toEqual([true, "zh-CN"]);
  // What the server says, too: help of settings, findings, and why something did not work.
  await visit.go("/settings");
  await visit.page.getByText("I/O 线程数。").waitFor();
  const help = await visit.page.locator("li[data-setting] p:first-child").allTextContents();
  expect(help.filter((text) => !/[\u4e00-\u9fff]/.test(text))).toEqual([]);
  await visit.go("/doctor");
  await visit.page.getByText(/内存读取速度为 [\d.]+ GB\/s/).waitFor({ timeout: 50_000 });
  await visit.go("/models");
  await visit.page.getByRole("button", { name: "添加模型" }).click();
  await visit.page.getByLabel("来源").fill("/no/such/path");
  await visit.page.getByRole("dialog").getByRole("button", { name: "获取", exact: true }).click();
  await expect.poll(() => visit.page.getByRole("alert").first().textContent()).toMatch(/[\u4e00-\u9fff]/);
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
  expect(total).toBeGreaterThan(50_000);
  expect(total).toBeLessThan(300_000);
  // Without anything kept, and the best of several: the machine may also build. A second is usual; a slow one with two cores
  // took 1.2.
  const readyMs: number[] = [];
  while (readyMs.length < 8 && Math.min(...readyMs, Infinity) >= 1000) {
    const fresh = await Visit.open(browser, server.url);
    await fresh.page.goto(`${server.url}/chat`);
    await fresh.page.getByLabel("Message", { exact: true }).waitFor();
    readyMs.push(Math.round(await fresh.page.evaluate(() => performance.now())));
    await fresh.close();
  }
  console.log(`first load ${Math.round(total / 1000)} kB in ${files.length} files, usable after ${readyMs.join(", ")} ms`);
  expect(Math.min(...readyMs)).toBeLessThan(3000);
});

const everyPage = ["/chat", "/compare", "/playground?model=smollm2:135m", "/overview", "/models", "/models/smollm2:135m", "/pool", "/planner", "/settings", "/doctor", "/welcome", "/account", "/keys", "/people", "/workspaces", "/requests", "/usage", "/bills", "/limits", "/audit", "/shared#tps-none", "/nothing"];
// A chat with all that may be wide: code, a table, a formula, one long word.
async function filledChat(): Promise<string> {
  const long = "tide".repeat(80);
  const { id } = await server.ask<{ id: string }>("POST", "/api/v1/conversations", { model: "scripted", title: `About ${long}` });
  const answer = `[[think:**Hm.** ${long}]][[say:${long}\n\n| a | b | c | d | e |\n|---|---|---|---|---|\n${`| ${"wide cell ".repeat(6)}`.repeat(5)}|\n\n\`\`\`js\nconst text = '${long}';\n\`\`\`\n\n$$${"x_1 + ".repeat(60)}x$$\n]]`;
  await server.ask("POST", `/api/v1/conversations/${id}/turns`, { parent: null, content: `${long} ${answer}`, files: [{ name: `${long}.txt`, text: long }] });
  await expect.poll(async () => (await server.ask<{ running: boolean }>("GET", `/api/v1/conversations/${id}`)).running, { timeout: 20_000 }).toBe(false);
  return `/chat/${id}`;
}

test("axe finds nothing serious on any page, and none is wider than its window, be it a phone or a wall", async () => {
  const problems: string[] = [];
  const chat = await filledChat();
  const pages = [...everyPage, chat];
  const shown = async (where: string) => {
    await visit.go(where);
    if (where === chat) for (const part of ["table", ".katex", ".hljs-keyword"]) await visit.page.locator(`[data-role="assistant"] ${part}`).first().waitFor();
    await visit.page.waitForTimeout(300);
  };
  await visit.page.setViewportSize({ width: 3840, height: 2160 });
  for (const where of pages) {
    await shown(where);
    problems.push(...(await visit.stickingOut()).map((one) => `${where}: ${one}`));
  }
  await visit.page.setViewportSize({ width: 360, height: 740 });
  for (const scheme of ["light", "dark"] as const) {
    await visit.page.emulateMedia({ colorScheme: scheme });
    for (const where of pages) {
      await shown(where);
      problems.push(...(await visit.checkAccessibility()).map((one) => `${scheme} ${where}: ${one}`));
      problems.push(...(await visit.stickingOut()).map((one) => `${where}: ${one}`));
    }
  }
  expect(problems).toEqual([]);
}, 240_000);
