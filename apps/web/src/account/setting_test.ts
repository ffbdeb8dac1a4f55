import { expect, test } from "vitest";
import { problemOf } from "./setting";

test("a value is checked as far as the browser can", () => {
  const whole = { kind: "integer", minimum: 1, maximum: 64 } as const;
  expect(["8", "1.5", "", "x", "0", "65"].map((text) => problemOf(whole, text))).toEqual([null, "whole", "number", "number", "low", "high"]);
  expect(problemOf({ kind: "number", minimum: null, maximum: null }, "1e3")).toBeNull();
  expect(problemOf({ kind: "memory", minimum: null, maximum: null }, "no size")).toBeNull();
});
