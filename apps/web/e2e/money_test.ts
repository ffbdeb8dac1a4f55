// Charts of usage, and the forms that rule what may be used and what it costs. Oracles: the API, asked with the operator's key.
import { createHmac } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { Server } from "./server";
import { complete, smallPool, stage, visit, type Answer } from "./stage";

const server = new Server(["--simulated", "--simulated-step-ms", "5"], { ...smallPool, TIDEPOOL_POOL_SPECULATION: "false", TIDEPOOL_LEDGER_FREE_TOKENS: "0", TIDEPOOL_LEDGER_WEBHOOK_PRIVATE: "true" });
stage(server, { pages: "one for all", owner: true });

const ask = (key: string, text: string, more: object = {}, signal?: AbortSignal) => complete(server, key, text, more, signal);
const makeKey = (name: string) => server.ask<{ id: string; key: string }>("POST", "/api/v1/keys", { name, service: true });

test("usage is stacked by model, key and member, each with its own colour and its sum", async () => {
  // Ten keys: eight have bars of their own, the rest is one.
  const names = Array.from({ length: 10 }, (_, index) => `key ${index}: ${index === 9 ? "a very long name of a service that does everything for everybody, always ".repeat(2).trim() : "x"}`);
  const keys = await Promise.all(names.map(makeKey));
  const used: number[] = [];
  for (const [index, key] of keys.entries()) {
    const { body } = await ask(key.key, `[[repeat:${10 * (index + 1)}:wave ]]`);
    used.push(body.usage.prompt_tokens + body.usage.completion_tokens);
  }
  await expect.poll(async () => (await server.ask<{ data: { requests: number }[] }>("GET", "/api/v1/usage?group_by=key")).data.length).toBe(10);
  await visit.go("/usage");
  const legend = visit.page.getByRole("list", { name: "Legend with sums" });
  const entries = async () => (await legend.getByRole("listitem").allTextContents()).map((text) => text.replace(/\s+/g, " "));
  const grouped = (value: number) => (value < 10_000 ? new Intl.NumberFormat("en").format(value) : expect.anything() as unknown as string);
  await expect.poll(entries).toEqual([`scripted${grouped(used.reduce((all, one) => all + one, 0))}`]);
  await visit.page.getByLabel("Group by").selectOption("key");
  const expected = [...used.entries()].sort((a, b) => b[1] - a[1]).map(([index, tokens]) => ({ name: names[index]!, tokens }));
  await expect.poll(entries).toEqual([...expected.slice(0, 8).map((one) => `${one.name}${grouped(one.tokens)}`), `All others${grouped(expected.slice(8).reduce((all, one) => all + one.tokens, 0))}`]);
  const colours = () => legend.locator("li > span:first-child").evaluateAll((spans) => spans.map((span) => (span as HTMLElement).style.backgroundColor));
  const before = await colours();
  expect(new Set(before).size).toBe(9);
  // Long names are cut, and said in full where one points; nothing leaves the window.
  expect(await legend.getByRole("listitem").first().locator("[title]").getAttribute("title")).toContain(names[9]!);
  await visit.page.setViewportSize({ width: 360, height: 740 });
  expect(await visit.stickingOut()).toEqual([]);
  await visit.page.setViewportSize({ width: 1280, height: 800 });
  // The bars are there, in those colours: the canvas is not of one.
  const canvas = visit.page.getByRole("img", { name: /^Day by day: Tokens, Key/ }).locator("canvas");
  await expect.poll(() => canvas.evaluate((element: HTMLCanvasElement) => new Set(new Uint32Array(element.getContext("2d")!.getImageData(0, 0, element.width, element.height).data.buffer)).size)).toBeGreaterThan(9);
  await visit.page.reload();
  await visit.page.getByLabel("Group by").selectOption("key");
  await expect.poll(colours).toEqual(before);
  // Requests instead of tokens; and what each day took.
  await visit.page.getByLabel("Show").selectOption("requests");
  await expect.poll(entries).toEqual(expect.arrayContaining([`All others2`]));
  await visit.page.getByLabel("Group by").selectOption("kind");
  await expect.poll(async () => (await entries()).map((text) => text.replace(/[\d,.]+$/, ""))).toEqual(["Prompt tokens", "Output tokens"]);
  await visit.page.getByRole("row", { name: new Date().toISOString().slice(0, 10) }).waitFor();
  for (const group of ["member", "workspace", "model"]) {
    await visit.page.getByLabel("Group by").selectOption(group);
    await expect.poll(async () => (await entries()).length).toBe(1);
  }
  expect(await visit.checkAccessibility()).toEqual([]);
});

