// Lists with cursors: { data, has_more, next_cursor }. limit 0: a list that always comes whole and takes no such parameter.
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useMemo } from "react";
import { type Address, at, deleteJson, getJson, type ListPath, patchJson, type PathOf, postJson, putJson, type ReplyOf, type RowOf } from "../api/client";

// A list's path and a page of it.
export type CursorPath = { [P in ListPath]: ReplyOf<P, "get"> extends { next_cursor: string | null } ? P : never }[ListPath];
interface Page<P extends ListPath> { data: RowOf<P>[]; next_cursor?: string | null }
const pageOf = <P extends ListPath>(path: P, query: Record<string, string>, signal: AbortSignal) =>
  getJson<ListPath>(at<ListPath>(path, {}, query), { signal }) as Promise<unknown> as Promise<Page<P>>;

// What was chosen of a query.
export const given = (query: Record<string, string>) => Object.fromEntries(Object.entries(query).filter(([, value]) => value !== ""));

export function useCursorList<P extends ListPath>(path: P, query: Record<string, string> = {}, options: { pollMs?: number; enabled?: boolean; limit?: number } = {}) {
  const list = useInfiniteQuery({
    queryKey: ["list", path, query],
    initialPageParam: "",
    enabled: options.enabled ?? true,
    queryFn: ({ pageParam, signal }) => pageOf(path, { ...given(query), ...(options.limit === 0 ? {} : { limit: String(options.limit ?? 100) }), ...(pageParam ? { after: pageParam } : {}) }, signal),
    getNextPageParam: (page) => page.next_cursor ?? undefined,
    // All pages again each time: only while there is one.
    refetchInterval: (query) => ((query.state.data?.pages.length ?? 0) > 1 ? false : options.pollMs ?? false),
    refetchOnWindowFocus: (query) => (query.state.data?.pages.length ?? 0) <= 1,
  });
  return { ...list, rows: useMemo(() => list.data?.pages.flatMap((page) => page.data) ?? [], [list.data]) };
}

type LivePath = { [P in CursorPath]: RowOf<P> extends { id: string } ? P : never }[CursorPath];
// A long list that is newest first and grows at its head: of many pages only the head is looked at again.
export function useLiveList<P extends LivePath>(path: P, query: Record<string, string>, options: { pollMs: number; limit: number }) {
  const list = useCursorList(path, query, options);
  const long = (list.data?.pages.length ?? 0) > 1;
  const head = useQuery({
    queryKey: ["head", path, query], enabled: long, refetchInterval: options.pollMs,
    queryFn: ({ signal }) => pageOf(path, { ...given(query), limit: String(options.limit) }, signal),
  });
  const rows = useMemo((): RowOf<P>[] => {
    const known = list.rows as (RowOf<P> & { id: string })[];
    return long ? withHead((head.data?.data ?? []) as typeof known, known) : known;
  }, [long, head.data, list.rows]);
  return { ...list, rows };
}

// All of a list, page by page; `most` bounds what is asked of the server.
export async function allRows<P extends CursorPath>(path: P, most: number, signal: AbortSignal): Promise<RowOf<P>[]> {
  const rows: RowOf<P>[] = [];
  for (let after = ""; ;) {
    const page = await pageOf(path, { limit: String(Math.min(1000, most - rows.length)), ...(after ? { after } : {}) }, signal);
    rows.push(...page.data);
    // A page without rows, or a cursor that stands still, would go on for ever.
    if (!page.next_cursor || rows.length >= most || page.data.length === 0 || page.next_cursor === after) return rows;
    after = page.next_cursor;
  }
}

// What came since, before what was known. Rows are written once: what is known stays.
export function withHead<T extends { id: string }>(head: T[], known: T[]): T[] {
  const ids = new Set(known.map((row) => row.id));
  const fresh = head.filter((row) => !ids.has(row.id));
  return fresh.length > 0 ? [...fresh, ...known] : known;
}

export type Write = { method: "POST" | "PATCH" | "DELETE" | "PUT"; path: string; body?: unknown };
// `P`, `M`: whose reply is looked at.
export function useWrite<P extends PathOf<M> = never, M extends "post" | "put" = "post">(refresh: string[]) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: async ({ method, path, body }: Write) =>
      (await (method === "POST" ? postJson(path as Address<PathOf<"post">>, body) : method === "PATCH" ? patchJson(path as Address<PathOf<"patch">>, body)
        : method === "DELETE" ? deleteJson(path as Address<PathOf<"delete">>) : putJson(path as Address<PathOf<"put">>, body))) as ReplyOf<P, M>,
    onSuccess: () => Promise.all(refresh.map((path) => client.invalidateQueries({ queryKey: ["list", path] }))),
  });
}
