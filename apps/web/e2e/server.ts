// The real binary on a free loopback port, with a home of its own.
import { spawn, type ChildProcess } from "node:child_process";
import { cpSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";

export const binary = process.env.TIDEPOOL_BINARY ?? path.resolve(import.meta.dirname, "../../../build/tidepool");
export const testData = process.env.TIDEPOOL_TEST_DATA ?? path.resolve(import.meta.dirname, "../../../build/test-data");
export const smallModel = path.join(testData, "SmolLM2-135M-Instruct.Q4_1.gguf");

// A small random cross-encoder: a copy, without what is beside it in the repository.
export const ranker = mkdtempSync(path.join(os.tmpdir(), "tidepool-ranker-"));
cpSync(path.resolve(import.meta.dirname, "../../../src/platform/inference/testdata/pooled/cross_encoder"), ranker, { recursive: true, filter: (file) => !/\.gguf$|expected\.json$/.test(file) });
process.once("exit", () => rmSync(ranker, { recursive: true, force: true }));

export class Server {
  url = "";
  key = "";
  readonly home: string;
  private process: ChildProcess | null = null;

  constructor(readonly flags: string[] = [], readonly settings: Record<string, string> = {}) {
    this.home = mkdtempSync(path.join(os.tmpdir(), "tidepool-web-"));
  }

  // A second start listens where the first did: pages that are open find it again.
  async start(): Promise<void> {
    const info = path.join(this.home, "server.json");
    rmSync(info, { force: true });
    const log = openSync(path.join(this.home, "output.log"), "a");
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("TIDEPOOL_")));
    const listen = this.url ? new URL(this.url).host : "127.0.0.1:0";
    this.process = spawn(binary, ["serve", "--listen", listen, ...this.flags], {
      stdio: ["ignore", log, log], env: { ...environment, TIDEPOOL_HOME: this.home, TIDEPOOL_POOL_CALIBRATE: "false", ...this.settings },
    });
    for (let tries = 0; ; ++tries) {
      try {
        this.url = (JSON.parse(readFileSync(info, "utf8")) as { url: string }).url;
        break;
      } catch {
        if (this.process.exitCode !== null || tries > 1200) throw new Error(`the server did not start:\n${this.output()}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
    this.key = readFileSync(path.join(this.home, "admin.key"), "utf8").trim();
  }

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const running = this.process;
    if (!running || running.exitCode !== null) return;
    const gone = new Promise((resolve) => running.once("exit", resolve));
    running.kill(signal);
    const late = setTimeout(() => running.kill("SIGKILL"), 20_000);
    await gone;
    clearTimeout(late);
    this.process = null;
  }

  async remove(): Promise<void> {
    await this.stop();
    rmSync(this.home, { recursive: true, force: true });
  }

  output(): string {
    return readFileSync(path.join(this.home, "output.log"), "utf8");
  }

  async ask<T>(method: string, where: string, body?: unknown): Promise<T> {
    const reply = await fetch(this.url + where, {
      method, headers: { ...(this.flags.includes("--open") ? {} : { Authorization: `Bearer ${this.key}` }), "Content-Type": "application/json" }, body: body === undefined ? null : JSON.stringify(body),
    });
    const text = await reply.text();
    if (!reply.ok) throw new Error(`${method} ${where}: ${reply.status} ${text}`);
    return JSON.parse(text) as T;
  }

  // A file of this machine: for its owner, who has the key, also on an open server.
  async store(file: string, name: string): Promise<void> {
    const reply = await fetch(`${this.url}/api/v1/pulls`, {
      method: "POST", headers: { Authorization: `Bearer ${this.key}`, "Content-Type": "application/json" }, body: JSON.stringify({ source: file, name }),
    });
    if (!reply.ok) throw new Error(`POST /api/v1/pulls: ${reply.status} ${await reply.text()}`);
    let pull = (await reply.json()) as { id: string; state: string; error: unknown };
    while (pull.state !== "done") {
      if (pull.state === "failed" || pull.state === "cancelled") throw new Error(`could not store ${file}: ${JSON.stringify(pull.error)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
      pull = await this.ask("GET", `/api/v1/pulls/${pull.id}`);
    }
  }
}