test("a key is made with a scope and limits, which hold and are shown afterwards, and changed", async () => {
  await visit.go("/keys");
  await visit.page.getByRole("button", { name: "New key" }).first().click();
  const dialog = visit.page.getByRole("dialog");
  await dialog.getByLabel("Name", { exact: true }).fill("narrow");
  await dialog.getByLabel("Days until it expires").fill("30");
  await dialog.getByText("Restrict").click();
  await dialog.getByRole("button", { name: "scripted", exact: true }).click();
  await dialog.getByRole("button", { name: "/v1/chat/completions" }).click();
  await dialog.getByRole("button", { name: "/v1/embeddings" }).click();
  await dialog.getByRole("button", { name: "/v1/embeddings" }).click();
  await dialog.getByLabel("Networks").fill("127.0.0.0/8");
  await dialog.getByText("Limits", { exact: true }).click();
  await dialog.getByLabel("Requests/min").fill("2");
  await dialog.getByLabel("Burst (s)").fill("60");
  await dialog.getByLabel("Most output").fill("4");
  expect(await visit.checkAccessibility()).toEqual([]);
  await dialog.getByRole("button", { name: "New key" }).click();
  const secret = (await visit.page.getByTestId("key").textContent())!;
  await visit.page.getByRole("button", { name: "I have kept it" }).click();
  const made = (await server.ask<{ data: { id: string; name: string; models: string[]; endpoints: string[]; networks: string[]; expires_at: number; weight: number }[] }>("GET", "/api/v1/keys")).data.find((one) => one.name === "narrow")!;
  expect(made).toMatchObject({ models: ["scripted"], endpoints: ["/v1/chat/completions"], networks: ["127.0.0.0/8"] });
  expect(Math.abs(made.expires_at - Date.now() / 1e3 - 30 * 86_400)).toBeLessThan(120);
  expect((await server.ask<{ data: object[] }>("GET", `/api/v1/limits?scope=key:${made.id}`)).data).toEqual([expect.objectContaining({ requests_per_minute: 2, max_output_tokens: 4, burst_s: 60, tokens_per_day: null })]);
  expect((await ask(secret, "[[tokens:40]]")).body.usage.completion_tokens).toBe(4);
  expect((await ask(secret, "[[say:a]]")).status).toBe(200);
  expect((await ask(secret, "[[say:a]]")).status).toBe(429);
  const other = await fetch(`${server.url}/v1/models`, { headers: { Authorization: `Bearer ${secret}` } });
  expect(other.status).toBe(403);

  await visit.page.getByRole("button", { name: "narrow", exact: true }).click();
  await dialog.getByText("/v1/chat/completions", { exact: true }).waitFor();
  await expect.poll(() => dialog.textContent()).toMatch(/Requests\/min 2.*Most output 4/);
  expect(await visit.checkAccessibility()).toEqual([]);
  await dialog.getByRole("button", { name: "Change name, scope or expiry" }).click();
  await dialog.getByRole("button", { name: "/v1/completions", exact: true }).click();
  await dialog.getByLabel("Works until (UTC)").fill("");
  await dialog.getByLabel("Weight").fill("3");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByText("/v1/completions", { exact: true }).waitFor();
  await dialog.getByRole("button", { name: "Change the limit" }).click();
  await dialog.getByLabel("Requests/min").fill("500");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByRole("button", { name: "Change the limit" }).waitFor();
  expect(await server.ask("GET", `/api/v1/keys/${made.id}`)).toMatchObject({ models: ["scripted"], endpoints: ["/v1/chat/completions", "/v1/completions"], expires_at: null, weight: 3 });
  expect((await server.ask<{ data: object[] }>("GET", `/api/v1/limits?scope=key:${made.id}`)).data).toEqual([expect.objectContaining({ requests_per_minute: 500, max_output_tokens: 4 })]);
  expect((await ask(secret, "[[say:a]]")).status).toBe(200);
  await visit.page.keyboard.press("Escape");
});

