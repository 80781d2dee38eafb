// The daemon's stream, read beside the page (a worker): what ten thousand guests use is megabytes each time, and to read them takes longer than
// a frame may take.

import type { HostStats } from "./client";
import { type Load, type LoadOf, Loads } from "./load";

/** What the page asks for: a stream from this address, with this number; without an address none. */
export interface Wanted {
  turn: number;
  url?: string;
}

/** What is told of a stream with this number. */
export type Told = { turn: number } & (
  | { kind: "vm" | "vm-gone" | "task" | "event"; data: string }
  | { kind: "ready"; first: readonly { kind: string; data: string }[] }
  /** The guests' `ids` are told only where they are others than the last time, or in another order. */
  | { kind: "stats"; stats: Omit<HostStats, "vms" | "sums">; host: Load | undefined; ids?: readonly string[]; numbers: Float64Array }
  | { kind: "error" }
);

const FIELDS = ["time", "cpu", "memory", "disk", "net"] as const;

/** Loads as numbers one after the other: those are handed to another thread at no cost. */
function packed(loads: ReadonlyMap<string, Load>): Float64Array {
  const numbers = new Float64Array(loads.size * FIELDS.length);
  let n = 0;
  for (const load of loads.values()) for (const field of FIELDS) numbers[n++] = load[field];
  return numbers;
}

/** In which row of the numbers each guest is. */
export function rowsOf(ids: readonly string[]): ReadonlyMap<string, number> {
  return new Map(ids.map((id, row) => [id, row]));
}

/** Unpacks of such numbers what is asked for: of ten thousand guests a few are looked at, and a frame has no time for all. */
export function unpacked(rows: ReadonlyMap<string, number>, numbers: Float64Array): LoadOf {
  const of = (n: number) => numbers[n] ?? 0;
  const known = new Map<string, Load>();
  return {
    get(id) {
      const row = rows.get(id);
      if (row === undefined) return undefined;
      const n = row * FIELDS.length;
      const load = known.get(id) ?? { time: of(n), cpu: of(n + 1), memory: of(n + 2), disk: of(n + 3), net: of(n + 4) };
      known.set(id, load);
      return load;
    },
  };
}

function same(some: readonly string[], others: readonly string[]): boolean {
  return some.length === others.length && some.every((one, n) => one === others[n]);
}

/** Serves whoever is at the other end of a worker. */
export function serve(tell: (told: Told, hand?: Transferable[]) => void): (wanted: Wanted) => void {
  let source: EventSource | undefined;
  return ({ turn, url }) => {
    source?.close();
    if (url === undefined) return;
    const [mine, loads] = [new EventSource(url), new Loads()];
    source = mine;
    let known: readonly string[] = [];
    // What is there at first comes together.
    let first: { kind: string; data: string }[] | undefined = [];
    for (const kind of ["vm", "vm-gone", "task", "event"] as const) {
      mine.addEventListener(kind, ({ data }: MessageEvent<string>) => {
        if (first) first.push({ kind, data });
        else tell({ turn, kind, data });
      });
    }
    mine.addEventListener("ready", () => {
      tell({ turn, kind: "ready", first: first ?? [] });
      first = undefined;
    });
    mine.addEventListener("stats", ({ data }: MessageEvent<string>) => {
      const { vms: _, sums, ...stats } = JSON.parse(data) as HostStats;
      loads.take({ ...stats, vms: [], ...(sums && { sums }) });
      const [numbers, ids] = [packed(loads.guests), [...loads.guests.keys()]];
      tell({ turn, kind: "stats", stats, host: loads.host, ...(!same(ids, known) && { ids }), numbers }, [numbers.buffer]);
      known = ids;
    });
    mine.onerror = () => {
      mine.close();
      tell({ turn, kind: "error" });
    };
  };
}
