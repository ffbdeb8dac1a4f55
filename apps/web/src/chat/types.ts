// What /api/v1/conversations speaks (src/gateway/native/conversations.cc).
import type { Cost, Progress, Usage } from "../api/types";

export interface Summary {
  id: string;
  title: string;
  model: string;
  pinned: boolean;
  running: boolean;
  created: number;
  updated: number;
}
export interface SamplingSettings {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  seed?: number;
  max_tokens?: number;
  thinking_budget?: number;
  stop?: string[];
}
export interface AttachedFile { name: string; text: string }
export type TurnState = "running" | "done" | "stopped" | "interrupted" | "failed";
export interface Timings { queue_s?: number; load_s?: number; ttft_s?: number; reasoning_s?: number; decode_s?: number }
export interface Turn {
  id: string;
  parent: string | null;
  role: "user" | "assistant";
  content: string;
  reasoning: string;
  files: AttachedFile[];
  model: string;
  state: TurnState;
  finish_reason: string;
  error: { message: string; code?: string } | null;
  usage: Usage | null;
  cost: Cost | null;
  timings: Timings;
  dropped_turns: number;
  created: number;
  // Not from the server: what it last said about a turn that has no text yet.
  progress?: Progress | undefined;
}
export interface Conversation extends Summary {
  system: string;
  sampling: SamplingSettings;
  leaf: string | null;
  turns: Turn[];
  sequence: number;
}
