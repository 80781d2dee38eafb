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

test("what was sorted before changes nothing of how it is sorted now", () => {
  const guest = (name: string, id = name, cpus = 1) => ({ name, id, cpus }) as Vm;
  const before = sorted(["a", "b", "c", "d"].map((name) => guest(name)), "name", false, new Map());
  const now = [guest("e"), guest("z", "b", 3), guest("d"), guest("a", "a", 2)];
  for (const by of ["name", "cpus"] as const) {
    const anew = sorted(now, by, false, new Map());
    expect(sorted(now, by, false, new Map(), before)).toEqual(anew);
    expect(anew.map((vm) => vm.name)).toEqual(by === "name" ? ["a", "d", "e", "z"] : ["d", "e", "a", "z"]);
  }
});
