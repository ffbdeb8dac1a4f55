// Names for the shapes that pages share. Where the document says only "object", the fields are those of the handlers
// (src/gateway/native), and e2e tests read them from a real server.
import type { ReplyOf } from "./client";

export type StoredModel = NonNullable<ReplyOf<"/api/v1/models", "get">["data"]>[number];
export type CatalogueModel = NonNullable<ReplyOf<"/api/v1/catalogue", "get">["data"]>[number];
export type Pull = NonNullable<ReplyOf<"/api/v1/pulls", "get">["data"]>[number];

export type Deployment = NonNullable<ReplyOf<"/api/v1/deployments", "get">["data"]>[number];
export type DeploymentFit = ReplyOf<"/api/v1/deployments/fit", "post">;
export type Share = NonNullable<ReplyOf<"/api/v1/conversations/{id}/shares", "get">["data"]>[number];

export interface Owner { owner: string; kind: "weights" | "kv" | "scratch" | "reserve" | "recurrent" | string; bytes: number }
export interface Budget { limit_bytes: number; used_bytes: number; over_bytes: number }
export interface ByPlace { resident: number; loading: number; warm: number; cold: number }
export interface PoolModel {
  id: string;
  state: "stored" | "loading" | "ready" | "failed" | "quarantined";
  load_share: number;
  segments: ByPlace;
  bytes: ByPlace;
  pooled: boolean;
  waiting: number;
  active: number;
  spilled: number;
  slack_s: number | null;
  load: number;
  pinned: boolean;
  pinned_by: "none" | "settings" | "schedule" | "deployment" | "operator";
  idle_ttl_s: number;
  min_resident_s: number;
  ttft_s: number;
  tpot_s: number;
  weight: number;
  arrivals: number;
  loads: number;
  failed_loads: number;
  evictions: number;
  load_seconds: number;
  error?: { message: string };
  retry_in_s?: number;
  engine?: { weight_bytes: number; kv_bytes: number; running: number; waiting: number; kv_blocks_used: number; kv_blocks_cached: number; tokens_on_time: number; tokens_late: number };
}
// Since the start, as they happen. Of the generated ones, those that were promised a time came on time or late.
export interface TokenCounts { computed: number; generated: number; on_time: number; late: number }
export interface PoolState {
  policy: string;
  memory: Budget & { owners: Owner[] };
  warm: Budget;
  host_kv: Budget;
  packed_cache: { bytes: number; files: number; hits: number; misses: number };
  load_rates: { disk_bytes_per_s: number; memory_bytes_per_s: number };
  device: {
    arena_bytes: number; weight_bytes: number; kv_bytes: number; cordoned: boolean; busy: boolean; running: string | null;
    load: number; switch_share: number; switches_per_s: number; kv_moves: number;
  };
  counters: Record<string, number>;
  tokens: TokenCounts;
  models: PoolModel[];
}
export interface ServerStatus {
  version: string;
  uptime_s: number;
  device: string;
  instruction_set: string;
  threads: number;
  roofline: { memory_bytes_per_s: number; int8_ops_per_s: number; f32_flops_per_s: number };
  running: number;
  waiting: number;
  steps: number;
}
export interface Setting {
  id: string; value: string; source: string; default: string; allowed: string; help: string; environment: string; flag: string;
  kind: "text" | "folder" | "boolean" | "integer" | "number" | "bytes" | "memory" | "choice" | "list"; minimum: number | null; maximum: number | null; choices: string[];
  editable: boolean; live: boolean; next: string | null; next_source: string | null;
}
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens: number };
  completion_tokens_details?: { reasoning_tokens: number };
}
// What a request came to, a decimal of its currency.
export interface Cost { amount: string; currency: string; billing: "paid" | "free" | "mixed" | "unpriced" | "waived"; free_tokens: number }
export interface Progress { phase: "queued" | "loading" | "prefill"; queue_position?: number; share?: number }