test("limits with a burst, and budgets, are made and changed", async () => {
  const { id } = await makeKey("ruled");
  await visit.go("/limits");
  const dialog = visit.page.getByRole("dialog");
  await visit.page.getByRole("button", { name: "New limit" }).click();
  await dialog.getByLabel("Scope").selectOption(`key:${id}`);
  await dialog.getByLabel("Tokens/min").fill("1000");
  await dialog.getByLabel("Burst (s)").fill("15");
  await dialog.getByRole("button", { name: "Save" }).click();
  const limit = visit.page.getByRole("region", { name: "Limits", exact: true }).last().getByRole("row", { name: /ruled/ });
  await limit.getByText("15 s").waitFor();
  await limit.getByRole("button", { name: "Change the limit" }).click();
  await expect.poll(() => dialog.getByLabel("Tokens/min").inputValue()).toBe("1000");
  await dialog.getByLabel("Tokens/min").fill("");
  await dialog.getByLabel("Tokens/day").fill("5000");
  await dialog.getByLabel("Burst (s)").fill("90");
  await dialog.getByRole("button", { name: "Save" }).click();
  await limit.getByText("90 s").waitFor();
  expect((await server.ask<{ data: object[] }>("GET", `/api/v1/limits?scope=key:${id}`)).data).toEqual([expect.objectContaining({ tokens_per_minute: null, tokens_per_day: 5000, burst_s: 90 })]);

  await visit.page.getByRole("button", { name: "New budget" }).click();
  await dialog.getByLabel("Scope").selectOption(`key:${id}`);
  await dialog.getByLabel("Amount").fill("10");
  await dialog.getByLabel("Tell at (%)").fill("90, 25");
  await dialog.getByRole("button", { name: "Save" }).click();
  const budget = visit.page.getByRole("row", { name: /ruled.*10/ });
  await budget.getByText("refuses").waitFor();
  await budget.getByRole("button", { name: "Change the budget" }).click();
  await dialog.getByLabel("Amount").fill("20.5");
  await dialog.getByLabel("Period").selectOption("day");
  await dialog.getByRole("checkbox").uncheck();
  expect(await visit.checkAccessibility()).toEqual([]);
  await dialog.getByRole("button", { name: "Save" }).click();
  await visit.page.getByRole("row", { name: /ruled.*20\.5/ }).getByText("only tells").waitFor();
  expect((await server.ask<{ data: object[] }>("GET", "/api/v1/budgets")).data).toEqual([expect.objectContaining({ scope: `key:${id}`, amount: "20.50", period: "day", block: false, thresholds: [25, 90] })]);
});

test("prices by the length of the prompt are put in force and charged", async () => {
  await visit.go("/limits");
  await visit.page.getByRole("button", { name: "New price book" }).click();
  const dialog = visit.page.getByRole("dialog");
  await dialog.getByLabel("Currency").fill("EUR");
  await dialog.getByLabel("Input 1").fill("1");
  await dialog.getByLabel("Output 1").fill("1");
  await dialog.getByRole("button", { name: "Another price for longer prompts of *" }).click();
  await expect.poll(() => dialog.getByLabel("Prompt up to 1").inputValue()).toBe("32768");
  await dialog.getByLabel("Prompt up to 1").fill("");
  await dialog.getByText("Two lines of * end at the same length.").waitFor();
  await expect.poll(() => dialog.getByRole("button", { name: "Put in force" }).isDisabled()).toBe(true);
  await dialog.getByLabel("Prompt up to 1").fill("100");
  await dialog.getByLabel("Input 2").fill("1000");
  await dialog.getByLabel("Output 2").fill("1000");
  expect(await visit.checkAccessibility()).toEqual([]);
  await dialog.getByRole("button", { name: "Put in force" }).click();
  await visit.page.getByText("Book 1, EUR").waitFor();
  const { key } = await makeKey("tiers");
  const short = (await ask(key, "[[say:a]]")).body.usage;
  const long = (await ask(key, `[[say:a]] ${"word ".repeat(200)}`)).body.usage;
  expect(short.prompt_tokens).toBeLessThanOrEqual(100);
  expect(long.prompt_tokens).toBeGreaterThan(100);
  const amounts = async () => (await server.ask<{ data: { prompt_tokens: number; amount: string }[] }>("GET", "/api/v1/requests?limit=2")).data.map((one) => Number(one.amount));
  const price = (usage: Answer["usage"], each: number) => Math.round((usage.prompt_tokens + usage.completion_tokens) * each * 1e3) / 1e9;
  await expect.poll(async () => (await amounts()).map((one) => Math.round(one * 1e9))).toEqual([price(long, 1000), price(short, 1)].map((one) => Math.round(one * 1e9)));
});

