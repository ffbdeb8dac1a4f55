// Debian's Chromium, headless, kept off the network: names resolve to nothing but this machine, and a request to another
// origin, a violation of the page's policy, an uncaught error or a reply that is not as api/openapi.json says fails the test.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import Ajv, { type ValidateFunction } from "@redocly/ajv/dist/2020";
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Locator, type Page, type Response } from "playwright-core";

const flags = [
  "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-domain-reliability", "--disable-sync",
  "--no-first-run", "--disable-client-side-phishing-detection", "--metrics-recording-only", "--no-pings", "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost", "--force-color-profile=srgb", "--hide-scrollbars",
];

export async function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags });
}

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Operation { responses: Record<string, { content?: Record<string, { schema: object }> }> }
const documented = JSON.parse(readFileSync(path.resolve(import.meta.dirname, "../../../api/openapi.json"), "utf8")) as { paths: Record<string, Record<string, Operation>> };
const ajv = new Ajv({ strict: false, allErrors: true });
const checks = new Map<string, ValidateFunction>();
// "/api/v1/models/{id}" before "/api/v1/models/{id}/load", whose {id} holds slashes: the longest that fits.
const patterns = Object.keys(documented.paths).map((name) => ({ name, fits: new RegExp(`^${name.replace(/[.]/g, "\\.").replace(/\{\w+\}/g, ".+")}$`) })).sort((a, b) => b.name.length - a.name.length);

// What a reply has otherwise than its schema says: the types that pages use come from there.
async function replyProblem(reply: Response): Promise<string | null> {
  const method = reply.request().method().toLowerCase();
  const where = new URL(reply.url()).pathname;
  if (!reply.ok() || !(reply.headers()["content-type"] ?? "").startsWith("application/json")) return null;
  const at = patterns.find((one) => documented.paths[one.name]![method] && one.name === where) ?? patterns.find((one) => documented.paths[one.name]![method] && one.fits.test(where));
  const operation = at && documented.paths[at.name]![method];
  if (!operation) return `${method} ${where} is not in api/openapi.json`;
  const body = await reply.json().catch(() => undefined) as unknown;
  if (body === undefined) return null;  // the page has gone on
  const success = Object.entries(operation.responses).find(([code]) => code.startsWith("2"))![1];
  const key = `${method} ${at.name}`;
  let check = checks.get(key);
  if (!check) checks.set(key, check = ajv.compile(success.content?.["application/json"]?.schema ?? {}));
  return check(body) ? null : `${key}: ${ajv.errorsText(check.errors?.slice(0, 5))}`;
}

export class Visit {
  readonly problems: string[] = [];
  private readonly checking: Promise<void>[] = [];
  private constructor(readonly context: BrowserContext, readonly page: Page, readonly origin: string) {}

