import { expect, test } from "vitest";

import { endOf, farther, type History, joined, latest, moved, nearer, pace, SHORTEST, times } from "./history";

function history(from: number, avg: (number | null)[], step = 10): History {
  return { from: new Date(from * 1000).toISOString(), step, points: avg.length, series: [{ name: "memory", unit: "bytes", avg, min: avg, max: avg }] };
}

test("what has come takes the place of what still grew, and the oldest goes", () => {
  const all = joined(history(1000, [1, 2, 3]), history(1020, [4, 5]));
  expect(all && times(all)).toEqual([1010, 1020, 1030]);
  expect(all?.series[0]?.avg).toEqual([2, 4, 5]);
  expect(all && endOf(all)).toBe(1040);
});

test("what does not follow is not joined", () => {
  const known = history(1000, [1, 2, 3]);
  expect(joined(known, history(1040, [4]))).toBeUndefined();
  expect(joined(known, history(990, [4]))).toBeUndefined();
  expect(joined(known, history(1025, [4]))).toBeUndefined();
  expect(joined(known, history(1020, [4], 20))).toBeUndefined();
  expect(joined(known, history(1030, [null, 6]))?.series[0]?.avg).toEqual([3, null, 6]);
});

test("a series that is not told any more has nothing", () => {
  const since = { ...history(1020, [4, 5]), series: [] };
  expect(joined(history(1000, [1, 2, 3]), since)?.series[0]?.avg).toEqual([2, null, null]);
});

test("a span is looked at from nearer and farther, and moved, but never beyond the whole", () => {
  const whole = { from: 0, to: 3600 };
  expect(nearer(whole)).toEqual({ from: 900, to: 2700 });
  expect(nearer({ from: 100, to: 100 + SHORTEST })).toEqual({ from: 100, to: 100 + SHORTEST });
  expect(farther({ from: 900, to: 1300 }, whole)).toEqual({ from: 700, to: 1500 });
  expect(farther({ from: 100, to: 1100 }, whole)).toEqual({ from: 0, to: 1600 });
  expect(farther({ from: 900, to: 2700 }, whole)).toBeUndefined();
  expect(moved({ from: 900, to: 1300 }, -1, whole)).toEqual({ from: 700, to: 1100 });
  expect(moved({ from: 3100, to: 3500 }, 1, whole)).toEqual({ from: 3200, to: 3600 });
  expect(moved({ from: 0, to: 400 }, -1, whole)).toEqual({ from: 0, to: 400 });
});

test("the latest value is the last that is known, and what is seen less is asked for less often", () => {
  expect(latest([1, 2, null])).toBe(2);
  expect(latest([null])).toBeUndefined();
  expect([1, 5, 10, 120, 3600].map(pace)).toEqual([2, 2, 2, 24, 60]);
});
