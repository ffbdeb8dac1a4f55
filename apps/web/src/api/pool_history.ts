// What the device computed when, and what the pool did: from the server's own record, so that it is there before the page was
// opened, and looked at again every second while a page shows it.
import { useSyncExternalStore } from "react";
import { at, getJson } from "./client";
import type { PoolHappening, PoolTurn } from "./types";

// Consecutive steps of one model. The newest one may still grow.
export type Turn = PoolTurn;
export type Happening = PoolHappening;
export interface History {
  turns: Turn[];  // oldest first, by number
  happenings: Happening[];
  older: boolean;  // the server may have earlier turns than these
  loaded: boolean;
}

const first = 2_000;  // turns of the first look: some hundred kilobytes
const most = 40_000;
const path = "/api/v1/pool/history";
const nothing: History = { turns: [], happenings: [], older: false, loaded: false };
let history = nothing;
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setTimeout> | undefined;
let busy = false;

function publish(next: History) {
  history = next;
  for (const listener of listeners) listener();
}

// The turns that came, after those that are known; the newest known one has grown.
export function joined(known: Turn[], came: Turn[]): Turn[] {
  const begin = came[0]?.number ?? Infinity;
  let keep = known.length;
  while (keep > 0 && known[keep - 1]!.number >= begin) --keep;
  return [...known.slice(0, keep), ...came].slice(-most);
}

async function look() {
  if (busy) return;
  busy = true;
  try {
    if (!history.loaded) {
      const { turns_last } = await getJson(at(path, {}, { limit: 1 }));
      const after = Math.max(0, turns_last - first);
      const reply = await getJson(at(path, {}, { turns_after: after }));
      publish({ turns: reply.turns, happenings: reply.events, older: after > 0 && reply.turns_missed === 0, loaded: true });
    } else {
      const lastTurn = history.turns.at(-1)?.number ?? 0;
      const lastEvent = history.happenings.at(-1)?.number ?? 0;
      const reply = await getJson(at(path, {}, { turns_after: Math.max(0, lastTurn - 1), events_after: lastEvent }));
      // A server that started again counts from 1.
      if (reply.turns_last < lastTurn || reply.events_last < lastEvent) publish(nothing);
      else if (reply.turns.length > 0 || reply.events.length > 0) {
        publish({ ...history, turns: joined(history.turns, reply.turns), happenings: [...history.happenings, ...reply.events].slice(-4_096) });
      }
    }
  } catch {
    // The page says elsewhere that the server does not answer.
  } finally {
    busy = false;
  }
}

// Turns before the oldest that is known.
export async function loadOlder(): Promise<void> {
  const oldest = history.turns[0]?.number ?? 0;
  if (busy || !history.older || oldest <= 1 || history.turns.length >= most) return;
  busy = true;
  try {
    const after = Math.max(0, oldest - 1 - 5_000);
    const reply = await getJson(at(path, {}, { turns_after: after, limit: oldest - 1 - after, events_after: Number.MAX_SAFE_INTEGER }));
    const before = reply.turns.filter((turn) => turn.number < oldest);
    publish({ ...history, turns: [...before, ...history.turns], older: after > 0 && reply.turns_missed === 0 && before.length > 0 });
  } catch {
    // Tried again with the next move.
  } finally {
    busy = false;
  }
}

function tick() {
  if (document.hidden || listeners.size === 0) return;
  void look().finally(() => { timer = setTimeout(tick, 1_000); });
}
function restart() {
  clearTimeout(timer);
  tick();
}
document.addEventListener("visibilitychange", restart);

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  if (listeners.size === 1) restart();
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) clearTimeout(timer);
  };
}
export function usePoolHistory(): History {
  return useSyncExternalStore(subscribe, () => history);
}
