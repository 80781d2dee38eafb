// What the daemon tells of by itself, kept current by its one stream: guests, tasks, events and what is used.

import { useSyncExternalStore } from "react";

import { at, type Event, get, type HostStats, Refusal, type Task, type Vm } from "./client";
import { type Load, Loads } from "./load";

export type Link = "connecting" | "live" | "lost" | "refused";

export interface Live {
  link: Link;
  vms: readonly Vm[];
  byId: ReadonlyMap<string, Vm>;
  /** The newest first. */
  tasks: readonly Task[];
  /** The newest first. */
  events: readonly Event[];
  stats: HostStats | null;
  /** What each guest has used since the sample before, by id. */
  loads: ReadonlyMap<string, Load>;
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
let loads = new Loads();
const changed = { vms: false, tasks: false, events: false };
let due = 0;
let source: EventSource | undefined;
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

function parse<T>(event: Event_): T {
  return JSON.parse(event.data) as T;
}

type Event_ = MessageEvent<string>;

/** Begins to watch; anew where it was watched before. */
export function watch(): void {
  source?.close();
  window.clearTimeout(retry);
  // What is gone since the last connection is not told again, so each connection begins with nothing.
  let ready = false;
  const first = { vms: new Map<string, Vm>(), tasks: new Map<string, Task>(), events: new Map<number, Event>() };
  const mine = new EventSource(`${at("watch")}?stats=${String(EVERY)}`);
  source = mine;
  mine.addEventListener("vm", (event: Event_) => {
    const vm = parse<Vm>(event);
    (ready ? vms : first.vms).set(vm.id, vm);
    changed.vms = true;
    if (ready) soon();
  });
  mine.addEventListener("vm-gone", (event: Event_) => {
    (ready ? vms : first.vms).delete(parse<{ id: string }>(event).id);
    changed.vms = true;
    if (ready) soon();
  });
  mine.addEventListener("task", (event: Event_) => {
    const task = parse<Task>(event);
    const known = ready ? tasks : first.tasks;
    const before = known.get(task.id);
    // Progress may come after the end.
    if (before?.ended && !task.ended) return;
    known.set(task.id, task);
    changed.tasks = true;
    if (!ready) return;
    soon();
    if (task.ended && !before?.ended) for (const ender of enders) ender(task);
  });
  mine.addEventListener("event", (event: Event_) => {
    const happened = parse<Event>(event);
    if (!ready) return void first.events.set(happened.number, happened);
    events.push(happened);
    changed.events = true;
    soon();
    for (const hearer of hearers) hearer(happened);
  });
  mine.addEventListener("stats", (event: Event_) => {
    const stats = parse<HostStats>(event);
    loads.take(stats);
    publish({ stats, loads: loads.guests, host: loads.host });
  });
  mine.addEventListener("ready", () => {
    ready = true;
    ({ vms, tasks } = first);
    events = [...first.events.values()];
    changed.vms = changed.tasks = changed.events = true;
    failures = 0;
    publish({ link: "live" });
  });
  mine.onerror = () => {
    mine.close();
    if (source !== mine) return;
    if (now.link !== "refused") publish({ link: "lost" });
    // An EventSource does not say why it failed; one request does.
    get(at("session"))
      .then(() => false)
      .catch((error: unknown) => error instanceof Refusal && error.status === 401)
      .then((refused) => {
        if (source !== mine) return;
        if (refused) publish({ link: "refused" });
        else retry = window.setTimeout(watch, Math.min(300 * 2 ** failures++, 5000));
      }, () => undefined);
  };
}

/** Begins to watch, and gives the connection back while the browser keeps the page for later: it has few to one server. */
export function begin(): void {
  watch();
  window.addEventListener("pagehide", () => {
    source?.close();
    source = undefined;
    window.clearTimeout(retry);
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted && now.link !== "refused") watch();
  });
}

/** Forgets everything: somebody else will look at it. */
export function forget(): void {
  source?.close();
  source = undefined;
  [vms, tasks, events, loads] = [new Map(), new Map(), [], new Loads()];
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
