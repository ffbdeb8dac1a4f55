import { expect, test } from "vitest";
import { modelPath, parseMetrics, quantileOf } from "./queries";

test("metrics with labels, escapes and without", () => {
  expect(parseMetrics('# HELP x y\nx_total{model="a:b",q="say \\"hi\\""} 3.5\nplain 2\nbroken')).toEqual([
    { name: "x_total", labels: { model: "a:b", q: 'say "hi"' }, value: 3.5 },
    { name: "plain", labels: {}, value: 2 },
  ]);
});

test("names of models with slashes and odd characters stay one path", () => {
  expect(modelPath("org/repo:Q4?x#y")).toBe("/api/v1/models/org/repo%3AQ4%3Fx%23y");
});

test("quantiles of a histogram, as Prometheus computes them", () => {
  const samples = parseMetrics(['0.1"} 50', '0.2"} 90', '+Inf"} 100'].map((rest) => `ttft_bucket{model="a",le="${rest}`).join("\n"));
  expect(quantileOf(samples, "ttft", { model: "a" }, 0.5)).toBeCloseTo(0.1);
  expect(quantileOf(samples, "ttft", { model: "a" }, 0.7)).toBeCloseTo(0.15);
  expect(quantileOf(samples, "ttft", { model: "a" }, 0.99)).toBe(0.2);
  expect(quantileOf(samples, "ttft", { model: "b" }, 0.5)).toBeNull();
});
