// Tokens a second, and how many came in time, from the counts that the pool's states carry.
import { useMemo } from "react";
import type { PoolMoment } from "../api/pool_feed";
import type { TokenCounts } from "../api/types";

export interface RatePoint { atS: number; prefill: number; decode: number }

const windowMs = 2_000;  // a step of a busy pool may take half a second

export function rateBetween(before: PoolMoment, now: PoolMoment): RatePoint {
  const seconds = Math.max(1e-3, (now.atMs - before.atMs) / 1e3);
  // A count that went back belongs to a server that started again.
  const grown = (name: keyof TokenCounts) => Math.max(0, now.tokens[name] - before.tokens[name]);
  return { atS: now.atMs / 1e3, prefill: Math.max(0, grown("computed") - grown("generated")) / seconds, decode: grown("generated") / seconds };
}

// One point a second, each over the two seconds before it. States come only when something changed: silence is zero.
export function ratePoints(moments: PoolMoment[], nowMs = Date.now()): RatePoint[] {
  const points: RatePoint[] = [];
  const first = moments[0];
  if (!first) return points;
  let left = 0;
  let right = 0;
  const endMs = Math.max(moments.at(-1)!.atMs, nowMs);
  for (let atMs = first.atMs + windowMs; atMs <= endMs; atMs += 1_000) {
    while (right + 1 < moments.length && moments[right + 1]!.atMs <= atMs) ++right;
    while (left + 1 < moments.length && moments[left + 1]!.atMs <= atMs - windowMs) ++left;
    // What was counted at the window's two ends, whenever it was said.
    points.push(rateBetween({ ...moments[left]!, atMs: atMs - windowMs }, { ...moments[right]!, atMs }));
  }
  return points;
}

export function useRates(moments: PoolMoment[]): RatePoint[] {
  const second = Math.floor(Date.now() / 1e3);
  // eslint-disable-next-line react-hooks/exhaustive-deps
  return useMemo(() => ratePoints(moments), [moments, second]);
}

// Share of the promised tokens that came in time; null where none was promised.
export function onTimeShare(counts: Pick<TokenCounts, "on_time" | "late">): number | null {
  const all = counts.on_time + counts.late;
  return all > 0 ? counts.on_time / all : null;
}