test("a book of another day has discounts, minimums and prices of embeddings", async () => {
  const { organisation } = await server.ask<{ organisation: string }>("GET", "/api/v1/sessions/current");
  await visit.go("/limits");
  await visit.page.getByRole("button", { name: "New price book" }).click();
  const dialog = visit.page.getByRole("dialog");
  for (const name of ["Input 1", "Output 1"]) await dialog.getByLabel(name).fill("1");
  await dialog.getByText("From when, embeddings, minimums and discounts").click();
  await dialog.getByLabel("In force from (UTC)").fill("2099-01-01");
  await dialog.getByLabel("Charge requests that failed by our fault").check();
  await dialog.getByLabel("Embeddings: *").fill("0.5");
  await dialog.getByLabel("Least a request: *").fill("much");
  await expect.poll(() => dialog.getByRole("button", { name: "Put in force" }).isDisabled()).toBe(true);
  await dialog.getByLabel("Least a request: *").fill("0.0001");
  await dialog.getByRole("button", { name: "Add a discount" }).click();
  await dialog.getByLabel("Organisation 1").selectOption(organisation);
  await dialog.getByLabel("Factor 1").fill("1.5");
  await expect.poll(() => dialog.getByRole("button", { name: "Put in force" }).isDisabled()).toBe(true);
  await dialog.getByLabel("Factor 1").fill("0.8");
  expect(await visit.checkAccessibility()).toEqual([]);
  await dialog.getByRole("button", { name: "Put in force" }).click();
  await visit.page.getByText(/2099-01-01/).first().waitFor();
  interface Book { valid_from: string; charge_failed: boolean; discounts: object[]; models: object[] }
  const books = (await server.ask<{ data: Book[] }>("GET", "/api/v1/prices")).data;
  const written = books.find((book) => book.valid_from.startsWith("2099-01-01"))!;
  expect(written).toMatchObject({ charge_failed: true, discounts: [{ organisation }], models: [{ model: "*", minimum_charge: expect.stringMatching(/^0\.00010*$/) as string }] });
  // What is in force until then is what it was.
  expect(books.filter((book) => book.charge_failed)).toHaveLength(1);
});

test("a bill is adjusted with a reason, by the operator", async () => {
  await visit.go("/bills");
  await visit.page.getByTestId("total").waitFor();
  const total = async () => Number(await visit.page.getByTestId("total").textContent());
  const before = await total();
  await visit.page.getByRole("button", { name: "Adjust" }).click();
  const dialog = visit.page.getByRole("dialog");
  await dialog.getByLabel("Amount").fill("-0.05");
  await expect.poll(() => dialog.getByLabel("Currency").inputValue()).toBe("EUR");
  await dialog.getByRole("button", { name: "Adjust" }).click();
  // Without a reason nothing is sent.
  expect((await server.ask<{ adjustments: object[] }>("GET", "/api/v1/bills")).adjustments).toEqual([]);
  await dialog.getByLabel("Reason").fill("An hour of outage <b>on Tuesday</b>");
  expect(await visit.checkAccessibility()).toEqual([]);
  await dialog.getByRole("button", { name: "Adjust" }).click();
  await visit.page.getByRole("row", { name: /An hour of outage <b>on Tuesday<\/b>.*-0\.05 EUR/ }).waitFor();
  await expect.poll(async () => Math.round((before - (await total())) * 1e9)).toBe(50_000_000);
  const kept = (await server.ask<{ adjustments: object[] }>("GET", "/api/v1/bills")).adjustments;
  expect(kept).toEqual([expect.objectContaining({ amount: "-0.05", currency: "EUR", reason: "An hour of outage <b>on Tuesday</b>" })]);
});

