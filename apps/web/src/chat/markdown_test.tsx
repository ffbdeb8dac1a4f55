import { render } from "@testing-library/react";
import i18n from "i18next";
import { beforeAll, expect, test } from "vitest";
import { startI18n } from "../i18n";
import Markdown, { withDollarMath } from "./markdown";

beforeAll(async () => {
  await startI18n();
  await i18n.changeLanguage("en");
});

// Payloads of the OWASP cheat sheet, as Markdown and as HTML.
const payloads = [
  "<script>window.hit = 1</script>", "<img src=x onerror='window.hit=1'>", "[a](javascript:window.hit=1)", "[a](JaVaScRiPt:alert(1))",
  "[a](data:text/html;base64,PHNjcmlwdD4=)", "![x](javascript:alert(1))", "![x\" onerror=\"alert(1)](https://example.org/a.png)", "<svg/onload=alert(1)>",
  "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>", "<a href='javascript:alert(1)'>x</a>", "[a](vbscript:x)", "<https://example.org\" onmouseover=\"alert(1)>",
  "`<b onmouseover=alert(1)>`", "```html\n<script>window.hit=1</script>\n```", "<style>*{display:none}</style>", "<form action=https://example.org><input name=x></form>",
  "<math><mtext></mtext><script>1</script></math>", "[x]: javascript:alert(1)\n[x]",
];

test.each(payloads)("is inert: %s", (payload) => {
  const { container } = render(<Markdown text={payload} />);
  expect(container.querySelector("script, iframe, img, svg.injected, style, form, object, embed, link, meta, base")).toBeNull();
  for (const element of container.querySelectorAll("*")) {
    for (const attribute of element.attributes) {
      expect(attribute.name).not.toMatch(/^on/i);
      if (attribute.name === "href" || attribute.name === "src") expect(attribute.value).toMatch(/^(https?:|mailto:)/);
    }
  }
});

test("pictures become links that say nothing to the other side", () => {
  const { container } = render(<Markdown text="![a cat](https://example.org/cat.png)" />);
  const link = container.querySelector("a")!;
  expect(link.getAttribute("href")).toBe("https://example.org/cat.png");
  expect(link.getAttribute("rel")).toContain("noreferrer");
  expect(container.querySelector("img")).toBeNull();
});

test("tables, lists and code come out as such", () => {
  const { container } = render(<Markdown text={"| a | b |\n|---|---|\n| 1 | 2 |\n\n- x\n- y\n\n```py\nprint(1)\n```"} />);
  expect(container.querySelectorAll("td")).toHaveLength(2);
  expect(container.querySelectorAll("li")).toHaveLength(2);
  expect(container.querySelector("pre")!.textContent).toContain("print(1)");
});

test("formulas in brackets become dollars; money and code stay", () => {
  expect(withDollarMath("so \\(x^2\\) is")).toBe("so $x^2$ is");
  expect(withDollarMath("\\[ a+b \\]")).toBe("\n$$\na+b\n$$\n");
  expect(withDollarMath("it costs $5 or $7.50, no more")).toBe("it costs \\$5 or \\$7.50, no more");
  expect(withDollarMath("`\\(x\\)` and ```\n\\[y\\]\n```")).toBe("`\\(x\\)` and ```\n\\[y\\]\n```");
});
