import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import tailwindcss from "@tailwindcss/vite";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// KaTeX names three formats of each font; every browser of this decade takes the first.
const onlyWoff2: Plugin = {
  name: "only-woff2",
  enforce: "pre",
  transform: (code, id) => (/katex.*\.css/.test(id) ? code.replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\([^)]*\)/g, "") : null),
};

// The Host stays the page\'s own: the server refuses an Origin that is not its Host.
const api = { "^/(v1|api|tokenize|detokenize|health|ready|version)": { target: process.env.TIDEPOOL_URL ?? "http://127.0.0.1:8433", changeOrigin: false } };

export default defineConfig({
  resolve: {
    // Formulas become elements through a parser of its own: the browser's would try each style attribute of the text first, which
    // the policy refuses and reports.
    alias: { "hast-util-from-html-isomorphic": fileURLToPath(new URL("node_modules/hast-util-from-html-isomorphic/index.js", import.meta.url)) },
  },
  plugins: [onlyWoff2, react(), tailwindcss()],
  build: {
    target: "es2022",
    modulePreload: { polyfill: false },
    // Nothing as a data: address in a style or script: fonts and pictures are files, which the policy allows by name.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    chunkSizeWarningLimit: 700,
  },
  // Pages of this folder beside a server that runs.
  server: { proxy: api },
  preview: { proxy: api },
  test: { environment: "jsdom", include: ["src/**/*_test.{ts,tsx}"], restoreMocks: true },
});
