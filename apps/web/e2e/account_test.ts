// Signing in, roles, keys, bills, through the browser and with the session cookie alone. Oracles: the API with the operator's key;
// requests made with the keys that the page showed.
import { expect, test } from "vitest";
import { Visit } from "./browser";
import { Server } from "./server";
import { browser, complete, email, password, setupLink, signIn, smallPool, stage, visit as owner } from "./stage";

const server = new Server(["--simulated"], { ...smallPool, TIDEPOOL_LEDGER_FREE_TOKENS: "0" });
stage(server, { pages: "one for all" });

test("the link of the start makes the owner and ends in a chat", async () => {
  const link = setupLink(server);
  await owner.page.goto(server.url + link);
  await owner.page.getByLabel("Mail address").waitFor();
  for (const scheme of ["light", "dark"] as const) {
    await owner.page.emulateMedia({ colorScheme: scheme });
    for (const width of [360, 3840, 1280]) {
      await owner.page.setViewportSize({ width, height: 800 });
      expect(await owner.stickingOut()).toEqual([]);
    }
    expect(await owner.checkAccessibility()).toEqual([]);
  }
  await owner.page.emulateMedia({ colorScheme: null });
  await owner.page.getByLabel("Mail address").fill(email);
  await owner.page.getByLabel("Your name").fill("Ann <b>Owner</b>");
  await owner.page.getByLabel("Password").fill("short");
  await owner.page.getByRole("button", { name: "Go on" }).click();
  await expect.poll(() => new URL(owner.page.url()).hash).toBe("");
  await owner.page.getByLabel("Password").fill(password);
  await owner.page.getByRole("button", { name: "Go on" }).click();
  // One step with models that fit; the chat with the one that is served is a click away.
  await owner.page.waitForURL(/\/welcome$/);
  await owner.page.getByText("scripted is served already").waitFor();
  await owner.page.getByRole("button", { name: /^Get / }).first().waitFor();
  expect(await owner.checkAccessibility()).toEqual([]);
  await owner.page.getByRole("link", { name: "Skip, chat now" }).click();
  await owner.page.waitForURL(/\/chat$/);
  await owner.say("[[say:Welcome aboard.]]");
  await owner.answered();
  const again = await Visit.open(browser, server.url);
  await again.page.goto(server.url + link);
  await again.page.getByRole("alert").waitFor();
  expect(again.problems).toEqual([]);
  await again.close();
});

test("a wrong password is told, the right one signs in, and no key is kept in the page", async () => {
  const visit = await Visit.open(browser, server.url);
  await visit.page.goto(`${server.url}/chat`);
  await signIn(visit, "wrong horse battery");
  await visit.page.getByRole("alert").waitFor();
  expect(await visit.checkAccessibility()).toEqual([]);
  await signIn(visit);
  await visit.page.getByLabel("Message", { exact: true }).waitFor();
  expect(await visit.page.evaluate(() => [document.cookie, JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage })].join())).not.toMatch(/tp-|tidepool_session|ses-/);
  // A page elsewhere has the cookie sent along at most; the token for writes it does not have.
  const forged = await visit.page.evaluate(async () => (await fetch("/api/v1/keys", { method: "POST", credentials: "same-origin", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name: "forged" }) })).status);
  expect(forged).toBe(403);
  expect(visit.problems).toEqual([]);
  await visit.close();
});

test("a session that ends loses no draft", async () => {
  await owner.go("/chat");
  await owner.page.getByLabel("Message", { exact: true }).fill("[[say:still here]]");
  await owner.page.evaluate(async () => {
    const session = await (await fetch("/api/v1/sessions/current")).json() as { csrf_token: string };
    await fetch("/api/v1/sessions/current", { method: "DELETE", headers: { "Tidepool-CSRF": session.csrf_token } });
  });
  await owner.page.getByRole("button", { name: "Send" }).click();
  await owner.page.getByRole("heading", { name: "Sign in again" }).waitFor();
  // It is there until it is answered.
  await expect.poll(() => owner.page.evaluate(() => (document.activeElement as HTMLInputElement).name)).toBe("email");
  await owner.page.keyboard.press("Escape");
  await owner.page.keyboard.press("Escape");
  await owner.page.getByRole("dialog").waitFor();  // the second one closes it for a moment, whatever the page says
  await signIn(owner);
  await owner.page.getByRole("heading", { name: "Sign in again" }).waitFor({ state: "detached" });
  await expect.poll(() => owner.page.getByLabel("Message", { exact: true }).inputValue()).toBe("[[say:still here]]");
  // Nor does one that was ended elsewhere, with the page closed meanwhile.
  await owner.context.clearCookies();
  await owner.page.reload();
  await signIn(owner);
  await expect.poll(() => owner.page.getByLabel("Message", { exact: true }).inputValue()).toBe("[[say:still here]]");
  await owner.page.getByRole("button", { name: "Send" }).click();
  await owner.answered();
});

