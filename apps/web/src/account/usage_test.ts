import { expect, test } from "vitest";
import { sumsOf } from "./usage";

test("sums of rows", () => {
  const row = { requests: 2, errors: 1, cancelled: 0, prompt_tokens: 3, cached_tokens: 1, output_tokens: 4, reasoning_tokens: 0, free_tokens: 0, device_seconds: 0.5, amount: "0", amount_by_currency: {} };
  expect(sumsOf([row, row])).toEqual({ requests: 4, errors: 2, prompt: 6, cached: 2, output: 8, device: 1 });
});