  static async open(browser: Browser, origin: string, options: BrowserContextOptions = {}, language = "en"): Promise<Visit> {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: language, reducedMotion: "reduce", ...options });
    return Visit.inContext(context, origin);
  }

  // Another tab of the same person.
  static async inContext(context: BrowserContext, origin: string): Promise<Visit> {
    const page = await context.newPage();
    const visit = new Visit(context, page, origin);
    page.on("pageerror", (error) => visit.problems.push(`uncaught: ${error.message}`));
    page.on("console", (message) => {
      const text = message.text();
      if (/Content Security Policy|Refused to/i.test(text)) visit.problems.push(text);
    });
    page.on("request", (request) => {
      const url = request.url();
      if (!url.startsWith(`${origin}/`) && !url.startsWith("blob:") && !url.startsWith("data:")) visit.problems.push(`request to ${url}`);
    });
    page.on("response", (reply) => {
      if (!/\/(api|v1|tokenize|ready|health)\b/.test(new URL(reply.url()).pathname)) return;
      visit.checking.push(replyProblem(reply).then((problem) => { if (problem) visit.problems.push(problem); }));
    });
    await page.addInitScript(() => {
      addEventListener("securitypolicyviolation", (event) => console.error(`Content Security Policy: ${event.violatedDirective} ${event.blockedURI}`));
    });
    return visit;
  }

  async go(where: string): Promise<void> {
    await this.page.goto(this.origin + where);
    await this.page.locator("main h1").first().waitFor({ state: "attached" });
  }

  // Nothing that axe calls serious or critical (WCAG 2 A and AA).
  async checkAccessibility(): Promise<string[]> {
    // Injected through the protocol, which the page's policy does not concern.
    await this.page.evaluate(axeSource);
    const violations = await this.page.evaluate(async () => {
      const { axe } = window as unknown as { axe: { run: (root: Document, options: object) => Promise<{ violations: { id: string; impact: string; help: string; nodes: { target: string[]; html: string }[] }[] }> } };
      return (await axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] })).violations;
    });
    return violations.filter((one) => one.impact === "serious" || one.impact === "critical")
      .map((one) => `${one.id}: ${one.help}\n${one.nodes.slice(0, 4).map((node) => `    ${node.target.join(" ")} ${node.html.slice(0, 200)}`).join("\n")}`);
  }

  // What sticks out of the window to the right and is neither cut off nor scrolled by a box of its own; and boxes made to scroll down
  // that also scroll sideways.
  async stickingOut(): Promise<string[]> {
    // A window that has just changed its size is laid out some frames later.
    for (let tries = 0; ; ++tries) {
      const found = await this.stickOutNow();
      if (found.length === 0 || tries === 20) return found;
      await this.page.waitForTimeout(100);
    }
  }

  private stickOutNow(): Promise<string[]> {
    return this.page.evaluate(() => {
      const width = innerWidth;
      const found = document.documentElement.scrollWidth > width ? [`the page is ${document.documentElement.scrollWidth} pixels wide in a window of ${width}`] : [];
      const look = (element: Element) => {
        for (const child of element.children) {
          const style = getComputedStyle(child);
          const right = child.getBoundingClientRect().right;
          if (right > width + 1 && style.display !== "none" && style.visibility !== "hidden") found.push(`<${child.tagName.toLowerCase()} class="${child.getAttribute("class") ?? ""}"> ends at ${Math.round(right)} in a window of ${width}`);
          else if (style.overflowX === "visible") look(child);
          else if (child.classList.contains("overflow-y-auto") && child.scrollWidth > child.clientWidth + 1) found.push(`${child.getAttribute("aria-label") ?? child.getAttribute("class")} scrolls sideways: ${child.scrollWidth} in ${child.clientWidth}`);
        }
      };
      look(document.body);
      return found;
    });
  }

  // What the page's CSV button saves, as Python's csv module reads it: a row is its cells by the names of the first line.
  async saveCsv(): Promise<{ file: string; text: string; rows: Record<string, string>[] }> {
    const [download] = await Promise.all([this.page.waitForEvent("download"), this.page.getByRole("button", { name: "CSV", exact: true }).click()]);
    const text = readFileSync(await download.path(), "utf8");
    const read = execFileSync("python3", ["-c", "import csv, io, json, sys\nprint(json.dumps(list(csv.DictReader(io.StringIO(sys.stdin.read(), newline='')))))"], { input: text, encoding: "utf8", maxBuffer: 64 << 20 });
    return { file: download.suggestedFilename(), text, rows: JSON.parse(read) as Record<string, string>[] };
  }

  // Tab until what has the focus is named so: reached by keyboard alone, and seen to have it.
  async tabTo(name: string | RegExp, most = 80): Promise<void> {
    const named = this.page.locator(":focus").and(this.page.getByLabel(name, { exact: true }).or(this.page.getByRole("button", { name, exact: true })).or(this.page.getByRole("link", { name, exact: true })));
    const met: string[] = [];
    for (let i = 0; i < most; ++i) {
      await this.page.keyboard.press("Tab");
      if ((await named.count()) === 0) {
        met.push(await this.page.evaluate(() => (document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent ?? "").slice(0, 30)));
        continue;
      }
      await this.expectFocusSeen();
      return;
    }
    throw new Error(`${String(name)} is not reached by Tab, but ${met.join(" | ")}`);
  }

  // An outline, a ring or a border in another colour around what has the focus, or around the box that it fills.
  async expectFocusSeen(): Promise<void> {
    const seen = await this.page.evaluate(() => {
      const element = document.activeElement!;
      if (!element.matches(":focus-visible")) return false;
      for (let at: Element | null = element, up = 0; at && up < 3; at = at.parentElement, ++up) {
        const style = getComputedStyle(at);
        if ((style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow.includes("0px 0px 0px 2px")) return true;
        if (at !== element && at.matches(":focus-within") && getComputedStyle(at).borderColor === getComputedStyle(document.documentElement).getPropertyValue("--accent")) return true;
        if (at !== element && at.className.includes("focus-within:border-accent")) return true;
      }
      return false;
    });
    if (!seen) throw new Error(`the focus is not seen on ${await this.page.evaluate(() => document.activeElement!.outerHTML.slice(0, 200))}`);
  }

  // The address changes a moment after what was done.
  query(name: string): string | null {
    return new URL(this.page.url()).searchParams.get(name);
  }

  // ---- the chat ----

  // The answer that was there when something was said: the next one is another.
  private answerBefore: string | null = null;
  answer(): Locator {
    return this.page.locator('[data-role="assistant"]').last();
  }
  private async noteAnswer(): Promise<void> {
    this.answerBefore = (await this.answer().count()) > 0 ? await this.answer().getAttribute("data-turn") : null;
  }
  async say(text: string): Promise<void> {
    await this.noteAnswer();
    await this.page.getByLabel("Message", { exact: true }).fill(text);
    await this.page.getByRole("button", { name: "Send" }).click();
  }
  async answerAgain(): Promise<void> {
    await this.noteAnswer();
    await this.answer().getByRole("button", { name: "Answer again" }).click();
  }
  // The answer to what was said last has come to this state.
  async answered(state = "done"): Promise<void> {
    await this.page.waitForFunction(([before, wanted]) => {
      const last = [...document.querySelectorAll<HTMLElement>('[data-role="assistant"]')].at(-1);
      return last !== undefined && last.dataset.turn !== before && last.dataset.state === wanted;
    }, [this.answerBefore, state] as const);
  }
  // Its id is in the address once the first message is with the server.
  async conversation(): Promise<string> {
    await this.page.waitForURL(/\/chat\/conv-/);
    return this.page.url().split("/").pop()!;
  }

  copied(): Promise<string> {
    return this.page.evaluate(() => navigator.clipboard.readText());
  }

  async close(): Promise<void> {
    await Promise.all(this.checking);
    await this.context.close();
    if (this.problems.length > 0) throw new Error(this.problems.join("\n"));
  }
}
