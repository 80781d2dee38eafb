// What counters mean: what was used between two samples of them.

import type { HostStats, Schemas } from "./client";

export interface Load {
  /** When, ms since the epoch. */
  time: number;
  /** Processors in use: 1.5 are one and a half. */
  cpu: number;
  /** Bytes. */
  memory: number;
  /** Bytes each second, read and written. */
  disk: number;
  /** Bytes each second, received and sent. */
  net: number;
}

/** What guests use, by their ids. */
export interface LoadOf {
  get(id: string): Load | undefined;
}

interface Counters {
  time: number;
  cpu: number;
  memory: number;
  disk: number;
  net: number;
}

function guest(sums: Schemas["VmSums"]): Counters {
  return { time: Date.parse(sums.time), cpu: sums.process_time_ns, memory: Number(sums.resident), disk: sums.disk_bytes, net: sums.nic_bytes };
}

/** What was used between two samples; nothing while there is only one, or where the counters began anew. */
export function between(before: Counters | undefined, after: Counters): Load | undefined {
  const seconds = before ? (after.time - before.time) / 1000 : 0;
  if (!before || seconds <= 0 || after.cpu < before.cpu) return undefined;
  const rate = (name: "disk" | "net") => Math.max(0, (after[name] - before[name]) / seconds);
  return { time: after.time, cpu: (after.cpu - before.cpu) / 1e9 / seconds, memory: after.memory, disk: rate("disk"), net: rate("net") };
}

/** Turns samples into loads, of the host and of each guest. */
export class Loads {
  guests: ReadonlyMap<string, Load> = new Map();
  host: Load | undefined;
  private last = new Map<string, Counters>();
  private lastHost: Counters | undefined;

  take(stats: HostStats): void {
    const guests = new Map<string, Load>();
    const last = new Map<string, Counters>();
    let disk = 0;
    for (const sums of stats.sums ?? []) {
      const counters = guest(sums);
      const load = between(this.last.get(sums.id), counters);
      last.set(sums.id, counters);
      if (!load) continue;
      guests.set(sums.id, load);
      disk += load.disk;
    }
    [this.guests, this.last] = [guests, last];

    const whole = { time: Date.parse(stats.time), cpu: stats.busy_ns, memory: Number(stats.memory) - Number(stats.memory_available), disk: 0, net: (stats.received_bytes ?? 0) + (stats.sent_bytes ?? 0) };
    const load = between(this.lastHost, whole);
    this.lastHost = whole;
    this.host = load && { ...load, disk };
  }
}
