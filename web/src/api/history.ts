// What was used over time, as the daemon keeps it: each second of the last hour, each ten of the last day, each five minutes of the last thirty.

import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef } from "react";

import { get, type Schemas } from "./client";
import { type Live, useLive } from "./live";
import { queries } from "./queries";

export type History = Schemas["History"];
export type Series = Schemas["Series"];

/** How long a time is shown up to now, s. */
export const RANGES = { hour: 3600, day: 86400, month: 30 * 86400 } as const;
export type Range = keyof typeof RANGES;

/** A time that somebody has chosen, in seconds since the epoch. */
export interface Span {
  from: number;
  to: number;
}

/** The shortest time that can be chosen, s. */
export const SHORTEST = 30;

/** The next span of a chart: half as long, twice as long, or as long and half of it earlier (-1) or later (1). None is the range up to now. */
export function nearer({ from, to }: Span): Span {
  const length = Math.max(SHORTEST, Math.round((to - from) / 2));
  const middle = Math.round((from + to) / 2);
  return { from: middle - Math.ceil(length / 2), to: middle + Math.floor(length / 2) };
}

export function farther({ from, to }: Span, whole: Span): Span | undefined {
  const half = Math.round((to - from) / 2);
  return within({ from: from - half, to: to + half }, whole);
}

export function moved({ from, to }: Span, by: -1 | 1, whole: Span): Span {
  const far = Math.round((to - from) / 2) * by;
  const most = by < 0 ? Math.min(0, Math.max(far, whole.from - from)) : Math.max(0, Math.min(far, whole.to - to));
  return { from: from + most, to: to + most };
}

/** The part of `span` that is in `whole`; none if that is all of it. */
function within(span: Span, whole: Span): Span | undefined {
  const [from, to] = [Math.max(span.from, whole.from), Math.min(span.to, whole.to)];
  return from <= whole.from && to >= whole.to ? undefined : { from, to };
}

/** When the spans of a history end. */
export function endOf(history: History): number {
  return Date.parse(history.from) / 1000 + history.points * history.step;
}

/** When each span begins, s since the epoch. */
export function times(history: History): number[] {
  const from = Date.parse(history.from) / 1000;
  return Array.from({ length: history.points }, (_, n) => from + n * history.step);
}

export function seriesOf(history: History | undefined, name: string): Series | undefined {
  return history?.series.find((one) => one.name === name);
}

/** The latest value that is known. */
export function latest(values: readonly (number | null)[]): number | undefined {
  for (let n = values.length - 1; n >= 0; n--) if (values[n] !== null) return values[n] ?? undefined;
  return undefined;
}

/** `known` and what has come since, as long as `known` is. Nothing if there is a hole between them, or the spans are of another length. */
export function joined(known: History, since: History): History | undefined {
  const [begin, next] = [Date.parse(known.from) / 1000, Date.parse(since.from) / 1000];
  const kept = (next - begin) / known.step;
  if (known.step !== since.step || kept < 0 || kept > known.points || !Number.isInteger(kept)) return undefined;
  const points = kept + since.points;
  const gone = Math.max(0, points - known.points);
  const series = known.series.map((one) => {
    const other = seriesOf(since, one.name);
    const of = (what: "avg" | "min" | "max") => [...one[what].slice(0, kept), ...(other?.[what] ?? new Array<null>(since.points).fill(null))].slice(gone);
    return { ...one, avg: of("avg"), min: of("min"), max: of("max") };
  });
  return { from: new Date((begin + gone * known.step) * 1000).toISOString(), step: known.step, points: points - gone, series };
}

/** How often what has come is asked for, s: each sample in a chart of an hour, less often where one changes nothing that can be seen. */
export function pace(step: number): number {
  return Math.min(60, Math.max(2, step / 5));
}

const selectStats = (live: Live) => live.stats;

/** What was used in a range up to now, or in a span; `path` is that of a guest or the host. The range grows with what comes. */
export function useHistory(path: string, range: Range, points: number, span?: Span) {
  const key = ["history", path, range, points, span?.from, span?.to];
  const stats = useLive(selectStats);
  const length = RANGES[range];
  const answer = useQuery({
    queryKey: key,
    queryFn: () => {
      // By the clock of the daemon, which need not be that of the browser.
      const now = stats ? Date.parse(stats.time) : Date.now();
      const { from, to } = span ?? { from: Math.floor(now / 1000) - length, to: undefined };
      return get<History>(`${path}/history`, { from: time(from), to: time(to), points });
    },
    // Until it is there, what was known of the same is looked at from nearer or farther.
    placeholderData: (before: History | undefined, query) => (query?.queryKey[1] === path ? before : undefined),
    staleTime: 60_000,
  });
  const { data } = answer;
  const asked = useRef({ path, time: 0 });
  useEffect(() => {
    if (!stats || !data || span || answer.isPlaceholderData || document.visibilityState === "hidden") return;
    const now = Date.parse(stats.time) / 1000;
    if (asked.current.path === path && now - asked.current.time < pace(data.step)) return;
    asked.current = { path, time: now };
    const last = endOf(data) - data.step;
    // What was missed while the page was hidden or cut off may be as long as all of it.
    if (now - last > length) return void queries.invalidateQueries({ queryKey: key });
    get<History>(`${path}/history`, { from: time(last), step: data.step })
      .then((since) => queries.setQueryData<History>(key, (known) => (known && joined(known, since)) ?? known))
      // The stream tells whether the daemon is gone; the next sample asks again.
      .catch(() => undefined);
  });
  return { history: data, error: answer.error, isStale: answer.isPlaceholderData };
}

function time(seconds: number | undefined): string | undefined {
  return seconds === undefined ? undefined : new Date(seconds * 1000).toISOString();
}
