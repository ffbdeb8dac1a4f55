// Oracles: docs/settings.md, which a test of the server holds equal to its settings; api/openapi.json, whose list of findings is the
// one that doctor's code is compiled against.
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import i18n from "i18next";
import { expect, test } from "vitest";
import type { Finding, Setting } from "../api/types";
import { setLanguage, startI18n } from ".";
import { findingText, serverError, settingAllowed, settingHelp } from "./server_texts";
import { serverZhCN } from "./server_zh-CN";

const read = (name: string) => readFileSync(path.resolve(process.cwd(), "../..", name), "utf8");
const documented = [...read("docs/settings.md").matchAll(/^\| `([a-z_.]+)` \|/gm)].map((match) => match[1]!);
interface Document { paths: Record<string, { get: { responses: { 200: { content: { "application/json": { schema: { properties: { advice: { items: { properties: { id: { enum: string[] }; reason: { enum: (string | null)[] } } } } } } } } } } } }> }
const finding = (JSON.parse(read("api/openapi.json")) as Document).paths["/api/v1/doctor"]!.get.responses[200].content["application/json"].schema.properties.advice.items.properties;
const chinese = /[\u4e00-\u9fff]/;

test("every setting has a Chinese help", () => {
  expect(documented.length).toBeGreaterThan(100);
  expect(documented.filter((id) => !serverZhCN.settings[id])).toEqual([]);
  expect(Object.entries(serverZhCN.settings).filter(([, text]) => !chinese.test(text))).toEqual([]);
});

test("every finding of doctor, and every reason of one, has a Chinese text", () => {
  expect(finding.id.enum.length).toBeGreaterThan(5);
  expect(Object.keys(serverZhCN.findings).sort()).toEqual([...finding.id.enum].sort());
  expect(finding.reason.enum.length).toBeGreaterThan(5);
  expect(Object.keys(serverZhCN.reasons).sort()).toEqual(finding.reason.enum.filter((one) => one !== null).sort());
  expect(Object.entries({ ...serverZhCN.findings, ...serverZhCN.reasons, ...serverZhCN.errors }).filter(([, text]) => !chinese.test(text))).toEqual([]);
});

test("no error has a text that the server does not say", () => {
  const said = new Set(readdirSync(path.resolve(process.cwd(), "../../src"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".cc") && !name.endsWith("_test.cc")).flatMap((name) => read(`src/${name}`).match(/"[a-z_]+"/g) ?? []));
  expect(Object.keys(serverZhCN.errors).filter((code) => !said.has(`"${code}"`))).toEqual([]);
});

test("the server's own words stay where there is no other text, and what they name is kept", async () => {
  await startI18n();
  const setting = { id: "http.threads", help: "I/O threads.", allowed: "a whole number from 1 to 64", kind: "integer", minimum: 1, maximum: 64, choices: [] as string[] } as Setting;
  const finding: Finding = { id: "disk_low", topic: "disk", level: "warn", text: "1.5 GiB free: …", values: { gib: "1.5" }, reason: null };
  const slow: Finding = {
    id: "kernels_slow", topic: "kernels", level: "hint", text: "a:1: 3 tensors …", reason: "shape_unsupported", values: { model: "a:1", tensors: 3, type: "Q8_0", example: "blk.0", shape: "64x40", block: 32, why: "A weight …" },
  };
  expect([settingHelp(setting), settingAllowed(setting), findingText(finding)]).toEqual(["I/O threads.", "a whole number from 1 to 64", "1.5 GiB free: …"]);
  expect(serverError({ code: "empty_prompt", message: "The prompt is empty." })).toBe("The prompt is empty.");
  await setLanguage("zh-CN", false);
  expect(i18n.language).toBe("zh-CN");
  expect(settingHelp(setting)).toBe("I/O 线程数。");
  expect(settingAllowed(setting)).toBe("整数 1 到 64");
  expect(settingHelp({ ...setting, id: "http.new" })).toBe("I/O threads.");
  expect(findingText(finding)).toContain("1.5 GiB");
  expect(findingText(slow)).toBe("a:1：3 个 Q8_0 类型的张量（如 blk.0）走较慢的路径：形状为 64x40 的 Q8_0 权重无法计算：列数须是 32 的整数倍");
  // A server that has another reason, of a later version: its own words.
  expect(findingText({ ...slow, reason: "something_new" as NonNullable<Finding["reason"]> })).toContain("走较慢的路径：A weight …");
  expect(findingText({ ...slow, reason: null })).toContain("走较慢的路径：A weight …");
  expect(serverError({ code: "empty_prompt", message: "The prompt is empty." })).toBe("提示为空。");
  expect(serverError({ code: "invalid_value", param: "temperature", message: "temperature: 3 is above 2." })).toBe("temperature 的值无效：temperature: 3 is above 2.");
  expect(serverError({ code: "never_heard", message: "As the server says." })).toBe("As the server says.");
  await setLanguage("en", false);
});
