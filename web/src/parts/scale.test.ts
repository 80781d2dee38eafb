import { expect, test, vi } from "vitest";

vi.stubGlobal("navigator", { language: "en-US" });
vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined });
const { levels, ticksOfTime } = await import("./scale");

test("stacked lines stand one on the other, and nowhere where nothing is known", () => {
  expect(levels([[1, 2, null], [3, null, 4], [0, 1, 1]])).toEqual([[1, 2, null], [4, null, 4], [4, 1, 5]]);
  expect(levels([])).toEqual([]);
});

test("a tick says the second, the minute or the day, whatever tells it from the next", () => {
  const at = (...time: [number, number, number, number?, number?, number?]) => new Date(...time).getTime() / 1000;
  expect(ticksOfTime([at(2026, 10, 27, 23, 59, 30), at(2026, 10, 28)], 30)).toEqual(["23:59:30", "Nov 28"]);
  expect(ticksOfTime([at(2026, 10, 27, 14, 5)], 300)).toEqual(["14:05"]);
  expect(ticksOfTime([at(2026, 10, 1, 5)], 86400)).toEqual(["Nov 1"]);
});