let key = "";
test("a key is made, shown once, used, and revoked", async () => {
  await owner.go("/keys");
  await owner.page.getByRole("button", { name: "New key" }).first().click();
  await owner.page.getByLabel("Name", { exact: true }).fill("CI <script>alert(1)</script>");
  await owner.page.getByRole("dialog").getByRole("button", { name: "New key" }).click();
  key = (await owner.page.getByTestId("key").textContent())!;
  expect(key).toMatch(/^tp-/);
  expect(await owner.page.getByRole("dialog").textContent()).toContain(`Bearer ${key}`);
  expect((await complete(server, key)).status).toBe(200);
  await owner.page.getByRole("button", { name: "I have kept it" }).click();
  await expect.poll(() => owner.page.content()).not.toContain(key);
  await owner.page.getByRole("button", { name: /^Actions for CI/ }).click();
  await owner.page.getByRole("menuitem", { name: "Revoke" }).click();
  await owner.page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await owner.page.getByText("revoked", { exact: true }).waitFor();
  await expect.poll(async () => (await complete(server, key)).status, { timeout: 3_000 }).toBe(401);
});

async function makeKey(name: string): Promise<string> {
  await owner.go("/keys");
  await owner.page.getByRole("button", { name: "New key" }).first().click();
  await owner.page.getByLabel("Name", { exact: true }).fill(name);
  await owner.page.getByRole("dialog").getByRole("button", { name: "New key" }).click();
  const made = (await owner.page.getByTestId("key").textContent())!;
  await owner.page.getByRole("button", { name: "I have kept it" }).click();
  return made;
}
// As the page itself asks: with the cookie.
const asOwner = <T>(where: string) => owner.page.evaluate(async (path) => (await fetch(path)).json() as unknown, where) as Promise<T>;

