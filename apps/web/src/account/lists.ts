// Lists with cursors: { data, has_more, next_cursor }. limit 0: a list that always comes whole and takes no such parameter.
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useMemo } from "react";
import { deleteJson, getJson, patchJson, postJson, send } from "../api/client";

export interface Cursored<T> { data: T[]; has_more?: boolean; next_cursor: string | null }

export function useCursorList<T>(path: string, query: Record<string, string> = {}, options: { pollMs?: number; enabled?: boolean; limit?: number } = {}) {
  const list = useInfiniteQuery({
    queryKey: ["list", path, query],
    initialPageParam: "",
    enabled: options.enabled ?? true,
    queryFn: ({ pageParam, signal }) => {
      const search = new URLSearchParams({ ...Object.fromEntries(Object.entries(query).filter(([, value]) => value !== "")), ...(options.limit === 0 ? {} : { limit: String(options.limit ?? 100) }), ...(pageParam ? { after: pageParam } : {}) });
      return getJson<Cursored<T>>(`${path}?${search}`, { signal });
    },
    getNextPageParam: (page) => page.next_cursor ?? undefined,
    // All pages again each time: only while there is one.
    refetchInterval: (query) => ((query.state.data?.pages.length ?? 0) > 1 ? false : options.pollMs ?? false),
    refetchOnWindowFocus: (query) => (query.state.data?.pages.length ?? 0) <= 1,
  });
  return { ...list, rows: useMemo(() => list.data?.pages.flatMap((page) => page.data) ?? [], [list.data]) };
}

// A long list that is newest first and grows at its head: of many pages only the head is looked at again.
export function useLiveList<T extends { id: string }>(path: string, query: Record<string, string>, options: { pollMs: number; limit: number }) {
  const list = useCursorList<T>(path, query, options);
  const long = (list.data?.pages.length ?? 0) > 1;
  const head = useQuery({
    queryKey: ["head", path, query], enabled: long, refetchInterval: options.pollMs,
    queryFn: ({ signal }) => getJson<Cursored<T>>(`${path}?${new URLSearchParams({ ...Object.fromEntries(Object.entries(query).filter(([, value]) => value !== "")), limit: String(options.limit) })}`, { signal }),
  });
  const rows = useMemo(() => (long ? withHead(head.data?.data ?? [], list.rows) : list.rows), [long, head.data, list.rows]);
  return { ...list, rows };
}

// All of a list, page by page, for a file. `most` bounds what one click asks of the server and of this page's memory (an audit row is
// some 500 bytes: 50 MB); `whole` tells whether there was more.
export async function allRows<T>(path: string, query: Record<string, string>, options: { most: number; onProgress: (rows: number) => void; signal: AbortSignal }): Promise<{ rows: T[]; whole: boolean }> {
  const rows: T[] = [];
  for (let after = ""; ;) {
    const search = new URLSearchParams({ ...query, limit: String(Math.min(mostOfAPage, options.most - rows.length)), ...(after ? { after } : {}) });
    const page = await getJson<Cursored<T>>(`${path}?${search}`, { signal: options.signal });
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
export function useWrite<Reply = unknown>(refresh: string[]) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: async ({ method, path, body }: Write): Promise<Reply> =>
      method === "POST" ? postJson<Reply>(path, body) : method === "PATCH" ? patchJson<Reply>(path, body) : method === "DELETE" ? deleteJson<Reply>(path)
        : ((await (await send("PUT", path, body)).json()) as Reply),
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
