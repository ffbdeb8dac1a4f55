// What there is to look at: a conversation made through the API, and rows straight in the store where the page is what is looked at.
import { execFileSync } from "node:child_process";
import path from "node:path";
import type { Server } from "./server";

interface TurnReply { turns: { id: string }[] }

export async function talk(server: Server): Promise<string> {
  const answer = [
    "[[think:The person wants a short comparison. A table is good, then the formula for the tidal force.]]",
    "[[say:Tides come from the **difference** of the Moon's pull across the Earth:\n\n$$F \\approx \\frac{2 G M m r}{d^3}$$\n\n| | period | height |\n|---|---|---|\n| semidiurnal | 12 h 25 min | 0.5–1 m |\n| spring tide | 14.8 d | +20 % |\n\n```python\ndef tidal_force(mass, radius, distance, g=6.674e-11):\n    # falls with the cube of the distance\n    return 2 * g * mass * radius / distance**3\n```\n\n- the near side is pulled more than the middle\n- the far side less: so there are *two* bulges\n]]",
  ].join("");
  const made = await server.ask<{ id: string }>("POST", "/api/v1/conversations", { model: "scripted", title: "How do tides work?" });
  const where = `/api/v1/conversations/${made.id}/turns`;
  let parent: string | null = null;
  for (const content of [`Why are there two tides a day? ${answer}`, "Thanks! And which is stronger, the Sun or the Moon? [[say:The Moon, by a factor of about 2.2: the Sun is heavier, but the force falls with the cube of the distance.]]"]) {
    const reply: TurnReply = await server.ask("POST", where, { parent, content });
    parent = reply.turns.at(-1)!.id;
    for (;;) {
      const now = await server.ask<{ running: boolean }>("GET", `/api/v1/conversations/${made.id}`);
      if (!now.running) break;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  for (const title of ["Names for a boat", "SQL: running totals", "Letter to the harbour master about the mooring fees of the last three years and what to do about them"]) await server.ask("POST", "/api/v1/conversations", { model: "smollm2:135m", title });
  await server.ask("PATCH", `/api/v1/conversations/${made.id}`, { pinned: true });
  // What the scripted model was told to say is no part of the picture.
  await server.stop();
  execFileSync("python3", ["-c", "import re, sqlite3, sys\nstore = sqlite3.connect(sys.argv[1])\nstore.create_function('plain', 1, lambda text: re.sub(r'(?s)\\s*\\[\\[.*?\\]\\]', '', text))\nstore.execute(\"UPDATE conversation_turns SET content = plain(content) WHERE role = 'user'\")\nstore.commit()", path.join(server.home, "tidepool.db")]);
  await server.start();
  return made.id;
}

// The server lets go of its store meanwhile.
export async function intoStore(server: Server, table: string, rows: Record<string, string | number>[]): Promise<void> {
  await server.stop();
  execFileSync("python3", ["-c", `
import json, sqlite3, sys
rows = json.load(sys.stdin)
names = list(rows[0])
store = sqlite3.connect(sys.argv[1])
store.executemany(f"INSERT INTO {sys.argv[2]} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", [[row[name] for name in names] for row in rows])
store.commit()`, path.join(server.home, "tidepool.db"), table], { input: JSON.stringify(rows) });
  await server.start();
}

// One request of a key in the store's own columns, each cheap, paid by nobody.
export const usageRow = {
  id: "", started_ms: 0, finished_ms: 0, request_id: "", organisation: "", workspace: "ws-default", key_id: "", member: "", model: "", model_version: "v", endpoint: "chat.completions", batch: 0,
  prompt_tokens: 0, cached_tokens: 0, output_tokens: 0, reasoning_tokens: 0, queue_ms: 1, load_ms: 2, prefill_ms: 3, decode_ms: 4, stall_ms: 5, device_us: 6, status: "done", error_code: "", price_version: 0, amount_nanos: 0, free_tokens: 0, billing: "unpriced",
};