test("secrets are set, replaced and removed, and never shown", async () => {
  await visit.go("/settings");
  const section = visit.page.getByRole("region", { name: "Secrets" });
  const names = async () => (await server.ask<{ data: { name: string }[] }>("GET", "/api/v1/secrets")).data.map((one) => one.name);
  await section.getByText("none kept").waitFor();
  for (const [button, value] of [["Set hub.token", "hf_first-secret"], ["Replace hub.token", "hf_second-secret"]] as const) {
    await section.getByRole("button", { name: button }).click();
    const field = section.getByLabel("New value of hub.token");
    expect(await field.getAttribute("type")).toBe("password");
    expect(await field.inputValue()).toBe("");
    await field.fill(value);
    await section.getByRole("button", { name: "Save" }).click();
    await field.waitFor({ state: "detached" });
    await section.getByText("kept", { exact: true }).waitFor();
    expect(await names()).toEqual(["hub.token"]);
    expect(await visit.page.content()).not.toContain(value);
  }
  expect(await visit.checkAccessibility()).toEqual([]);
  await section.getByRole("button", { name: "Remove hub.token" }).click();
  await visit.page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await section.getByText("none kept").waitFor();
  expect(await names()).toEqual([]);
});

test("the secret of a webhook is replaced", async () => {
  await visit.go("/limits");
  const section = visit.page.getByRole("region", { name: "Webhook" });
  await section.getByLabel("Address", { exact: true }).fill("https://example.org/hook");
  await section.getByRole("button", { name: "Save" }).click();
  const secret = section.getByRole("status").locator("code");
  await secret.waitFor();
  const first = await secret.textContent();
  await section.getByRole("button", { name: "Replace the secret" }).click();
  await visit.page.getByRole("dialog").getByRole("button", { name: "Replace the secret" }).click();
  await expect.poll(() => secret.textContent()).not.toBe(first);
  expect((await server.ask<{ url: string }>("GET", "/api/v1/webhook")).url).toBe("https://example.org/hook");
  await visit.page.reload();
  await section.getByRole("button", { name: "Replace the secret" }).waitFor();
  expect(await secret.count()).toBe(0);
});

test("a webhook is tried: whether its notice arrived is said", async () => {
  const came: { signature: string; body: string }[] = [];
  const listener = createServer((request, reply) => {
    let body = "";
    request.on("data", (piece) => { body += String(piece); });
    request.on("end", () => {
      came.push({ signature: String(request.headers["tidepool-signature"]), body });
      reply.writeHead(204).end();
    });
  });
  await new Promise<void>((resolve) => { listener.listen(0, "127.0.0.1", resolve); });
  await visit.go("/limits");
  const section = visit.page.getByRole("region", { name: "Webhook" });
  await section.getByLabel("Another address").fill(`http://127.0.0.1:${(listener.address() as AddressInfo).port}/hook`);
  await section.getByRole("button", { name: "Save" }).click();
  const secret = (await section.getByRole("status").locator("code").textContent())!;
  await section.getByRole("button", { name: "Send a notice for trying" }).click();
  await section.getByText("The notice has arrived.").waitFor();
  const { signature, body } = came.at(-1)!;
  const [, time, digest] = /^t=(\d+),v1=(\w+)$/.exec(signature)!;
  expect(digest).toBe(createHmac("sha256", secret).update(`${time}.${body}`).digest("hex"));
  listener.closeAllConnections();
  await new Promise((resolve) => { listener.close(resolve); });
  await section.getByRole("button", { name: "Send a notice for trying" }).click();
  await section.getByText(/^The notice did not arrive: ./).waitFor();
});

