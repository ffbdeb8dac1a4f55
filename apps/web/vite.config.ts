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

export default defineConfig({
  plugins: [onlyWoff2, react(), tailwindcss()],
  build: {
    target: "es2022",
    modulePreload: { polyfill: false },
    // Nothing as a data: address in a style or script: fonts and pictures are files, which the policy allows by name.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    chunkSizeWarningLimit: 700,
  },
  // `npm run dev` beside a server that runs with --open.
  server: { proxy: { "^/(v1|api|tokenize|detokenize|health|ready|version)": process.env.TIDEPOOL_URL ?? "http://127.0.0.1:8433" } },
  test: { environment: "jsdom", include: ["src/**/*_test.{ts,tsx}"], restoreMocks: true },
});
