import { expect, test } from "vitest";
import { addAmounts, sumsOf } from "./usage";

test("money is added exactly", () => {
  expect(addAmounts(["0.1", "0.2"])).toBe("0.30");
  expect(addAmounts(Array.from({ length: 1000 }, () => "0.000000001"))).toBe("0.000001");
  expect(addAmounts(["12345678901234.5", "-0.25", "nonsense"])).toBe("12345678901234.25");
  expect(addAmounts(["-1.5", "1"])).toBe("-0.50");
  expect(addAmounts([])).toBe("0.00");
});

test("sums of rows", () => {
  const row = { requests: 2, errors: 1, cancelled: 0, prompt_tokens: 3, cached_tokens: 1, output_tokens: 4, reasoning_tokens: 0, free_tokens: 0, device_seconds: 0.5, amount: "0" };
  expect(sumsOf([row, row])).toEqual({ requests: 4, errors: 2, prompt: 6, cached: 2, output: 8, device: 1 });
});
