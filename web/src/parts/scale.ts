// What stands on the axes of charts, and where stacked lines are.

import { language } from "../text";

const SECONDS: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const MINUTES: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const DAY: Intl.DateTimeFormatOptions = { month: "short", day: "numeric" };

/** The words of ticks that are `step` seconds apart. Where a day begins stands which. */
export function ticksOfTime(ticks: readonly number[], step: number): string[] {
  const [day, within] = [DAY, step < 60 ? SECONDS : MINUTES].map((parts) => new Intl.DateTimeFormat(language, parts)) as [Intl.DateTimeFormat, Intl.DateTimeFormat];
  return ticks.map((tick) => {
    const date = new Date(tick * 1000);
    const begins = date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0;
    return (step >= 86400 || begins ? day : within).format(date);
  });
}

/** How high each of some lines is that stand one on the other; nowhere where nothing is known. */
export function levels(lines: readonly (readonly (number | null)[])[]): (number | null)[][] {
  let below: readonly (number | null)[] = [];
  return lines.map((line) => {
    const level = line.map((value, n) => (value === null ? null : value + (below[n] ?? 0)));
    below = level;
    return level;
  });
}
