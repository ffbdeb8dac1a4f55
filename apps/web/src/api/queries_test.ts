import { expect, test } from "vitest";
import { modelPath, parseMetrics } from "./queries";

test("metrics with labels, escapes and without", () => {
  expect(parseMetrics('# HELP x y\nx_total{model="a:b",q="say \\"hi\\""} 3.5\nplain 2\nbroken')).toEqual([
    { name: "x_total", labels: { model: "a:b", q: 'say "hi"' }, value: 3.5 },
    { name: "plain", labels: {}, value: 2 },
  ]);
});

test("names of models with slashes and odd characters stay one path", () => {
  expect(modelPath("org/repo:Q4?x#y")).toBe("/api/v1/models/org/repo%3AQ4%3Fx%23y");
});
