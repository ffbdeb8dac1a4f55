import { expect, test } from "vitest";
import { groupColors, modelColor, modelHue } from "./colors";

test("a model keeps its colour, and few models never share one", () => {
  const ids = ["smollm2:135m", "scripted", "gemma3:270m", "minilm:l6-v2", "qwen3:4b", "llama3.2:1b", "a", "b"];
  const hues = ids.map(modelHue);
  expect(new Set(hues).size).toBe(ids.length);
  expect(ids.map(modelHue)).toEqual(hues);
  expect(Object.keys(JSON.parse(localStorage.getItem("tidepool.colours") ?? "{}") as object)).toEqual(expect.arrayContaining(ids));
});

test("of eight things shown together none shares a colour, whatever was seen before", () => {
  for (let i = 0; i < 40; ++i) modelHue(`key:seen-${i}`);
  const ids = Array.from({ length: 8 }, (_, index) => `key:new-${index}`);
  const colors = groupColors(ids, false);
  expect(new Set(colors).size).toBe(8);
  expect(groupColors(ids, false)).toEqual(colors);
  expect(groupColors(["smollm2:135m"], false)).toEqual([modelColor("smollm2:135m", false)]);
});
