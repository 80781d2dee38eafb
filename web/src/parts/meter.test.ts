import { expect, test, vi } from "vitest";

vi.stubGlobal("navigator", { language: "en" });
vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined });
const { runs } = await import("./meter");

test("a line has holes where nothing is known", () => {
  expect(runs([null, 1, 2, null, null, 3])).toEqual([[1, [1, 2]], [5, [3]]]);
  expect(runs([])).toEqual([]);
});
