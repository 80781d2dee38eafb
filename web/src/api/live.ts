// What the daemon tells of by itself, kept current by its one stream: guests, tasks, events and what is used.

import { useSyncExternalStore } from "react";

import { at, type Event, get, type HostStats, Refusal, type Task, type Vm } from "./client";
import type { Load, LoadOf } from "./load";
import { rowsOf, type Told, unpacked, type Wanted } from "./stream";

export type Link = "connecting" | "live" | "lost" | "refused";

export interface Live {
  link: Link;
  vms: readonly Vm[];
  byId: ReadonlyMap<string, Vm>;
  /** The newest first. */
  tasks: readonly Task[];
  /** The newest first. */
  events: readonly Event[];
  stats: Omit<HostStats, "vms" | "sums"> | null;
  /** What each guest has used since the sample before, by id. */
  loads: LoadOf;
  /** What the host has used since the sample before; of disks what all guests have. */
  host: Load | undefined;
}

/** How often what is used is told, seconds. */
export const EVERY = 2;
const MOST_TASKS = 500;
const MOST_EVENTS = 1000;

const nothing: Live = { link: "connecting", vms: [], byId: new Map(), tasks: [], events: [], stats: null, loads: new Map(), host: undefined };

let now = nothing;
let vms = new Map<string, Vm>();
let tasks = new Map<string, Task>();
let events: Event[] = [];
/** Where in what is told of loads each guest is. */
let rows: ReadonlyMap<string, number> = new Map();
const changed = { vms: false, tasks: false, events: false };
let due = 0;
let worker: Worker | undefined;
/** Which stream it is, and whether there is one. */
let [turn, open] = [0, false];
let retry = 0;
let failures = 0;

const listeners = new Set<() => void>();
const hearers = new Set<(event: Event) => void>();
const enders = new Set<(task: Task) => void>();

function publish(change: Partial<Live> = {}): void {
  const next = { ...now, ...change };
  if (changed.vms) {
    next.byId = new Map(vms);
    next.vms = [...vms.values()];
  }
  // Ids are ordered by time.
  if (changed.tasks) {
    const sorted = [...tasks.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
    for (const old of sorted.slice(MOST_TASKS)) tasks.delete(old.id);
    next.tasks = sorted.slice(0, MOST_TASKS);
  }
  if (changed.events) {
    events = events.sort((a, b) => b.number - a.number).slice(0, MOST_EVENTS);
    next.events = [...events];
  }
  changed.vms = changed.tasks = changed.events = false;
  now = next;
  for (const listener of listeners) listener();
}

/** A thousand changes at once are drawn once. */
function soon(): void {
  if (due !== 0) return;
  due = window.setTimeout(() => {
    due = 0;
    publish();
  }, 16);
}

function want(url?: string): void {
  if (!worker) {
    worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = (event: MessageEvent<Told>) => { if (open && event.data.turn === turn) take(event.data); };
  }
  [turn, open] = [turn + 1, url !== undefined];
  window.clearTimeout(retry);
  worker.postMessage({ turn, ...(url !== undefined && { url }) } satisfies Wanted);
}

/** Begins to watch; anew where it was watched before. */
export function watch(): void {
  want(`${at("watch")}?stats=${String(EVERY)}&sums=true`);
}

function take(told: Told): void {
  switch (told.kind) {
    case "stats":
      if (told.ids) rows = rowsOf(told.ids);
      return publish({ stats: told.stats, host: told.host, loads: unpacked(rows, told.numbers) });
    case "ready": return begun(told.first);
    case "error": return lost();
    default: return happened(told.kind, told.data);
  }
}

/** What is gone since the last connection is not told again, so each connection begins with nothing. */
function begun(first: readonly { kind: string; data: string }[]): void {
  const all = <T>(kind: string) => first.filter((one) => one.kind === kind).map((one) => JSON.parse(one.data) as T);
  vms = new Map(all<Vm>("vm").map((vm) => [vm.id, vm]));
  tasks = new Map(all<Task>("task").map((task) => [task.id, task]));
  events = all<Event>("event");
  changed.vms = changed.tasks = changed.events = true;
  failures = 0;
  publish({ link: "live" });
}

function happened(kind: string, data: string): void {
  const value: unknown = JSON.parse(data);
  switch (kind) {
    case "vm": {
      const vm = value as Vm;
      vms.set(vm.id, vm);
      changed.vms = true;
      break;
    }
    case "vm-gone":
      vms.delete((value as { id: string }).id);
      changed.vms = true;
      break;
    case "task": return progressed(value as Task);
    case "event": {
      const event = value as Event;
      events.push(event);
      changed.events = true;
      for (const hearer of hearers) hearer(event);
    }
  }
  soon();
}

function progressed(task: Task): void {
  const before = tasks.get(task.id);
  // Progress may come after the end.
  if (before?.ended && !task.ended) return;
  tasks.set(task.id, task);
  changed.tasks = true;
  soon();
  if (task.ended && !before?.ended) for (const ender of enders) ender(task);
}

function lost(): void {
  const mine = turn;
  if (now.link !== "refused") publish({ link: "lost" });
  // An EventSource does not say why it failed; one request does.
  get(at("session"))
    .then(() => false)
    .catch((error: unknown) => error instanceof Refusal && error.status === 401)
    .then((refused) => {
      if (!open || turn !== mine) return;
      if (refused) publish({ link: "refused" });
      else retry = window.setTimeout(watch, Math.min(300 * 2 ** failures++, 5000));
    }, () => undefined);
}

/** Begins to watch, and gives the connection back while the browser keeps the page for later: it has few to one server. */
export function begin(): void {
  watch();
  window.addEventListener("pagehide", () => want());
  window.addEventListener("pageshow", (event) => {
    if (event.persisted && now.link !== "refused") watch();
  });
}

/** Forgets everything: somebody else will look at it. */
export function forget(): void {
  want();
  [vms, tasks, events] = [new Map(), new Map(), []];
  now = { ...nothing, link: "refused" };
  publish();
}

/** Calls `hear` with each event from now on; gives what ends that. */
export function onEvent(hear: (event: Event) => void): () => void {
  hearers.add(hear);
  return () => hearers.delete(hear);
}

/** Calls `end` with each task that ends from now on; gives what ends that. */
export function onTaskEnd(end: (task: Task) => void): () => void {
  enders.add(end);
  return () => enders.delete(end);
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** A part of what is known; `select` gives the same thing as long as it has not changed. */
export function useLive<T>(select: (live: Live) => T): T {
  return useSyncExternalStore(subscribe, () => select(now));
}

export const selectLink = (live: Live) => live.link;
export const selectVms = (live: Live) => live.vms;
export const selectTasks = (live: Live) => live.tasks;
export const selectEvents = (live: Live) => live.events;
export const selectLoads = (live: Live) => live.loads;
