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

/** How many samples of the host and of each guest are remembered: ten minutes at one each two seconds. */
export const REMEMBERED = 300;

interface Counters {
  time: number;
  cpu: number;
  memory: number;
  disk: number;
  net: number;
}

function guest(stats: Schemas["Stats"]): Counters {
  return {
    time: Date.parse(stats.time),
    cpu: stats.process_time_ns,
    memory: Number(stats.resident),
    disk: stats.disks.reduce((sum, disk) => sum + disk.read_bytes + disk.written_bytes, 0),
    net: stats.nics.reduce((sum, nic) => sum + nic.received_bytes + nic.sent_bytes, 0),
  };
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
  host: Load[] = [];
  private last = new Map<string, Counters>();
  private lastHost: Counters | undefined;
  private pasts = new Map<string, Load[]>();

  take(stats: HostStats): void {
    const guests = new Map<string, Load>();
    const last = new Map<string, Counters>();
    let [disk, net] = [0, 0];
    for (const { id, stats: of } of stats.vms) {
      const counters = guest(of);
      const load = between(this.last.get(id), counters);
      last.set(id, counters);
      if (!load) continue;
      guests.set(id, load);
      [disk, net] = [disk + load.disk, net + load.net];
      const past = this.pasts.get(id) ?? [];
      past.push(load);
      if (past.length > REMEMBERED) past.shift();
      this.pasts.set(id, past);
    }
    for (const id of this.pasts.keys()) if (!last.has(id)) this.pasts.delete(id);
    [this.guests, this.last] = [guests, last];

    const whole = { time: Date.parse(stats.time), cpu: stats.busy_ns, memory: Number(stats.memory) - Number(stats.memory_available), disk: 0, net: 0 };
    const load = between(this.lastHost, whole);
    this.lastHost = whole;
    if (load) this.host.push({ ...load, disk, net });
    if (this.host.length > REMEMBERED) this.host.shift();
    pasts = this.pasts;
  }
}

let pasts: ReadonlyMap<string, Load[]> = new Map();

/** What a guest has used, the oldest first. */
export function pastOf(id: string): readonly Load[] {
  return pasts.get(id) ?? [];
}
