// What the tests of one file share: a server, a browser, and a page for each test or one for all. Started before the first, gone
// after the last; no test needs what another one did to them, but where a file says so.
import type { Browser, BrowserContextOptions } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import { launch, Visit } from "./browser";
import type { Server } from "./server";

export const password = "correct horse battery";
export const email = "ann@example.org";
export const smallPool = { TIDEPOOL_POOL_MEMORY: "400MiB", TIDEPOOL_POOL_WARM_MEMORY: "64MiB" };

export let browser: Browser;
export let visit: Visit;

interface Plan {
  pages: "each test's own" | "one for all";
  context?: BrowserContextOptions;
  // With the server up and no page open yet.
  prepare?: () => Promise<void>;
  // Somebody signs up with the link of the start.
  owner?: boolean;
}

export function stage(server: Server, { pages, context, prepare, owner = false }: Plan): void {
  const open = async () => { visit = await Visit.open(browser, server.url, context); };
  beforeAll(async () => {
    await server.start();
    await prepare?.();
    browser = await launch();
    if (pages === "one for all") await open();
    if (owner) await signUp(visit, server);
  });
  afterAll(async () => {
    try {
      if (pages === "one for all") await visit.close();
    } finally {
      await browser?.close();
      await server.remove();
    }
  });
  if (pages === "each test's own") beforeEach(open);
  afterEach(async () => {
    expect(visit.problems).toEqual([]);
    if (pages === "each test's own") await visit.close();
  });
}

export const setupLink = (server: Server) => /\/setup#\S+/.exec(server.output())![0];

// By the link of the start, without a page.
export async function makeOwner(server: Server, who: { email: string; name: string }): Promise<void> {
  const reply = await fetch(`${server.url}/api/v1/links/use`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...who, token: setupLink(server).split("#")[1], password }) });
  expect(reply.status).toBe(201);
}

async function signUp({ page }: Visit, server: Server): Promise<void> {
  await page.goto(server.url + setupLink(server));
  await page.getByLabel("Mail address").fill(email);
  await page.getByLabel("Your name").fill("Ann");
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Go on" }).click();
  await page.waitForURL(/\/welcome$/);
}

export async function signIn({ page }: Visit, secret = password): Promise<void> {
  await page.getByLabel("Mail address").fill(email);
  await page.getByLabel("Password").fill(secret);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
}

export interface Answer { usage: { prompt_tokens: number; completion_tokens: number }; error?: { code: string; message: string } }
// What the scripted model answers to a key's request.
export async function complete(server: Server, key: string, text = "[[say:hello]]", more: object = {}, signal?: AbortSignal): Promise<{ status: number; headers: Headers; body: Answer }> {
  const reply = await fetch(`${server.url}/v1/chat/completions`, {
    method: "POST", headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" }, body: JSON.stringify({ model: "scripted", messages: [{ role: "user", content: text }], ...more }), signal: signal ?? null,
  });
  return { status: reply.status, headers: reply.headers, body: (await reply.json()) as Answer };
}
