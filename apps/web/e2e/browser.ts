// Debian's Chromium, headless, kept off the network: names resolve to nothing but this machine, and a request to another
// origin, a violation of the page's policy or an uncaught error fails the test.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Page } from "playwright-core";

const flags = [
  "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-domain-reliability", "--disable-sync",
  "--no-first-run", "--disable-client-side-phishing-detection", "--metrics-recording-only", "--no-pings", "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost", "--force-color-profile=srgb", "--hide-scrollbars",
];

export async function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags });
}

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export class Visit {
  readonly problems: string[] = [];
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

  async close(): Promise<void> {
    await this.context.close();
  }
}
