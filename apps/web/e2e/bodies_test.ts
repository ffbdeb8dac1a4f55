// Whether a workspace keeps what its requests say: turned on in the console, read on one request's page, deleted. Oracle: the API.
import { expect, test } from "vitest";
import { Server } from "./server";
import { smallPool, stage, visit } from "./stage";

const server = new Server(["--simulated"], smallPool);
stage(server, { pages: "one for all", owner: true });

const workspace = async () => (await server.ask<{ data: { store_bodies: boolean; retention_days: number; redact: Record<string, unknown>; stored_responses: string }[] }>("GET", "/api/v1/workspaces")).data[0]!;

test("nothing is kept until it is turned on; then what was said is shown, redacted, and deleted", async () => {
  expect((await workspace()).store_bodies).toBe(false);
  await visit.go("/workspaces");
  await visit.page.getByRole("button", { name: /^Request bodies of/ }).click();
  const dialog = visit.page.getByRole("dialog");
  await dialog.getByText("Conversations of the chat are not covered by this rule").waitFor();
  await dialog.getByLabel("Keep what requests say and are answered").check();
  await dialog.getByLabel("Days it is kept").fill("7");
  await dialog.getByLabel("And what these match").fill("(unclosed");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByRole("alert").waitFor();
  await dialog.getByLabel("And what these match").fill("case-[0-9]+");
  await dialog.getByLabel("IP addresses").uncheck();
  expect(await visit.checkAccessibility()).toEqual([]);
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByRole("status").waitFor();
  await visit.page.keyboard.press("Escape");
  expect(await workspace()).toMatchObject({ store_bodies: true, retention_days: 7, stored_responses: "as_asked" });
  expect((await workspace()).redact).toMatchObject({ email: true, ip: false, patterns: ["case-[0-9]+"] });
  await visit.page.getByText("kept 7 days").waitFor();

  await server.ask("POST", "/v1/chat/completions", { model: "scripted", messages: [{ role: "user", content: "[[say:<b>noted</b>]] mail ann@example.org about case-77 from 10.0.0.7" }] });
  const kept = async () => (await server.ask<{ data: { id: string; body_stored: boolean }[] }>("GET", "/api/v1/requests?limit=1")).data[0]!;
  await expect.poll(async () => (await kept()).body_stored).toBe(true);
  const { id } = await kept();
  await visit.go(`/requests?request=${id}`);
  await dialog.getByText("Reading it is noted in the audit log.").waitFor();
  await dialog.getByRole("button", { name: "Show what was said" }).click();
  await dialog.getByText("<b>noted</b>", { exact: true }).waitFor();
  const shown = (await dialog.textContent())!;
  expect(shown).toContain("[redacted:email]");
  expect(shown).not.toContain("ann@example.org about");
  expect(shown).not.toContain("case-77");
  expect(shown).toContain("10.0.0.7");
  expect(await visit.checkAccessibility()).toEqual([]);
  await visit.page.setViewportSize({ width: 360, height: 740 });
  expect(await visit.stickingOut()).toEqual([]);
  await visit.page.setViewportSize({ width: 1280, height: 800 });
  await expect.poll(async () => JSON.stringify(await server.ask("GET", "/api/v1/audit"))).toContain("body.exported");
  await dialog.getByRole("button", { name: "Delete it" }).click();
  await visit.page.getByRole("dialog").last().getByRole("button", { name: "Delete it" }).click();
  await visit.page.getByText("What was said is deleted.").waitFor();
  expect((await kept()).body_stored).toBe(false);
});

test("turning it off says that it deletes, and does", async () => {
  await server.ask("POST", "/v1/chat/completions", { model: "scripted", messages: [{ role: "user", content: "[[say:again]]" }] });
  const kept = async () => (await server.ask<{ data: { body_stored: boolean }[] }>("GET", "/api/v1/requests?limit=1")).data[0]!.body_stored;
  await expect.poll(kept).toBe(true);
  await visit.go("/workspaces");
  await visit.page.getByRole("button", { name: /^Request bodies of/ }).click();
  const dialog = visit.page.getByRole("dialog");
  await dialog.getByLabel("Keep what requests say and are answered").uncheck();
  await dialog.getByRole("alert").getByText("cannot be undone").waitFor();
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByText("1 kept text was deleted.").waitFor();
  expect(await kept()).toBe(false);
});
