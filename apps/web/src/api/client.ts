// Requests to the public API of the server that served this page. Signed in by cookie; a write carries the token that a
// foreign page cannot read. Nothing here keeps a key.
//
// A reply has the type that api/openapi.json gives its path and method: no caller names one of its own.
import type { components, paths } from "./openapi";

type Method = "get" | "post" | "put" | "patch" | "delete";
type JsonOf<Reply> = Reply extends { content: { "application/json": infer Body } } ? Body : never;
type SuccessOf<Replies> = Replies extends { 200: infer Reply } | { 201: infer Reply } | { 202: infer Reply } ? JsonOf<Reply> : never;
export type PathOf<M extends Method> = { [P in keyof paths]: paths[P][M] extends { responses: object } ? P : never }[keyof paths];
// The success reply of a route.
export type ReplyOf<P extends keyof paths, M extends Method> = paths[P][M] extends { responses: infer Replies } ? SuccessOf<Replies> : never;
// Lists, { data: […] }, and their rows.
export type ListPath = { [P in PathOf<"get">]: ReplyOf<P, "get"> extends { data: unknown[] } ? P : never }[PathOf<"get">];
export type RowOf<P extends ListPath> = ReplyOf<P, "get"> extends { data: (infer Row)[] } ? Row : never;
// The data of a stream's event, by name.
type Events = { [Name in keyof components["schemas"] as Name extends `${string}Events` ? Name : never]: Required<components["schemas"][Name]> };
export type EventOf<Stream extends keyof Events, Name extends keyof Events[Stream]> = Events[Stream][Name];

// A path with its {parts} and query filled in.
declare const pattern: unique symbol;
export type Address<P extends keyof paths> = string & { readonly [pattern]: P };
type PartsOf<P> = P extends `${string}{${infer Name}}${infer Rest}` ? { [K in Name]: string } & PartsOf<Rest> : unknown;
export function at<P extends keyof paths>(path: P, parts: PartsOf<P>, query: Record<string, string | number> = {}): Address<P> {
  // Names of models hold slashes.
  const encoded = path.replace(/\{(\w+)\}/g, (_, name: string) => String((parts as Record<string, string>)[name]).split("/").map(encodeURIComponent).join("/"));
  const search = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)]));
  return (search.size > 0 ? `${encoded}?${search}` : encoded) as Address<P>;
}

export interface Problem {
  message: string;
  code: string;
  param: string | null;
  status: number;
  retryAfterS: number;
  requestId: string;
}

// What the server said, or that it could not be reached (status 0).
export class ApiError extends Error {
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(problem.message);
    this.name = "ApiError";
    this.problem = problem;
  }
  get status() { return this.problem.status; }
  get code() { return this.problem.code; }
}

let csrfToken = "";
let workspace = "";
let onSignedOut: (() => void) | null = null;

export function setCsrfToken(token: string) { csrfToken = token; }
export function setWorkspace(id: string) { workspace = id; }
export function whenSignedOut(listener: () => void) { onSignedOut = listener; }

export function requestHeaders(write: boolean): Record<string, string> {
  const headers: Record<string, string> = {};
  if (write) {
    headers["Content-Type"] = "application/json";
    if (csrfToken) headers["Tidepool-CSRF"] = csrfToken;
  }
  if (workspace) headers["Tidepool-Workspace"] = workspace;
  return headers;
}

export async function problemOf(reply: Response): Promise<ApiError> {
  const text = await reply.text().catch(() => "");
  let error: { message?: string; code?: string; param?: string | null } = {};
  try {
    error = (JSON.parse(text) as { error?: typeof error }).error ?? {};
  } catch {
    // A proxy in between answers in its own words.
  }
  return new ApiError({
    message: error.message ?? `${reply.status} ${reply.statusText}`.trim(),
    code: error.code ?? "",
    param: error.param ?? null,
    status: reply.status,
    retryAfterS: Number(reply.headers.get("retry-after") ?? 0),
    requestId: reply.headers.get("x-request-id") ?? "",
  });
}

export interface RequestOptions {
  signal?: AbortSignal | undefined;
  headers?: Record<string, string>;
  // 401 is an answer, not the end of the session.
  quiet?: boolean;
}

export async function send(method: string, path: string, body?: unknown, options: RequestOptions = {}): Promise<Response> {
  let reply: Response;
  try {
    reply = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: { ...requestHeaders(method !== "GET"), ...options.headers },
      body: method === "GET" || body === undefined ? null : JSON.stringify(body),
      signal: options.signal ?? null,
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError({ message: "", code: "unreachable", param: null, status: 0, retryAfterS: 0, requestId: "" });
  }
  if (!reply.ok) {
    const problem = await problemOf(reply);
    if (reply.status === 401 && !options.quiet) onSignedOut?.();
    throw problem;
  }
  return reply;
}

async function json<T>(reply: Response): Promise<T> {
  const text = await reply.text();
  return (text ? JSON.parse(text) : null) as T;
}

export async function getJson<P extends PathOf<"get">>(where: P | Address<P>, options?: RequestOptions): Promise<ReplyOf<P, "get">> {
  return json(await send("GET", where, undefined, options));
}
export async function postJson<P extends PathOf<"post">>(where: P | Address<P>, body: unknown = {}, options?: RequestOptions): Promise<ReplyOf<P, "post">> {
  return json(await send("POST", where, body, options));
}
export async function putJson<P extends PathOf<"put">>(where: P | Address<P>, body: unknown, options?: RequestOptions): Promise<ReplyOf<P, "put">> {
  return json(await send("PUT", where, body, options));
}
export async function patchJson<P extends PathOf<"patch">>(where: P | Address<P>, body: unknown, options?: RequestOptions): Promise<ReplyOf<P, "patch">> {
  return json(await send("PATCH", where, body, options));
}
export async function deleteJson<P extends PathOf<"delete">>(where: P | Address<P>, options?: RequestOptions): Promise<ReplyOf<P, "delete">> {
  return json(await send("DELETE", where, undefined, options));
}
