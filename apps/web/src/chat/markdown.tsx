// What a model wrote, as text. Nothing in it runs: HTML stays text, pictures become links, links are http(s) or mail only.
import { Check, Copy } from "lucide-react";
import { memo, useEffect, useRef, useState, type ReactNode } from "react";
import { useTranslation } from "react-i18next";
import ReactMarkdown, { type Components, type Options } from "react-markdown";
import remarkGfm from "remark-gfm";

type Plugins = Pick<Options, "remarkPlugins" | "rehypePlugins">;
type Loader = () => Promise<Plugins>;

// Formulas and colours are loaded when a text has some.
const extras: { wanted: (text: string) => boolean; load: Loader; loaded: Plugins | null }[] = [
  { wanted: (text) => /\$[^$]|\\\(|\\\[/.test(text), load: () => import("./math").then((part) => part.plugins), loaded: null },
  { wanted: (text) => /```|~~~/.test(text), load: () => import("./highlight").then((part) => part.plugins), loaded: null },
];

function usePlugins(text: string): Plugins {
  const [, redraw] = useState(0);
  const wanted = extras.filter((extra) => extra.wanted(text));
  const missing = wanted.filter((extra) => !extra.loaded);
  const key = missing.map((extra) => extras.indexOf(extra)).join();
  useEffect(() => {
    let gone = false;
    for (const extra of extras.filter((_, index) => key.split(",").includes(String(index)))) {
      void extra.load().then((plugins) => {
        extra.loaded = plugins;
        if (!gone) redraw((n) => n + 1);
      }, () => {});
    }
    return () => { gone = true; };
  }, [key]);
  const loaded = wanted.flatMap((extra) => (extra.loaded ? [extra.loaded] : []));
  return {
    remarkPlugins: [remarkGfm, ...loaded.flatMap((plugins) => plugins.remarkPlugins ?? [])],
    rehypePlugins: loaded.flatMap((plugins) => plugins.rehypePlugins ?? []),
  };
}

// \( \) and \[ \] are how most models write formulas; remark-math knows $ and $$. Code stays as it is. A single $ before a
// digit is money.
export function withDollarMath(text: string): string {
  return text.split(/(```[\s\S]*?(?:```|$)|~~~[\s\S]*?(?:~~~|$)|`[^`\n]*`)/).map((part, index) => index % 2 === 1 ? part
    : part.replace(/\\\[([\s\S]+?)\\\]/g, (_, inner: string) => `\n$$\n${inner.trim()}\n$$\n`)
      .replace(/\\\((.+?)\\\)/g, (_, inner: string) => `$${inner.trim()}$`)
      .replace(/(^|[^\\$])\$(?=\d[\d,.]*(?:\s|[.,;:)]|$))/gm, "$1\\$")).join("");
}

export function isSafeLink(href: string): boolean {
  return /^(https?:\/\/|mailto:)/i.test(href.trim());
}

function CodeBlock({ children, language }: { children: ReactNode; language: string }) {
  const { t } = useTranslation();
  const ref = useRef<HTMLPreElement>(null);
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 1500);
    return () => clearTimeout(timer);
  }, [copied]);
  return (
    <div className="overflow-hidden rounded-lg border border-line bg-sunken">
      <div className="flex items-center justify-between border-b border-line px-3 py-0.5 text-xs text-faint">
        <span>{language || t("chat.code")}</span>
        <button type="button" className="inline-flex items-center gap-1 rounded px-1.5 py-1 hover:text-ink [&_svg]:size-3.5"
          onClick={() => void navigator.clipboard?.writeText(ref.current?.textContent ?? "").then(() => setCopied(true))}>
          {copied ? <Check aria-hidden /> : <Copy aria-hidden />}{copied ? t("common.copied") : t("common.copy")}
        </button>
      </div>
      <pre ref={ref} tabIndex={0} className="overflow-x-auto p-3 font-mono text-[0.87em] leading-normal">{children}</pre>
    </div>
  );
}

const components: Components = {
  a: ({ href, children }) => href && isSafeLink(href)
    ? <a href={href} target="_blank" rel="noopener noreferrer nofollow">{children}</a> : <span>{children}</span>,
  img: ({ src, alt }) => typeof src === "string" && isSafeLink(src)
    ? <a href={src} target="_blank" rel="noopener noreferrer nofollow">🖼 {alt || src}</a> : <span>{alt}</span>,
  pre: ({ children, node }) => {
    const first = node?.children[0];
    const names = first?.type === "element" ? first.properties.className : undefined;
    const language = (Array.isArray(names) ? names : []).map(String).find((name) => name.startsWith("language-"))?.slice(9) ?? "";
    return <CodeBlock language={language}>{children}</CodeBlock>;
  },
  input: ({ checked }) => <input type="checkbox" checked={checked ?? false} readOnly aria-label={checked ? "☑" : "☐"} />,
};

export default memo(function Markdown({ text }: { text: string }) {
  const plugins = usePlugins(text);
  return <div className="prose-answer"><ReactMarkdown {...plugins} components={components} skipHtml={false}>{withDollarMath(text)}</ReactMarkdown></div>;
});
