// Lists with cursors: { data, has_more, next_cursor }. limit 0: a list that always comes whole and takes no such parameter.
import { useInfiniteQuery, useMutation, useQueryClient } from "@tanstack/react-query";
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
    refetchInterval: options.pollMs ?? false,
  });
  return { ...list, rows: list.data?.pages.flatMap((page) => page.data) ?? [] };
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
