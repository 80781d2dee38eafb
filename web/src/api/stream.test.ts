import { afterEach, expect, test, vi } from "vitest";

import type { HostStats } from "./client";
import { rowsOf, serve, type Told, unpacked } from "./stream";

class Source {
  static all: Source[] = [];
  closed = false;
  onerror?: () => void;
  private readonly hearers = new Map<string, (event: { data: string }) => void>();

  constructor(readonly url: string) {
    Source.all.push(this);
  }

  addEventListener(kind: string, hear: (event: { data: string }) => void) {
    this.hearers.set(kind, hear);
  }

  say(kind: string, data: unknown) {
    this.hearers.get(kind)?.({ data: JSON.stringify(data) });
  }

  close() {
    this.closed = true;
  }
}

afterEach(() => {
  Source.all = [];
  vi.unstubAllGlobals();
});

function begun() {
  vi.stubGlobal("EventSource", Source);
  const told: Told[] = [];
  const wanted = serve((one) => told.push(one));
  wanted({ turn: 1, url: "/watch" });
  const [source] = Source.all;
  if (!source) throw new Error("no stream was begun");
  return { told, wanted, source };
}

function sample(seconds: number, cpu: number, ids = ["a"]): HostStats {
  const sums = { time: new Date(seconds * 1000).toISOString(), process_time_ns: cpu * 1e9, resident: 4096, disk_bytes: 0, nic_bytes: 0 };
  return { time: sums.time, busy_ns: 0, memory: 10, memory_available: 4, vms: [], sums: ids.map((id) => ({ id, ...sums })) } as unknown as HostStats;
}

test("what is there at first comes together, and what happens then by itself", () => {
  const { told, source } = begun();
  source.say("vm", { id: "a" });
  source.say("task", { id: "t" });
  expect(told).toEqual([]);
  source.say("ready", {});
  source.say("vm-gone", { id: "a" });
  expect(told).toEqual([
    { turn: 1, kind: "ready", first: [{ kind: "vm", data: '{"id":"a"}' }, { kind: "task", data: '{"id":"t"}' }] },
    { turn: 1, kind: "vm-gone", data: '{"id":"a"}' },
  ]);
});

test("what was used between two samples arrives as numbers by guest", () => {
  const { told, source } = begun();
  source.say("stats", sample(10, 5));
  source.say("stats", sample(12, 8));
  const [, last] = told;
  if (last?.kind !== "stats") throw new Error("no sample was told");
  const loads = unpacked(rowsOf(last.ids ?? []), last.numbers);
  expect(loads.get("a")).toEqual({ time: 12_000, cpu: 1.5, memory: 4096, disk: 0, net: 0 });
  // A row of the list is drawn again only for another one.
  expect(loads.get("a")).toBe(loads.get("a"));
  expect(loads.get("b")).toBe(undefined);
  expect(last.host?.memory).toBe(6);
});

test("which guests there are is told again only when they are others", () => {
  const { told, wanted, source } = begun();
  const ids = () => told.map((one) => (one.kind === "stats" ? one.ids : one.kind));
  source.say("stats", sample(10, 5));
  source.say("stats", sample(12, 8));
  source.say("stats", sample(14, 9));
  source.say("stats", sample(16, 9, ["b", "a"]));
  source.say("stats", sample(18, 9, ["b", "a"]));
  expect(ids()).toEqual([undefined, ["a"], undefined, undefined, ["b", "a"]]);
  wanted({ turn: 2, url: "/watch" });
  for (const seconds of [20, 22]) Source.all[1]?.say("stats", sample(seconds, 9));
  expect(ids().at(-1)).toEqual(["a"]);
});

test("a stream that breaks, or that nobody wants any more, is closed", () => {
  const { told, wanted, source } = begun();
  source.onerror?.();
  expect(told).toEqual([{ turn: 1, kind: "error" }]);
  wanted({ turn: 2, url: "/watch" });
  wanted({ turn: 3 });
  expect(Source.all.map((one) => one.closed)).toEqual([true, true]);
});
