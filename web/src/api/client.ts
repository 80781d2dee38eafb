// Asks the daemon. What goes wrong is a `Refusal` with the daemon's problem (RFC 9457) in it.

import type { components } from "./schema";

export type Schemas = components["schemas"];
export type Vm = Schemas["Vm"];
export type Problem = Schemas["Problem"];

export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly problem: Partial<Problem>,
  ) {
    super(problem.detail ?? problem.title ?? String(status));
  }
}

async function send(method: string, path: string): Promise<Response> {
  const headers: Record<string, string> = {};
  if (method === "POST") headers["idempotency-key"] = key();
  const response = await fetch(`/api/v1${path}`, { method, headers });
  if (response.ok) return response;
  const problem = (await response.json().catch(() => ({}))) as Partial<Problem>;
  throw new Refusal(response.status, problem);
}

/** A key that no other request has; `randomUUID` is missing where the page came over plain HTTP. */
function key(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

export async function get<T>(path: string): Promise<T> {
  return (await (await send("GET", path)).json()) as T;
}

export async function text(path: string): Promise<string> {
  return (await send("GET", path)).text();
}

export type Verb = "start" | "shutdown" | "stop" | "reboot" | "pause" | "resume";

export async function act(id: string, verb: Verb): Promise<void> {
  await send("POST", `/vms/${encodeURIComponent(id)}/${verb}`);
}

export async function remove(id: string): Promise<void> {
  await send("DELETE", `/vms/${encodeURIComponent(id)}`);
}
