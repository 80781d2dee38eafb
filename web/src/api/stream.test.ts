import { afterEach, expect, test, vi } from "vitest";

import type { HostStats } from "./client";
import { serve, type Told, unpacked } from "./stream";

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

function sample(seconds: number, cpu: number): HostStats {
  const stats = { time: new Date(seconds * 1000).toISOString(), process_time_ns: cpu * 1e9, resident: 4096, disks: [], nics: [] };
  return { time: stats.time, busy_ns: 0, memory: 10, memory_available: 4, vms: [{ id: "a", stats }] } as unknown as HostStats;
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
  expect(unpacked(last.ids, last.numbers).get("a")).toEqual({ time: 12_000, cpu: 1.5, memory: 4096, disk: 0, net: 0 });
  expect(last.host?.memory).toBe(6);
});

test("a stream that breaks, or that nobody wants any more, is closed", () => {
  const { told, wanted, source } = begun();
  source.onerror?.();
  expect(told).toEqual([{ turn: 1, kind: "error" }]);
  wanted({ turn: 2, url: "/watch" });
  wanted({ turn: 3 });
  expect(Source.all.map((one) => one.closed)).toEqual([true, true]);
});
