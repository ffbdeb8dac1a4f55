// Lists with cursors: { data, has_more, next_cursor }. limit 0: a list that always comes whole and takes no such parameter.
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useMemo } from "react";
import { type Address, at, deleteJson, getJson, type ListPath, patchJson, type PathOf, postJson, putJson, type ReplyOf, type RowOf } from "../api/client";

// A list's path and a page of it.
export type CursorPath = { [P in ListPath]: ReplyOf<P, "get"> extends { next_cursor: string | null } ? P : never }[ListPath];
interface Page<P extends ListPath> { data: RowOf<P>[]; next_cursor?: string | null }
const pageOf = <P extends ListPath>(path: P, query: Record<string, string>, signal: AbortSignal) =>
  getJson<ListPath>(at<ListPath>(path, {}, query), { signal }) as Promise<unknown> as Promise<Page<P>>;

export function useCursorList<P extends ListPath>(path: P, query: Record<string, string> = {}, options: { pollMs?: number; enabled?: boolean; limit?: number } = {}) {
  const list = useInfiniteQuery({
    queryKey: ["list", path, query],
    initialPageParam: "",
    enabled: options.enabled ?? true,
    queryFn: ({ pageParam, signal }) => {
      const given = Object.fromEntries(Object.entries(query).filter(([, value]) => value !== ""));
      return pageOf(path, { ...given, ...(options.limit === 0 ? {} : { limit: String(options.limit ?? 100) }), ...(pageParam ? { after: pageParam } : {}) }, signal);
    },
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
    queryFn: ({ signal }) => pageOf(path, { ...Object.fromEntries(Object.entries(query).filter(([, value]) => value !== "")), limit: String(options.limit) }, signal),
  });
  const rows = useMemo((): RowOf<P>[] => {
    const known = list.rows as (RowOf<P> & { id: string })[];
    return long ? withHead((head.data?.data ?? []) as typeof known, known) : known;
  }, [long, head.data, list.rows]);
  return { ...list, rows };
}

// All of a list, page by page, for a file. `most` bounds what one click asks of the server and of this page's memory (an audit row is
// some 500 bytes: 50 MB); `whole` tells whether there was more.
export async function allRows<P extends CursorPath>(path: P, query: Record<string, string>, options: { most: number; onProgress: (rows: number) => void; signal: AbortSignal }): Promise<{ rows: RowOf<P>[]; whole: boolean }> {
  const rows: RowOf<P>[] = [];
  for (let after = ""; ;) {
    const page = await pageOf(path, { ...query, limit: String(Math.min(mostOfAPage, options.most - rows.length)), ...(after ? { after } : {}) }, options.signal);
    rows.push(...page.data);
    if (!page.next_cursor) return { rows, whole: true };
    // A page without rows, or a cursor that stands still, would go on for ever.
    if (rows.length >= options.most || page.data.length === 0 || page.next_cursor === after) return { rows, whole: false };
    options.onProgress(rows.length);
    after = page.next_cursor;
  }
}
const mostOfAPage = 1000;  // the server's limit

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

// Text as a cell of RFC 4180; what a spreadsheet would take for a formula is made text.
export function csvCell(value: unknown): string {
  let text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
export function csvOf(names: string[], rows: Record<string, unknown>[]): string {
  return [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";
}
export function saveText(name: string, type: string, text: string) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
