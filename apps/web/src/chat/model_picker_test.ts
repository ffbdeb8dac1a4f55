import { expect, test } from "vitest";
import { firstModel, placeOf } from "./model_picker";

test("where a model is, as the server says it", () => {
  expect(placeOf({ state: "ready", place: "resident" })).toBe("resident");
  expect(placeOf({ state: "ready", place: "warm" })).toBe("warm");
  expect(placeOf({ state: "stored", place: "cold" })).toBe("cold");
  expect(placeOf({ state: "loading", place: "cold" })).toBe("loading");
  expect(placeOf({ state: "quarantined", place: "warm" })).toBe("failed");
});

test("a new conversation begins with the model chosen last, else one in memory, else any; the scripted one last", () => {
  const models = [{ id: "scripted", state: "ready" as const }, { id: "a", state: "stored" as const }, { id: "b", state: "ready" as const }];
  expect(firstModel(models, null)).toBe("b");
  expect(firstModel(models, "a")).toBe("a");
  expect(firstModel(models, "gone")).toBe("b");
  expect(firstModel(models.slice(0, 1), null)).toBe("scripted");
  expect(firstModel([], "a")).toBe("");
});
