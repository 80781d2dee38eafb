// Asks the daemon. What goes wrong is a `Refusal` with the daemon's problem (RFC 9457) in it.

import type { components } from "./schema";

export type Schemas = components["schemas"];
export type Vm = Schemas["Vm"];
export type VmDefinition = Schemas["VmDefinition"];
export type VmState = Schemas["VmState"];
export type Task = Schemas["Task"];
export type Event = Schemas["Event"];
export type Problem = Schemas["Problem"];
export type HostStats = Schemas["HostStats"];

export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly problem: Partial<Problem>,
  ) {
    super(problem.detail ?? problem.title ?? String(status));
  }

  /** What is wrong with the field at this JSON pointer, or with what is in it. */
  at(pointer: string): string | undefined {
    const wrong = this.problem.errors?.filter((e) => e.pointer === pointer || e.pointer.startsWith(`${pointer}/`));
    return wrong?.length ? wrong.map((e) => e.detail).join(" ") : undefined;
  }

  /** What is wrong with fields that are none of `pointers`, and otherwise what the problem says. */
  besides(pointers: readonly string[]): string[] {
    const errors = this.problem.errors ?? [];
    if (errors.length === 0) return [this.message];
    const shown = (pointer: string) => pointers.some((p) => pointer === p || pointer.startsWith(`${p}/`));
    return errors.filter((e) => !shown(e.pointer)).map((e) => `${e.pointer}: ${e.detail}`);
  }
}

export function refusal(error: unknown): Refusal {
  return error instanceof Refusal ? error : new Refusal(0, { detail: error instanceof Error ? error.message : String(error) });
}

type Method = "GET" | "POST" | "PATCH" | "PUT" | "DELETE";

export interface Ask {
  query?: Record<string, string | number | boolean | undefined>;
  body?: unknown;
  /** Only if what is changed is still this version. */
  version?: string;
}

/** The path of the API where `parts` are names or ids. */
export function at(...parts: string[]): string {
  return `/api/v1/${parts.map(encodeURIComponent).join("/")}`;
}

async function send(method: Method, path: string, { query = {}, body, version }: Ask = {}): Promise<Response> {
  const headers: Record<string, string> = {};
  if (method === "POST") headers["idempotency-key"] = key();
  if (version) headers["if-match"] = version;
  if (body !== undefined) headers["content-type"] = method === "PATCH" ? "application/merge-patch+json" : "application/json";
  const words = Object.entries(query).filter(([, value]) => value !== undefined).map(([name, value]) => [name, String(value)]);
  const url = words.length ? `${path}?${new URLSearchParams(words).toString()}` : path;
  const response = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (response.ok) return response;
  throw new Refusal(response.status, (await response.json().catch(() => ({}))) as Partial<Problem>);
}

/** A key that no other request has; `randomUUID` is missing where the page came over plain HTTP. */
function key(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

export async function get<T>(path: string, query?: Ask["query"]): Promise<T> {
  return (await (await send("GET", path, { query })).json()) as T;
}

/** The same with the version that it is of. */
export async function getVersion<T>(path: string): Promise<{ value: T; version: string }> {
  const response = await send("GET", path);
  return { value: (await response.json()) as T, version: response.headers.get("etag") ?? "" };
}

export async function text(path: string): Promise<string> {
  return (await send("GET", path)).text();
}

/** Changes something. What lasts gives its task. */
export async function change<T = Task>(method: Exclude<Method, "GET">, path: string, ask?: Ask): Promise<T> {
  const response = await send(method, path, ask);
  return (response.status === 204 ? undefined : await response.json()) as T;
}

/** Changes something and waits for its task to end; a task that failed is a refusal. */
export async function complete(method: Exclude<Method, "GET">, path: string, ask: Ask = {}): Promise<Task> {
  let task = await change(method, path, { ...ask, query: { ...ask.query, wait: "50s" } });
  while (task.state === "running" || task.state === "queued") task = await get<Task>(at("tasks", task.id), { wait: "50s" });
  if (task.state !== "done") throw new Refusal(task.error?.status ?? 0, task.error ?? { detail: task.state });
  return task;
}

/** Sends a part of a file. */
export async function put<T>(path: string, query: Ask["query"], part: Blob, signal: AbortSignal): Promise<T> {
  const words = Object.entries(query ?? {}).map(([name, value]) => [name, String(value)]);
  const url = `${path}?${new URLSearchParams(words).toString()}`;
  const response = await fetch(url, { method: "PUT", body: part, signal, headers: { "content-type": "application/octet-stream" } });
  if (response.ok) return (await response.json()) as T;
  throw new Refusal(response.status, (await response.json().catch(() => ({}))) as Partial<Problem>);
}
