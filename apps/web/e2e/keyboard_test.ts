// Without a mouse: what is needed for a chat is reached by Tab, seen to have the focus, and gives it back when it closes. Oracle:
// what the server kept.
import { expect, test } from "vitest";
import { Server } from "./server";
import { email, makeOwner, password, smallPool, stage, visit } from "./stage";

const server = new Server(["--simulated", "--simulated-step-ms", "4"], smallPool);
stage(server, { pages: "one for all", prepare: async () => {
  await makeOwner(server, { email, name: "Ann" });
  await server.ask("POST", "/api/v1/deployments", { name: "second", base: "scripted" });
} });

const focused = () => visit.page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent ?? "");

test("sign in, pick a model, send, stop, answer again, branch, menus and dialogs: by keyboard only", async () => {
  const { page } = visit;
  await page.goto(`${server.url}/chat`);
  await page.getByLabel("Mail address").waitFor();
  await expect.poll(() => page.evaluate(() => (document.activeElement as HTMLInputElement).name)).toBe("email");
  await page.keyboard.type(email);
  await page.keyboard.press("Tab");
  await visit.expectFocusSeen();
  await page.keyboard.type(password);
  await page.keyboard.press("Enter");
  await page.getByLabel("Message", { exact: true }).waitFor();

  // The first Tab offers to skip what every page has.
  await visit.go("/models");
  await page.keyboard.press("Tab");
  await expect.poll(focused).toBe("Skip to the content");
  await visit.expectFocusSeen();
  await visit.tabTo("Chat");
  await page.keyboard.press("Enter");
  await page.getByLabel("Message", { exact: true }).waitFor();

  await visit.tabTo(/^Model \w/);
  await page.keyboard.press("Enter");
  const menu = page.getByRole("menu");
  await menu.waitFor();
  await page.keyboard.press("Escape");
  await menu.waitFor({ state: "detached" });
  await expect.poll(focused).toMatch(/^Model/);
  await visit.expectFocusSeen();
  await page.keyboard.press("Enter");
  await menu.waitFor();
  for (let i = 0; i < 10 && !(await page.locator('[role="menuitem"][data-highlighted]').textContent({ timeout: 1_000 }).catch(() => ""))?.startsWith("second"); ++i) await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await menu.waitFor({ state: "detached" });
  await expect.poll(focused).toMatch(/^Model second/);

  await visit.tabTo("Message");
  await page.keyboard.type("[[stall_ms:120]][[repeat:400:word ]]");
  await page.keyboard.press("Enter");
  await visit.answer().getByText("word word").waitFor();
  await visit.tabTo("Stop");
  await page.keyboard.press("Enter");
  await visit.answered("stopped");
  const id = await visit.conversation();
  const kept = () => page.evaluate(async (at) => (await fetch(at)).json() as unknown, `/api/v1/conversations/${id}`) as Promise<{ model: string; leaf: string | null; turns: { id: string; role: string; state: string; model: string; content: string }[] }>;
  expect((await kept()).turns.map((turn) => [turn.role, turn.state])).toEqual([["user", "done"], ["assistant", "stopped"]]);
  expect((await kept()).turns[1]!.model).toBe("second");

  await visit.tabTo("Answer again");
  await page.keyboard.press("Enter");
  await visit.answered("running");
  await page.getByLabel("Branch 2 of 2").waitFor();
  await visit.answer().getByText("word word").waitFor();
  await visit.tabTo("Stop");
  await page.keyboard.press("Enter");
  await visit.answered("stopped");
  expect((await kept()).turns.map((turn) => turn.state)).toEqual(["done", "stopped", "stopped"]);
  await visit.tabTo("Previous branch");
  await page.keyboard.press("Enter");
  await page.getByLabel("Branch 1 of 2").waitFor();

  // A question is edited and the edit given up: its words stay as they were.
  await visit.tabTo("Edit");
  await page.keyboard.press("Enter");
  await page.getByLabel("Edit the message").waitFor();
  await expect.poll(focused).toBe("Edit the message");
  await page.keyboard.press("Escape");
  await page.getByLabel("Edit the message").waitFor({ state: "detached" });
  await expect.poll(focused).toBe("Edit");

  await visit.tabTo("More");
  await page.keyboard.press("Enter");
  await page.getByRole("menuitem", { name: "Export as JSON" }).waitFor();
  await page.keyboard.press("Escape");
  await menu.waitFor({ state: "detached" });
  await expect.poll(focused).toBe("More");
  await visit.expectFocusSeen();

  await visit.tabTo("Prompt and sampling");
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  // Nothing outside is reached while it is open.
  for (let i = 0; i < 40; ++i) {
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement === document.body || document.activeElement!.closest("dialog") !== null)).toBe(true);
  }
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  await expect.poll(focused).toBe("Prompt and sampling");
  await visit.expectFocusSeen();
});
