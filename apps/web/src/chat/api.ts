import { useInfiniteQuery, useMutation, useQuery, useQueryClient, type QueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { ApiError, at, deleteJson, getJson, patchJson, postJson, send } from "../api/client";
import { eventsOf } from "../api/sse";
import { applyEvent, type ConversationEvent } from "./tree";
import type { AttachedFile, Conversation, SamplingSettings } from "./types";

const root = "/api/v1/conversations";
export const conversationPath = (id: string) => at("/api/v1/conversations/{id}", { id });

export function useConversations(query: string) {
  return useInfiniteQuery({
    queryKey: ["conversations", query],
    initialPageParam: "",
    queryFn: ({ pageParam, signal }) => {
      return getJson(at(root, {}, { limit: 50, ...(query ? { query } : {}), ...(pageParam ? { after: pageParam } : {}) }), { signal });
    },
    getNextPageParam: (page) => page.next ?? undefined,
    refetchInterval: 20_000,
  });
}

export interface NewTurn {
  parent: string | null;
  content?: string;
  files?: AttachedFile[];
  model?: string;
  continue?: string;
}
export interface ConversationChange { title?: string; pinned?: boolean; model?: string; system?: string; sampling?: SamplingSettings; leaf?: string | null }

export const createConversation = (body: ConversationChange) => postJson(root, body);
export const sendTurn = (id: string, body: NewTurn) => postJson(at("/api/v1/conversations/{id}/turns", { id }), body);
export const stopTurn = (id: string, turn: string) => postJson(at("/api/v1/conversations/{id}/turns/{turn}/stop", { id, turn }));

export function useChangeConversation() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ id, change }: { id: string; change: ConversationChange }) => patchJson(conversationPath(id), change),
    onMutate: ({ id, change }) => client.setQueryData<Conversation>(["conversation", id], (old) => (old ? { ...old, ...change } : old)),
    onError: (_, { id }) => client.invalidateQueries({ queryKey: ["conversation", id] }),
    onSuccess: (_, { change }) => {
      if (Object.keys(change).some((key) => key !== "leaf")) void client.invalidateQueries({ queryKey: ["conversations"] });
    },
  });
}
export function useDeleteConversation() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (id: string) => deleteJson(conversationPath(id)),
    onSuccess: (_, id) => {
      client.removeQueries({ queryKey: ["conversation", id] });
      return client.invalidateQueries({ queryKey: ["conversations"] });
    },
  });
}

// Follows the conversation's events into the cache while the tab is visible; deltas that come together are drawn together.
async function follow(id: string, client: QueryClient, signal: AbortSignal, onState: (connected: boolean) => void) {
  let waitMs = 300;
  while (!signal.aborted) {
    try {
      const after = client.getQueryData<Conversation>(["conversation", id])?.sequence ?? 0;
      const reply = await send("GET", `${conversationPath(id)}/events?after=${after}`, undefined, { signal, headers: { Accept: "text/event-stream" } });
      onState(true);
      let batch: { event: ConversationEvent; sequence: number }[] = [];
      let scheduled = false;
      const flush = () => {
        scheduled = false;
        const events = batch;
        batch = [];
        if (signal.aborted) return;
        client.setQueryData<Conversation>(["conversation", id], (old) => old && events.reduce((state, one) => applyEvent(state, one.event, one.sequence), old));
        if (events.some((one) => one.event.event === "turn" || one.event.event === "conversation")) void client.invalidateQueries({ queryKey: ["conversations"] });
      };
      for await (const event of eventsOf(reply)) {
        waitMs = 300;
        if (event.event === "reload") {
          await client.invalidateQueries({ queryKey: ["conversation", id] });
          continue;
        }
        batch.push({ event: { event: event.event, ...(JSON.parse(event.data) as object) } as ConversationEvent, sequence: Number(event.id) });
        if (!scheduled) {
          scheduled = true;
          setTimeout(flush, 50);
        }
      }
      if (scheduled) flush();
    } catch (error) {
      if (signal.aborted || (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429)) return;
      onState(false);
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    waitMs = Math.min(2 * waitMs, 8_000);
  }
}

export function useConversation(id: string | undefined) {
  const client = useQueryClient();
  const query = useQuery({
    queryKey: ["conversation", id],
    queryFn: ({ signal }) => getJson(conversationPath(id!), { signal }),
    enabled: id !== undefined,
    staleTime: Infinity,
    refetchOnWindowFocus: false,
  });
  const loaded = query.isSuccess;
  const [connected, setConnected] = useState(true);
  useEffect(() => {
    if (!id || !loaded) return;
    let abort: AbortController | null = null;
    const start = () => {
      if (document.hidden || abort) return;
      abort = new AbortController();
      void follow(id, client, abort.signal, setConnected);
    };
    const visible = () => {
      if (!document.hidden) return start();
      abort?.abort();
      abort = null;
    };
    start();
    document.addEventListener("visibilitychange", visible);
    return () => {
      document.removeEventListener("visibilitychange", visible);
      abort?.abort();
    };
  }, [id, loaded, client]);
  return { ...query, connected };
}
