// Tokens a second from the counters of /metrics, read every two seconds.
import { useEffect, useState } from "react";
import { fetchMetrics, type Sample } from "../api/queries";

export interface RatePoint { atS: number; prefill: number; decode: number }
export interface Totals { prompt: number; cached: number; completion: number; requests: number }

export function totalsOf(samples: Sample[]): Totals {
  const sum = (name: string) => samples.filter((sample) => sample.name === name).reduce((all, sample) => all + sample.value, 0);
  return {
    prompt: sum("tidepool_prompt_tokens_total"), cached: sum("tidepool_cached_tokens_total"),
    completion: sum("tidepool_completion_tokens_total"), requests: sum("tidepool_requests_total"),
  };
}

export function rateBetween(before: { atS: number; totals: Totals }, now: { atS: number; totals: Totals }): RatePoint {
  const seconds = Math.max(1e-3, now.atS - before.atS);
  // A counter that went back belongs to a server that started again.
  const rate = (a: number, b: number) => Math.max(0, b - a) / seconds;
  return {
    atS: now.atS,
    prefill: rate(before.totals.prompt - before.totals.cached, now.totals.prompt - now.totals.cached),
    decode: rate(before.totals.completion, now.totals.completion),
  };
}

export function useRates(): { points: RatePoint[]; totals: Totals | null } {
  const [state, setState] = useState<{ points: RatePoint[]; totals: Totals | null }>({ points: [], totals: null });
  useEffect(() => {
    let before: { atS: number; totals: Totals } | null = null;
    const abort = new AbortController();
    const look = async () => {
      if (document.hidden) return;
      try {
        const now = { atS: Date.now() / 1e3, totals: totalsOf(await fetchMetrics(abort.signal)) };
        const point = before ? rateBetween(before, now) : null;
        before = now;
        setState((old) => ({ totals: now.totals, points: point ? [...old.points.slice(-449), point] : old.points }));
      } catch {
        // The page says elsewhere that the server does not answer.
      }
    };
    void look();
    const timer = setInterval(() => void look(), 2_000);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }, []);
  return state;
}