test("what runs is shown with its state and can be cancelled, and filters live in the address", async () => {
  const { id, key } = await makeKey("runner");
  const running = ask(key, "[[stall_ms:20]][[tokens:6000]]", { max_tokens: 6000 });
  const other = new AbortController();
  const otherKey = await makeKey("another");
  const beside = ask(otherKey.key, "[[stall_ms:20]][[tokens:6000]]", { max_tokens: 6000 }, other.signal).catch(() => null);
  await visit.go("/requests");
  const now = visit.page.getByRole("table").filter({ has: visit.page.getByRole("columnheader", { name: "For" }) });
  await now.getByRole("row", { name: /runner.*decode/ }).waitFor();
  await now.getByRole("row", { name: /another.*decode/ }).waitFor();
  await visit.page.getByLabel("Key", { exact: true }).selectOption(id);
  await now.getByRole("row", { name: /another/ }).waitFor({ state: "detached" });
  await expect.poll(() => visit.query("key")).toBe(id);
  await visit.page.getByLabel("State").selectOption("running");
  await visit.page.reload();
  await now.getByRole("row", { name: /runner.*decode/ }).waitFor();
  await expect.poll(() => now.getByRole("row").count()).toBe(2);
  await expect.poll(() => visit.page.getByLabel("Key", { exact: true }).inputValue()).toBe(id);
  expect(await visit.checkAccessibility()).toEqual([]);
  await now.getByRole("button", { name: /^Cancel / }).click();
  await visit.page.getByRole("dialog").getByText("what was computed stays on the bill").waitFor();
  await visit.page.getByRole("dialog").getByRole("button", { name: "Cancel the request" }).click();
  const ended = await running;
  expect(ended.status).toBe(499);
  expect(ended.body.error!.code).toBe("request_stopped");
  await visit.page.getByText("Nothing runs or waits.").waitFor();
  await visit.page.getByLabel("State").selectOption("cancelled");
  const row = visit.page.getByRole("button", { name: "scripted" });
  await row.waitFor();
  await row.click();
  await visit.page.getByRole("dialog").getByText("runner").waitFor();
  await expect.poll(() => visit.query("request")).not.toBeNull();
  const opened = visit.query("request");
  expect((await server.ask<{ data: { id: string; key: string }[] }>("GET", `/api/v1/requests?status=cancelled&key=${id}`)).data.map((one) => one.id)).toEqual([opened]);
  await visit.page.keyboard.press("Escape");
  await expect.poll(() => visit.query("request")).toBeNull();
  // Two choices of one moment: none is lost.
  await visit.page.evaluate(() => {
    for (const [label, value] of [["Endpoint", "embeddings"], ["State", "done"]]) {
      const select = document.querySelector<HTMLSelectElement>(`select[aria-label="${label}"]`)!;
      Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, "value")!.set!.call(select, value);
      select.dispatchEvent(new Event("change", { bubbles: true }));
    }
  });
  await expect.poll(() => `${visit.query("endpoint")} ${visit.query("status")}`).toBe("embeddings done");
  await visit.page.getByText("No requests").waitFor();
  await visit.page.getByRole("button", { name: "Clear" }).click();
  await expect.poll(() => new URL(visit.page.url()).search).toBe("");
  await now.getByRole("row", { name: /another/ }).waitFor();
  await visit.page.getByLabel("Time", { exact: true }).selectOption("dates");
  await visit.page.getByLabel("To", { exact: true }).fill("2020-01-01");
  await visit.page.getByText("No requests").waitFor();
  await expect.poll(() => visit.query("to")).toBe("2020-01-01");
  other.abort();
  await beside;
});

test("none of this leaves a window, of a phone or a wall, in light or dark", async () => {
  const found: string[] = [];
  for (const scheme of ["light", "dark"] as const) {
    await visit.page.emulateMedia({ colorScheme: scheme });
    for (const where of ["/usage", "/bills", "/limits", "/keys", "/requests", "/settings"]) {
      await visit.go(where);
      for (const width of [360, 3840, 1280]) {
        await visit.page.setViewportSize({ width, height: 800 });
        await visit.page.waitForTimeout(150);
        found.push(...(await visit.stickingOut()).map((one) => `${scheme} ${where} ${width}: ${one}`));
      }
      found.push(...(await visit.checkAccessibility()).map((one) => `${scheme} ${where}: ${one}`));
    }
  }
  await visit.page.emulateMedia({ colorScheme: null });
  expect(found).toEqual([]);
});
