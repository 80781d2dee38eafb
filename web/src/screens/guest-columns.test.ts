import { expect, test, vi } from "vitest";

import type { Vm } from "../api/client";

vi.stubGlobal("navigator", { language: "en" });
vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined });
const { sorted } = await import("./guest-columns");

test("names are sorted by what their numbers are worth", () => {
  const vms = ["web-10", "web-9", "db", "web-1-2", "web-01"].map((name) => ({ name, id: name }) as Vm);
  const names = (down: boolean) => sorted(vms, "name", down, new Map()).map((vm) => vm.name);
  expect(names(false)).toEqual(["db", "web-01", "web-1-2", "web-9", "web-10"]);
  expect(names(true)).toEqual(names(false).reverse());
});
