// Requests to the public API of the server that served this page. Signed in by cookie; a write carries the token that a
// foreign page cannot read. Nothing here keeps a key.
import type { paths } from "./openapi";

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

export async function getJson<T>(path: string, options?: RequestOptions): Promise<T> {
  return json<T>(await send("GET", path, undefined, options));
}
export async function postJson<T>(path: string, body: unknown = {}, options?: RequestOptions): Promise<T> {
  return json<T>(await send("POST", path, body, options));
}
export async function patchJson<T>(path: string, body: unknown, options?: RequestOptions): Promise<T> {
  return json<T>(await send("PATCH", path, body, options));
}
export async function deleteJson<T>(path: string, options?: RequestOptions): Promise<T> {
  return json<T>(await send("DELETE", path, undefined, options));
}

// The success reply of a route, as the API's document describes it.
export type ReplyOf<Path extends keyof paths, Method extends keyof paths[Path], Code extends number = 200> =
  paths[Path][Method] extends { responses: { [K in Code]: { content: { "application/json": infer Body } } } } ? Body : never;
