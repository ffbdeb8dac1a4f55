import { expect, test } from "vitest";
import { modelHue } from "./colors";

test("a model keeps its colour, and few models never share one", () => {
  const ids = ["smollm2:135m", "scripted", "gemma3:270m", "minilm:l6-v2", "qwen3:4b", "llama3.2:1b", "a", "b"];
  const hues = ids.map(modelHue);
  expect(new Set(hues).size).toBe(ids.length);
  expect(ids.map(modelHue)).toEqual(hues);
  expect(Object.keys(JSON.parse(localStorage.getItem("tidepool.colours") ?? "{}") as object)).toEqual(expect.arrayContaining(ids));
});
