// All guests, kept current by the daemon's stream of changes.

import { useSyncExternalStore } from "react";

import { get, Refusal, type Schemas, type Vm } from "./client";

export type Link = "connecting" | "live" | "lost" | "refused";

export interface Guests {
  link: Link;
  list: readonly Vm[];
}

let now: Guests = { link: "connecting", list: [] };
let known = new Map<string, Vm>();
let due = 0;
const listeners = new Set<() => void>();

function publish(link: Link): void {
  now = { link, list: [...known.values()] };
  for (const listener of listeners) listener();
}

/** A thousand changes at once are drawn once. */
function soon(): void {
  if (due === 0)
    due = window.setTimeout(() => {
      due = 0;
      publish(now.link);
    }, 16);
}

export function watch(): void {
  // What is gone since the last connection is not told again, so each connection begins with nothing.
  let coming: Map<string, Vm> | null = new Map();
  const source = new EventSource("/api/v1/vms");
  source.addEventListener("put", (event: MessageEvent<string>) => {
    const vm = JSON.parse(event.data) as Vm;
    (coming ?? known).set(vm.id, vm);
    if (!coming) soon();
  });
  source.addEventListener("delete", (event: MessageEvent<string>) => {
    const gone = JSON.parse(event.data) as { id: string };
    (coming ?? known).delete(gone.id);
    if (!coming) soon();
  });
  source.addEventListener("ready", () => {
    known = coming ?? known;
    coming = null;
    publish("live");
  });
  source.onerror = () => {
    source.close();
    publish("lost");
    // An EventSource does not say why it failed; one request does.
    get<Schemas["HostInfo"]>("/host")
      .then(() => false)
      .catch((error: unknown) => error instanceof Refusal && error.status === 401)
      .then((refused) => {
        if (refused) publish("refused");
        else window.setTimeout(watch, 1000);
      });
  };
}

export function useGuests(): Guests {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => now,
  );
}
