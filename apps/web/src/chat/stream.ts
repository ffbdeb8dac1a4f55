// One streamed answer of /v1/chat/completions, for pages that keep nothing (compare, playground).
import { ApiError, send, type EventOf } from "../api/client";
import { eventsOf } from "../api/sse";
import type { Cost, Progress, Usage } from "../api/types";

// Without logprob: the first token of an echoed prompt, which nothing came before.
export interface TokenPiece { text: string; logprob: number | null; top: { text: string; logprob: number }[] }
export interface StreamState {
  state: "waiting" | "running" | "done" | "stopped" | "failed";
  content: string;
  reasoning: string;
  tokens: TokenPiece[];
  progress: Progress | undefined;
  finishReason: string;
  usage: Usage | null;
  cost: Cost | null;
  ttftS: number | undefined;
  decodeS: number | undefined;
  error: unknown;
  ignored: string;
}
export const emptyStream: StreamState = { state: "waiting", content: "", reasoning: "", tokens: [], progress: undefined, finishReason: "", usage: null, cost: null, ttftS: undefined, decodeS: undefined, error: null, ignored: "" };

type Chunk = EventOf<"ChatEvents", "chunk">;

export function piecesOf(logprobs: NonNullable<Chunk["choices"]>[number]["logprobs"]): TokenPiece[] {
  if (!logprobs) return [];
  if ("tokens" in logprobs) {
    return logprobs.tokens.map((text, index) => ({
      text, logprob: logprobs.token_logprobs[index] ?? null,
      top: Object.entries(logprobs.top_logprobs[index] ?? {}).map(([top, logprob]) => ({ text: top, logprob })).sort((a, b) => b.logprob - a.logprob),
    }));
  }
  return (logprobs.content ?? []).map((item) => ({ text: item.token, logprob: item.logprob, top: (item.top_logprobs ?? []).map((top) => ({ text: top.token, logprob: top.logprob })) }));
}

export async function streamChat(path: string, body: Record<string, unknown>, signal: AbortSignal, onState: (state: StreamState) => void): Promise<void> {
  let state: StreamState = { ...emptyStream };
  const started = performance.now();
  let first = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const show = (next: Partial<StreamState>, now = false) => {
    state = { ...state, ...next };
    if (now) {
      clearTimeout(timer);
      timer = undefined;
      onState(state);
    } else {
      timer ??= setTimeout(() => { timer = undefined; onState(state); }, 50);
    }
  };
  onState(state);
  try {
    const reply = await send("POST", path, { ...body, stream: true, stream_options: { include_usage: true } }, { signal, headers: { Accept: "text/event-stream", "Tidepool-Progress": "1" } });
    show({ ignored: reply.headers.get("tidepool-ignored") ?? "" });
    for await (const event of eventsOf(reply)) {
      if (event.data === "[DONE]") break;
      if (event.event === "progress") {
        show({ progress: JSON.parse(event.data) as EventOf<"ChatEvents", "progress"> });
        continue;
      }
      if (event.event === "cost") {
        show({ cost: JSON.parse(event.data) as EventOf<"ChatEvents", "cost"> });
        continue;
      }
      const chunk = JSON.parse(event.data) as EventOf<"ChatEvents", "chunk">;
      if (chunk.error) throw new ApiError({ message: chunk.error.message, code: chunk.error.code ?? "", param: chunk.error.param ?? null, status: 200, retryAfterS: 0, requestId: reply.headers.get("x-request-id") ?? "" });
      const choice = chunk.choices?.[0];
      const content = choice?.delta?.content ?? choice?.text ?? "";
      const reasoning = choice?.delta?.reasoning_content ?? "";
      const pieces = piecesOf(choice?.logprobs);
      if ((content || reasoning || pieces.length > 0) && first === 0) first = performance.now();
      show({
        ...(content || reasoning ? { state: "running" as const, progress: undefined } : {}),
        content: state.content + content, reasoning: state.reasoning + reasoning, tokens: pieces.length > 0 ? [...state.tokens, ...pieces] : state.tokens,
        finishReason: choice?.finish_reason ?? state.finishReason, usage: chunk.usage ?? state.usage,
        ...(first > 0 ? { ttftS: (first - started) / 1e3, decodeS: (performance.now() - first) / 1e3 } : {}),
      });
    }
    show({ state: "done", progress: undefined }, true);
  } catch (error) {
    show(signal.aborted ? { state: "stopped", progress: undefined } : { state: "failed", error, progress: undefined }, true);
  }
}
