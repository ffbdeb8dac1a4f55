// The pool as it moves: one stream for all pages, open while a page looks at it and the tab is visible, with what it said
// since it was opened. What was before: pool_history.ts.
import { useSyncExternalStore } from "react";
import { send, type EventOf } from "./client";
import { eventsOf } from "./sse";
import type { PoolState, TokenCounts } from "./types";

export interface PoolMoment {
  atMs: number;
  running: string | null;
  usedBytes: number;
  resident: Record<string, number>;  // bytes by model
  waiting: number;
  active: number;
  slackS: Record<string, number>;
  loading: string[];
  tokens: TokenCounts;
}
export interface PoolView {
  state: PoolState | null;
  moments: PoolMoment[];
  error: unknown;
}

const maxMoments = 4 * 60 * 30;  // half an hour at four a second
let view: PoolView = { state: null, moments: [], error: null };
const listeners = new Set<() => void>();
let abort: AbortController | null = null;

function publish(next: Partial<PoolView>) {
  view = { ...view, ...next };
  for (const listener of listeners) listener();
}

export function momentOf(state: PoolState, atMs: number): PoolMoment {
  const moment: PoolMoment = { atMs, running: state.device.running, usedBytes: state.memory.used_bytes, resident: {}, waiting: 0, active: 0, slackS: {}, loading: [], tokens: state.tokens };
  for (const model of state.models) {
    moment.waiting += model.waiting;
    moment.active += model.active;
    if (model.bytes.resident > 0) moment.resident[model.id] = model.bytes.resident;
    if (model.slack_s !== null) moment.slackS[model.id] = model.slack_s;
    if (model.segments.loading > 0) moment.loading.push(model.id);
  }
  return moment;
}

async function follow(signal: AbortSignal) {
  let waitMs = 500;
  while (!signal.aborted) {
    try {
      const reply = await send("GET", "/api/v1/pool/events", undefined, { signal, headers: { Accept: "text/event-stream" } });
      for await (const event of eventsOf(reply)) {
        waitMs = 500;
        const atMs = Date.now();
        if (event.event !== "state") continue;
        const state = JSON.parse(event.data) as EventOf<"PoolEvents", "state">;
        publish({ state, error: null, moments: [...view.moments.slice(-maxMoments + 1), momentOf(state, atMs)] });
      }
    } catch (error) {
      if (signal.aborted) return;
      publish({ error });
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    waitMs = Math.min(waitMs * 2, 10_000);
  }
}

function start() {
  if (abort || document.hidden || listeners.size === 0) return;
  abort = new AbortController();
  void follow(abort.signal);
}
function stop() {
  abort?.abort();
  abort = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));

export function subscribePool(listener: () => void): () => void {
  listeners.add(listener);
  start();
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) stop();
  };
}
export const currentPool = () => view;
export function usePoolView(): PoolView {
  return useSyncExternalStore(subscribePool, currentPool);
}
