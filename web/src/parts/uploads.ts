// Files on their way into a pool: in parts, so that one that stopped or broke off is gone on with where it was.

import { useSyncExternalStore } from "react";

import { at, get, put, refusal, type Schemas } from "../api/client";
import { queries } from "../api/queries";

export interface Upload {
  id: number;
  pool: string;
  name: string;
  length: number;
  sent: number;
  /** Whether something of it may be there. */
  begun: boolean;
  state: "sending" | "paused" | "done" | "failed";
  why?: string;
}

const PART = 4 << 20;

let uploads: readonly Upload[] = [];
let next = 1;
const files = new Map<number, { file: File; stop: AbortController }>();
const listeners = new Set<() => void>();

function set(id: number, part: Partial<Upload>): void {
  uploads = uploads.map((one) => (one.id === id ? { ...one, ...part } : one));
  for (const listener of listeners) listener();
}

/** A volume's name of a file's. */
export function nameOf(file: string): string {
  const name = file.toLowerCase().replace(/\.(qcow2|raw|img|iso)$/, "").replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "");
  return name.slice(0, 63) || "upload";
}

export function begin(pool: string, file: File): void {
  const id = next++;
  files.set(id, { file, stop: new AbortController() });
  uploads = [...uploads, { id, pool, name: nameOf(file.name), length: file.size, sent: 0, begun: false, state: "sending" }];
  void send(id);
}

export function pause(id: number): void {
  files.get(id)?.stop.abort();
  set(id, { state: "paused" });
}

export function resume(id: number): void {
  const known = files.get(id);
  if (!known) return;
  known.stop = new AbortController();
  set(id, { state: "sending" });
  void send(id);
}

export function dismiss(id: number): void {
  files.get(id)?.stop.abort();
  files.delete(id);
  uploads = uploads.filter((one) => one.id !== id);
  for (const listener of listeners) listener();
}

async function send(id: number): Promise<void> {
  for (const listener of listeners) listener();
  const known = files.get(id);
  const upload = uploads.find((one) => one.id === id);
  if (!known || !upload) return;
  const { file, stop } = known;
  const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const format = String.fromCharCode(...start.slice(0, 3)) === "QFI" && start[3] === 0xfb ? "qcow2" : "raw";
  try {
    // A part that was stopped on its way has left what came of it.
    let offset = upload.begun ? await there(upload) : 0;
    set(id, { sent: offset, begun: true });
    do {
      const part = file.slice(offset, offset + PART);
      const there = await put<Schemas["Uploaded"]>(at("pools", upload.pool, "volumes", upload.name, "data"), { format, length: file.size, offset }, part, stop.signal);
      offset = Number(there.uploaded);
      set(id, { sent: offset });
    } while (offset < file.size);
    set(id, { state: "done" });
    void queries.invalidateQueries({ queryKey: ["volumes"] });
    void queries.invalidateQueries({ queryKey: ["pools"] });
  } catch (error) {
    if (!stop.signal.aborted) set(id, { state: "failed", why: refusal(error).message });
  }
}

/** How much of it the daemon has, bytes. */
async function there({ pool, name }: Upload): Promise<number> {
  return get<Schemas["Uploaded"]>(at("pools", pool, "volumes", name, "upload")).then((one) => Number(one.uploaded), (error: unknown) => {
    if (refusal(error).status === 404) return 0;
    throw error;
  });
}

export function useUploads(): readonly Upload[] {
  return useSyncExternalStore((listener) => { listeners.add(listener); return () => listeners.delete(listener); }, () => uploads);
}