test("a conversation is shared where the workspace allows it, read without an account, and taken back", async () => {
  await owner.go("/chat");
  await owner.say("[[think:hm]][[say:**moon** <img src=x onerror=alert(1)> [link](javascript:alert(1))]] Why tides?");
  await owner.answered();
  await owner.page.getByRole("button", { name: "Share" }).click();
  const dialog = owner.page.getByRole("dialog");
  await dialog.getByRole("button", { name: "Make a link" }).click();
  await dialog.getByText(/does not allow shared links/).waitFor();
  await owner.page.keyboard.press("Escape");
  const chat = `/chat/${await owner.conversation()}`;

  await owner.go("/workspaces");
  await owner.page.getByRole("row", { name: /you are here/ }).getByRole("button", { name: "Edit" }).click();
  await owner.page.getByLabel(/Allow shared links/).check();
  await owner.page.getByRole("button", { name: "Save" }).click();
  await dialog.waitFor({ state: "detached" });

  await owner.go(chat);
  await owner.page.getByRole("button", { name: "Share" }).click();
  await dialog.getByLabel("The link ends after").selectOption("1");
  await dialog.getByRole("button", { name: "Make a link" }).click();
  const link = await owner.page.getByTestId("share-link").inputValue();
  expect(link).toMatch(/\/shared#tps-\w{32}$/);
  await dialog.getByText(/made/).waitFor();
  expect(await owner.checkAccessibility()).toEqual([]);

  const stranger = await Visit.open(browser, server.url);
  await stranger.page.goto(link);
  await stranger.page.locator("strong", { hasText: "moon" }).waitFor();
  expect(await stranger.page.locator("main").textContent()).toContain("Why tides?");
  expect(await stranger.page.locator("img[src=x]").count()).toBe(0);
  expect(await stranger.page.locator('a[href^="javascript"]').count()).toBe(0);
  expect(await stranger.page.evaluate(() => document.cookie)).toBe("");
  expect(await stranger.checkAccessibility()).toEqual([]);
  expect(server.output()).not.toContain(link.split("#")[1]);

  await dialog.getByRole("button", { name: "Take this link back" }).click();
  await dialog.getByText("None.").waitFor();
  await stranger.page.reload();
  await stranger.page.getByText("This link shows nothing").waitFor();
  expect(stranger.problems).toEqual([]);
  await stranger.close();
});

interface Sums { requests: number; prompt_tokens: number; output_tokens: number; key?: string }
test("usage and the bill are what the replies said", async () => {
  const metered = await makeKey("metered");
  let prompt = 0;
  let output = 0;
  for (const text of ["[[say:one]]", "[[say:two and three]]", "[[repeat:100:wave ]]"]) {
    const { usage } = (await complete(server, metered, text)).body;
    prompt += usage.prompt_tokens;
    output += usage.completion_tokens;
  }
  const find = async () => (await asOwner<{ data: Sums[] }>("/api/v1/usage?group_by=key")).data.find((one) => one.requests === 3 && one.prompt_tokens === prompt && one.output_tokens === output);
  await expect.poll(find).toBeTruthy();
  const row = (await find())!;
  await owner.go("/usage");
  await owner.page.getByLabel("Group by").selectOption("key");
  const line = owner.page.getByRole("row", { name: row.key! });
  await line.waitFor();
  const cells = await line.getByRole("cell").allTextContents();
  expect(cells.slice(1, 3)).toEqual(["3", new Intl.NumberFormat("en").format(prompt)]);
  expect(cells).toContain(new Intl.NumberFormat("en").format(output));
  const bill = await asOwner<{ usage: Sums; data: Sums[] }>("/api/v1/bills");
  expect(bill.data.filter((line) => line.key === row.key).reduce((all, line) => all + line.output_tokens, 0)).toBe(output);
  await owner.go("/bills");
  await expect.poll(() => owner.page.getByTestId("requests").textContent()).toBe(new Intl.NumberFormat("en").format(bill.usage.requests));
  await owner.go("/requests");
  await owner.page.getByRole("button", { name: "scripted" }).first().click();
  const newest = (await asOwner<{ data: { request_id: string; endpoint: string }[] }>("/api/v1/requests?limit=1")).data[0]!;
  await expect.poll(() => owner.page.getByRole("dialog").textContent()).toContain(newest.request_id);
  await expect.poll(() => owner.page.getByRole("dialog").textContent()).toContain(newest.endpoint);
});

test("prices are put in force, and the bill is the sum of what each request cost", async () => {
  const priced = await makeKey("priced");
  await owner.go("/limits");
  await owner.page.getByRole("button", { name: "New price book" }).click();
  const dialog = owner.page.getByRole("dialog");
  await dialog.getByLabel("Currency").fill("EUR");
  await dialog.getByLabel("Input 1").fill("2.5");
  await dialog.getByLabel("Output 1").fill("ten");
  await expect.poll(() => dialog.getByRole("button", { name: "Put in force" }).isDisabled()).toBe(true);
  await dialog.getByLabel("Output 1").fill("10");
  await dialog.getByRole("button", { name: "What would this month have cost?" }).click();
  await dialog.getByText(/requests of this month: [\d.]+ EUR/).waitFor();
  await dialog.getByRole("button", { name: "Put in force" }).click();
  await owner.page.getByText("Book 1, EUR").waitFor();
  const ids: string[] = [];
  for (const text of ["[[say:one]]", "[[repeat:30:wave ]]"]) ids.push((await complete(server, priced, text)).headers.get("x-request-id")!);
  const amount = async (id: string) => (await asOwner<{ amount?: string }>(`/api/v1/requests/${id}`)).amount ?? "";
  await expect.poll(async () => Promise.all(ids.map(amount))).toEqual([expect.stringMatching(/^0\.0*[1-9]/), expect.stringMatching(/^0\.0*[1-9]/)]);
  const nanos = (text: string) => Math.round(Number(text) * 1e9);
  const total = (await Promise.all(ids.map(amount))).reduce((all, one) => all + nanos(one), 0);
  await owner.go("/bills");
  await owner.page.getByTestId("total").waitFor();
  await expect.poll(async () => nanos((await owner.page.getByTestId("total").textContent())!)).toBe(total);
});

test("the CSV of a bill is the server's: every line, and the total that the page shows", async () => {
  await owner.go("/bills");
  await owner.page.getByTestId("total").waitFor();
  const { file, text, rows } = await owner.saveCsv();
  expect(file).toBe(`bill-${new Date().toISOString().slice(0, 7)}.csv`);
  expect(text).toBe(await owner.page.evaluate(async () => (await fetch("/api/v1/bills/csv")).text()));
  const bill = await asOwner<{ data: { key: string; model: string; output_tokens: number; amount: string }[] }>("/api/v1/bills?limit=1000");
  expect(bill.data.length).toBeGreaterThan(1);
  expect(rows.filter((row) => row.kind === "usage").map((row) => [row.key, row.model, row.output_tokens, row.amount])).toEqual(bill.data.map((line) => [line.key, line.model, String(line.output_tokens), line.amount]));
  expect(rows.filter((row) => row.kind === "total").map((row) => row.amount)).toContain(await owner.page.getByTestId("total").textContent());
});

test("the page of keys says where programs find the server, in each dialect", async () => {
  await owner.go("/keys");
  const section = owner.page.getByRole("region", { name: "Connect a program" });
  for (const [name, base] of [["OpenAI", "/v1"], ["Anthropic", ""], ["Ollama", ""], ["Bailian", "/compatible-mode/v1"]] as const) {
    await section.getByRole("button", { name, exact: true }).click();
    await expect.poll(() => section.locator("li", { has: owner.page.getByRole("button", { name, exact: true, pressed: true }) }).locator("code").textContent()).toBe(server.url + base);
    await expect.poll(() => section.locator("pre").textContent()).toContain(server.url);
  }
});

test("a limit that is reached is explained in the chat", async () => {
  await owner.go("/limits");
  await owner.page.getByRole("button", { name: "New limit" }).click();
  await owner.page.getByLabel("Requests/min").fill("0");
  await owner.page.getByRole("dialog").getByRole("button", { name: "Save" }).click();
  await owner.page.getByRole("dialog").waitFor({ state: "detached" });
  await owner.go("/chat");
  await owner.say("[[say:too much]]");
  await owner.answered("failed");
  await expect.poll(() => owner.answer().getByRole("alert").textContent()).toMatch(/limit|minute/i);
  await owner.go("/limits");
  await owner.page.getByRole("button", { name: "Remove" }).click();
  await owner.page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await owner.page.getByText("No limits").waitFor();
  expect(await owner.page.getByRole("alert").count()).toBe(0);
});

test("another password ends one's other sessions, and a session can be ended from here", async () => {
  const other = await Visit.open(browser, server.url);
  const elsewhere = async (secret: string) => {
    await other.page.goto(`${server.url}/chat`);
    await signIn(other, secret);
    await other.page.getByLabel("Message", { exact: true }).waitFor();
  };
  await elsewhere(password);
  await owner.go("/chat");
  await owner.page.getByRole("button", { name: /^Account/ }).click();
  await owner.page.getByRole("menuitem", { name: "Your account" }).click();
  await owner.page.getByRole("heading", { name: "Where you are signed in" }).waitFor();
  const change = async (old: string, next: string, again = next) => {
    await owner.page.getByLabel("Password now").fill(old);
    await owner.page.getByLabel("New password", { exact: true }).fill(next);
    await owner.page.getByLabel("New password again").fill(again);
    await owner.page.getByRole("button", { name: "Change the password" }).click();
  };
  await change(password, "a new password", "another password");
  await owner.page.getByText("These two are not the same.").waitFor();
  await change("not my password", "a new password");
  await owner.page.getByRole("alert").waitFor();
  await change(password, "a new password");
  await owner.page.getByRole("status").getByText("Done").waitFor();
  await other.page.reload();
  await other.page.getByRole("button", { name: "Sign in" }).waitFor();
  await elsewhere("a new password");
  await owner.go("/account");
  const there = owner.page.getByRole("button", { name: "Sign out there" });
  await there.first().waitFor();
  while ((await there.count()) > 0) {
    const left = await there.count();
    await there.first().click();
    await expect.poll(() => there.count()).toBeLessThan(left);
  }
  await other.page.reload();
  await other.page.getByRole("button", { name: "Sign in" }).waitFor();
  await change("a new password", password);
  await owner.page.getByRole("status").getByText("Done").waitFor();
  await other.close();
});

test("the operator makes an organisation, and suspends it", async () => {
  await owner.go("/workspaces");
  await owner.page.getByRole("button", { name: "New organisation" }).click();
  await owner.page.getByLabel("Name", { exact: true }).fill("Elsewhere <i>Ltd</i>");
  await owner.page.getByRole("dialog").getByRole("button", { name: "Save" }).click();
  const row = owner.page.getByRole("row", { name: /Elsewhere/ });
  await row.getByRole("button", { name: "Suspend" }).click();
  await owner.page.getByRole("dialog").getByText("cut off").waitFor();
  await owner.page.getByRole("dialog").getByRole("button", { name: "Suspend" }).click();
  await row.getByText("suspended", { exact: true }).waitFor();
  await row.getByRole("button", { name: "Let in again" }).click();
  await row.getByText("active", { exact: true }).waitFor();
});

test("a webhook is set, its secret shown once, and removed", async () => {
  await owner.go("/limits");
  await owner.page.getByLabel("Address", { exact: true }).fill("https://example.org/hook");
  await owner.page.getByRole("region", { name: "Webhook" }).getByRole("button", { name: "Save" }).click();
  await owner.page.getByText("Signed with this secret").waitFor();
  await expect.poll(async () => (await asOwner<{ url: string }>("/api/v1/webhook")).url).toBe("https://example.org/hook");
  await owner.go("/limits");
  await owner.page.getByRole("button", { name: "Remove the webhook" }).waitFor();
  expect(await owner.page.getByText("Signed with this secret").count()).toBe(0);
  await owner.page.getByRole("button", { name: "Remove the webhook" }).click();
  await expect.poll(async () => (await asOwner<{ url: string | null }>("/api/v1/webhook")).url).toBeNull();
});

test("an invited viewer sees models, no keys and no console", async () => {
  await owner.go("/people");
  await owner.page.getByRole("button", { name: "Invite" }).click();
  await owner.page.getByLabel("Mail address").fill("vic@example.org");
  await owner.page.getByLabel("Role", { exact: true }).selectOption("viewer");
  await owner.page.getByRole("button", { name: "Make a link" }).click();
  const link = (await owner.page.getByTestId("link").textContent())!;
  expect(link).toContain("/setup#");
  const viewer = await Visit.open(browser, server.url);
  await viewer.page.goto(server.url + link.slice(link.indexOf("/setup#")));
  await viewer.page.getByLabel("Your name").fill("Vic");
  await viewer.page.getByLabel("Password").fill(password);
  await viewer.page.getByRole("button", { name: "Go on" }).click();
  await viewer.page.waitForURL(/\/chat$/);
  await viewer.page.getByText("may look at models and usage, but not use them").waitFor();
  const links = await viewer.page.getByRole("navigation").getByRole("link").allTextContents();
  expect(links).toContain("Models");
  for (const hidden of ["Keys", "Members", "Overview", "Pool", "Settings", "Audit"]) expect(links).not.toContain(hidden);
  await viewer.page.goto(`${server.url}/keys`);
  await expect.poll(() => viewer.page.getByRole("alert").textContent()).toMatch(/role/);
  expect(viewer.problems).toEqual([]);
  await viewer.close();
});

test("axe finds nothing serious on the pages of accounts", async () => {
  const problems: string[] = [];
  for (const scheme of ["light", "dark"] as const) {
    await owner.page.emulateMedia({ colorScheme: scheme });
    for (const where of ["/keys", "/people", "/workspaces", "/audit", "/usage", "/bills", "/limits", "/requests", "/account"]) {
      await owner.go(where);
      await owner.page.waitForTimeout(300);
      problems.push(...(await owner.page.getByRole("main").getByRole("alert").allTextContents()).map((one) => `${where} says ${one}`));
      problems.push(...(await owner.checkAccessibility()).map((one) => `${scheme} ${where}: ${one}`));
    }
  }
  expect(problems).toEqual([]);
});

test("what was done is in the audit log, and the chain holds", async () => {
  await owner.go("/audit");
  await owner.page.getByText("key.revoked", { exact: true }).first().waitFor();
  await owner.page.getByText("key.created", { exact: true }).first().waitFor();
  await owner.page.getByRole("button", { name: "Verify the chain" }).click();
  const rows = await owner.page.getByText(/^All \d+ rows are as they were written/).textContent();
  expect(Number(/\d+/.exec(rows!)![0])).toBeGreaterThanOrEqual((await asOwner<{ data: unknown[] }>("/api/v1/audit?limit=1000")).data.length);
});

test("the CSV of the audit log has the rows that the page has not loaded", async () => {
  // As many as to need another page of the list.
  for (let i = 0; i < 110; ++i) await server.ask("POST", "/api/v1/keys", { name: `=row ${i}, "quoted"` });
  await owner.go("/audit");
  await owner.page.getByRole("button", { name: "Show more" }).waitFor();
  const loaded = await owner.page.getByRole("row").count();
  const { file, rows } = await owner.saveCsv();
  expect(file).toBe("audit.csv");
  interface Row { number: number; action: string; object: string; after: unknown }
  const all = await asOwner<{ data: Row[]; next_cursor: string | null }>("/api/v1/audit?limit=1000");
  expect(all.next_cursor).toBeNull();
  // The export itself is in the log.
  expect(all.data[0]!.action).toBe("audit.exported");
  expect(rows.length).toBeGreaterThan(loaded);
  expect(rows.map((row) => [Number(row.number), row.action, row.object, row.after === "" ? null : JSON.parse(row.after!) as unknown])).toEqual(all.data.slice(1).map((row) => [row.number, row.action, row.object, row.after]));
});
