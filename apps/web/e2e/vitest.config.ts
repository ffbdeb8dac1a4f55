import path from "node:path";
import { defineConfig } from "vitest/config";

// One browser and one server at a time: the machine may have two cores.
export default defineConfig({
  test: {
    root: path.resolve(import.meta.dirname, ".."),
    environment: "node",
    include: process.env.TIDEPOOL_SCREENSHOTS ? ["e2e/screenshots.ts"] : ["e2e/*_test.ts"],
    fileParallelism: false,
    testTimeout: process.env.TIDEPOOL_SCREENSHOTS ? 1_200_000 : 60_000,
    hookTimeout: 120_000,
    // What is polled for comes when it comes: the machine may also build.
    expect: { poll: { timeout: 10_000, interval: 50 } },
    bail: process.env.CI ? 1 : 0,
  },
});
