import { expect, test } from "vitest";
import { firstModel, placeOf } from "./model_picker";
import type { PoolModel } from "../api/types";

const inPool = (resident: number, warm: number, cold: number, loading = 0) => ({ pooled: true, bytes: { resident, warm, cold, loading }, segments: { resident: 0, warm: 0, cold: 0, loading } }) as unknown as PoolModel;

test("where a model is, as well as it is known", () => {
  expect(placeOf({ state: "ready" }, undefined)).toBe("resident");
  expect(placeOf({ state: "stored" }, undefined)).toBe("cold");
  expect(placeOf({ state: "ready" }, inPool(5, 5, 0))).toBe("resident");
  expect(placeOf({ state: "ready" }, inPool(0, 5, 5))).toBe("warm");
  expect(placeOf({ state: "ready" }, inPool(0, 0, 5))).toBe("cold");
  expect(placeOf({ state: "ready" }, inPool(0, 0, 5, 1))).toBe("loading");
  expect(placeOf({ state: "quarantined" }, inPool(5, 0, 0))).toBe("failed");
});

test("a new conversation begins with the model chosen last, else one in memory, else any; the scripted one last", () => {
  const models = [{ id: "scripted", state: "ready" as const }, { id: "a", state: "stored" as const }, { id: "b", state: "ready" as const }];
  expect(firstModel(models, null)).toBe("b");
  expect(firstModel(models, "a")).toBe("a");
  expect(firstModel(models, "gone")).toBe("b");
  expect(firstModel(models.slice(0, 1), null)).toBe("scripted");
  expect(firstModel([], "a")).toBe("");
});
