import { QueryClient, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { allRows } from "../account/lists";
import { ApiError, at, deleteJson, getJson, patchJson, postJson, send } from "./client";
import type { PoolModel } from "./types";

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 2_000,
      refetchOnWindowFocus: true,
      // What the server refused it refuses again; what did not reach it may.
      retry: (count, error) => !(error instanceof ApiError && error.status >= 400 && error.status < 500) && count < 2,
    },
  },
});

const dataOf = <T,>(list: { data: T[] }) => list.data;

export function useModels(pollMs: number | false = false) {
  return useQuery({ queryKey: ["models"], queryFn: ({ signal }) => getJson("/api/v1/models", { signal }).then(dataOf), refetchInterval: pollMs });
}
export function useCatalogue() {
  return useQuery({ queryKey: ["catalogue"], queryFn: ({ signal }) => getJson("/api/v1/catalogue", { signal }).then(dataOf), staleTime: Infinity });
}
// Pulls and the pool are the operator's to see.
export function usePulls(enabled = true) {
  return useQuery({
    enabled,
    queryKey: ["pulls"],
    queryFn: ({ signal }) => getJson("/api/v1/pulls", { signal }).then(dataOf),
    refetchInterval: (query) => (query.state.data?.some((pull) => pull.state === "running" || pull.state === "queued") ? 500 : 10_000),
  });
}
export function useStatus() {
  return useQuery({ queryKey: ["status"], queryFn: ({ signal }) => getJson("/api/v1/status", { signal }), refetchInterval: 5_000 });
}
export function useSettings() {
  return useQuery({ queryKey: ["settings"], queryFn: ({ signal }) => getJson("/api/v1/settings", { signal }).then(dataOf), staleTime: Infinity });
}
export function useChangeSettings() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (values: Record<string, string | null>) => patchJson("/api/v1/settings", { values }).then(dataOf),
    onSuccess: (rows) => client.setQueryData(["settings"], rows),
  });
}
export function usePoolOnce(enabled = true, pollMs: number | false = false) {
  return useQuery({ enabled, refetchInterval: pollMs, queryKey: ["pool"], queryFn: ({ signal }) => getJson("/api/v1/pool", { signal }) });
}

// Of all organisations for the operator. `day`: "2026-11-28", in UTC.
export function useUsageSince(day: string) {
  return useQuery({
    queryKey: ["usage since", day], refetchInterval: 5_000,
    queryFn: ({ signal }) => getJson(at("/api/v1/usage", {}, { from: `${day}T00:00:00Z` }), { signal }).then((reply) => reply.data[0] ?? { requests: 0, prompt_tokens: 0, output_tokens: 0, amount_by_currency: {} }),
  });
}
export function usePrices() {
  return useQuery({ queryKey: ["prices"], queryFn: ({ signal }) => getJson("/api/v1/prices", { signal }), staleTime: 60_000 });
}
export function useBudgets() {
  return useQuery({ queryKey: ["budgets"], queryFn: ({ signal }) => allRows("/api/v1/budgets", 10_000, signal), refetchInterval: 30_000 });
}

export const modelPath = (id: string) => at("/api/v1/models/{id}", { id });

function useModelAction<T, Reply = unknown>(run: (argument: T) => Promise<Reply>) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: run,
    onSettled: () => Promise.all(["models", "deployments", "pulls", "pool"].map((key) => client.invalidateQueries({ queryKey: [key] }))),
  });
}
export const useLoadModel = () => useModelAction((id: string) => postJson(at("/api/v1/models/{id}/load", { id }), { wait: false }));
export const useUnloadModel = () => useModelAction(({ id, force }: { id: string; force: boolean }) => postJson(at("/api/v1/models/{id}/unload", { id }), { force }));
export const useDeleteModel = () => useModelAction((id: string) => deleteJson(modelPath(id)));
export const useStartPull = () => useModelAction((body: { source: string; name?: string }) => postJson("/api/v1/pulls", body));
export const useChangePull = () => useModelAction(({ id, change }: { id: string; change: "pause" | "resume" | "cancel" }) => postJson(at(`/api/v1/pulls/{id}/${change}`, { id })));
export const usePoolPolicy = () => useModelAction((body: { model: string } & Partial<Pick<PoolModel, "pinned" | "idle_ttl_s" | "min_resident_s" | "ttft_s" | "tpot_s" | "weight">>) => postJson("/api/v1/pool/policy", body));
export const usePoolCordon = () => useModelAction((cordoned: boolean) => postJson("/api/v1/pool/cordon", { cordoned }));
export const usePoolResize = () => useModelAction((body: { memory?: string; warm_memory?: string; host_kv?: string }) => postJson("/api/v1/pool/resize", body));

// All pages of them: there are a thousand at most.
export function useDeployments(pollMs: number | false = false) {
  return useQuery({ queryKey: ["deployments"], queryFn: ({ signal }) => getJson(at("/api/v1/deployments", {}, { limit: 1000 }), { signal }).then(dataOf), refetchInterval: pollMs });
}
export function useFit(base: string, pinned: boolean) {
  return useQuery({ enabled: base !== "", queryKey: ["pool", "fit", base, pinned], queryFn: ({ signal }) => postJson("/api/v1/deployments/fit", { base, pinned }, { signal }) });
}
const deploymentPath = (name: string) => at("/api/v1/deployments/{id}", { id: name });
// null unsets.
export type DeploymentChange = Record<string, unknown>;
export const useCreateDeployment = () => useModelAction((body: DeploymentChange & { name: string }) => postJson("/api/v1/deployments", body));
export const useChangeDeployment = () => useModelAction(({ name, change }: { name: string; change: DeploymentChange }) => patchJson(deploymentPath(name), change));
export const useDeleteDeployment = () => useModelAction((name: string) => deleteJson(deploymentPath(name)));

// Prometheus' text format 0.0.4: name{label="value",…} number
export interface Sample { name: string; labels: Record<string, string>; value: number }
export function parseMetrics(text: string): Sample[] {
  const out: Sample[] = [];
  for (const line of text.split("\n")) {
    const match = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    if (!match) continue;
    const labels: Record<string, string> = {};
    for (const label of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[label[1]!] = label[2]!.replace(/\\(.)/g, (_, c: string) => (c === "n" ? "\n" : c));
    out.push({ name: match[1]!, labels, value: Number(match[3]) });
  }
  return out;
}
// The q-quantile of a histogram (Prometheus' histogram_quantile: within its bucket in proportion); null where nothing was observed.
export function quantileOf(samples: Sample[], name: string, labels: Record<string, string>, q: number): number | null {
  const buckets = new Map<number, number>();
  for (const sample of samples) {
    if (sample.name !== `${name}_bucket` || !Object.entries(labels).every(([key, value]) => sample.labels[key] === value)) continue;
    const le = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
    buckets.set(le, (buckets.get(le) ?? 0) + sample.value);
  }
  const sorted = [...buckets].sort(([a], [b]) => a - b);
  const all = sorted.at(-1)?.[1] ?? 0;
  if (all === 0) return null;
  let low = 0;
  let before = 0;
  for (const [le, count] of sorted) {
    if (count >= q * all) return le === Infinity ? low : low + (le - low) * ((q * all - before) / Math.max(1, count - before));
    low = le;
    before = count;
  }
  return low;
}
export async function fetchMetrics(signal?: AbortSignal): Promise<Sample[]> {
  return parseMetrics(await (await send("GET", "/metrics", undefined, { signal, headers: { Accept: "text/plain" } })).text());
}
