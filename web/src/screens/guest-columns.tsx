// The columns of the list of guests: what stands in them, and how the list is sorted by them.

import type { ReactNode } from "react";

import type { Vm } from "../api/client";
import type { Load, LoadOf } from "../api/load";
import { Labels, When } from "../parts/basics";
import { bytes, language, number, percent } from "../text";

export const COLUMNS = ["cpu", "cpus", "memory", "used", "image", "address", "labels", "since", "created", "description"] as const;
export type ColumnName = (typeof COLUMNS)[number];

const USUAL: readonly ColumnName[] = ["cpu", "cpus", "memory", "address", "labels"];

/** How wide they are in the grid: what is a number as much as it needs, the others as there is room. */
export const WIDTHS: Readonly<Record<ColumnName, string>> = {
  cpu: "minmax(96px, 1fr)", cpus: "64px", memory: "92px", used: "92px", image: "minmax(100px, 1.4fr)", address: "minmax(124px, 1.6fr)",
  labels: "minmax(110px, 2fr)", since: "104px", created: "104px", description: "minmax(120px, 2fr)",
};

export interface Cells {
  columns: readonly ColumnName[];
  loads: LoadOf;
}

export function imageOf(vm: Vm): string {
  return (vm.disks ?? []).map((disk) => ("image" in disk ? disk.image : "")).find(Boolean) ?? "";
}

function addresses(vm: Vm): string {
  return (vm.nics ?? []).map((nic) => nic.address ?? "").filter(Boolean).join(" ");
}

function part(vm: Vm, load: Load): number {
  return load.cpu / Math.max(1, vm.cpus ?? 1);
}

export const CELLS: Readonly<Record<ColumnName, (vm: Vm, load: Load | undefined) => ReactNode>> = {
  cpu: (vm, load) => load && <span className="load"><i style={{ width: `${String(Math.min(100, part(vm, load) * 100))}%` }} /><b>{percent(part(vm, load))}</b></span>,
  cpus: (vm) => number(vm.cpus ?? 1),
  memory: (vm) => bytes(vm.memory),
  used: (_, load) => load && bytes(load.memory),
  image: (vm) => <bdi>{imageOf(vm)}</bdi>,
  address: (vm) => addresses(vm),
  labels: (vm) => <Labels labels={vm.labels} />,
  since: (vm) => <When time={vm.status.since} />,
  created: (vm) => <When time={vm.created} />,
  description: (vm) => <bdi>{vm.description}</bdi>,
};

const collator = new Intl.Collator(language, { numeric: true });
const keys = new Map<string, string>();

/** A name as it is sorted: its numbers by what they are worth. It is of ASCII, and so needs none of the rules of a language, which take long. */
function key(name: string): string {
  const known = keys.get(name) ?? name.replace(/\d+/g, (digits) => digits.padStart(20, "0"));
  keys.set(name, known);
  return known;
}

function byKey(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Something to compare by. */
function worth(vm: Vm, by: ColumnName | "name", load: Load | undefined): string | number {
  switch (by) {
    case "name": return key(vm.name);
    case "cpu": return load ? part(vm, load) : -1;
    case "used": return load?.memory ?? -1;
    case "cpus": return vm.cpus ?? 1;
    case "memory": return Number(vm.memory);
    case "image": return imageOf(vm);
    case "address": return addresses(vm);
    case "labels": return Object.entries(vm.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(" ");
    case "since": return Date.parse(vm.status.since);
    case "created": return vm.id;
    case "description": return vm.description ?? "";
  }
}

/** The same guests, those of `before` in its order: what is nearly sorted already is sorted in no time. */
function inOrderOf(before: readonly Vm[], vms: readonly Vm[]): Vm[] {
  const others = new Map(vms.map((vm) => [vm.id, vm]));
  const known: Vm[] = [];
  for (const { id } of before) {
    const vm = others.get(id);
    if (vm) known.push(vm);
    others.delete(id);
  }
  return known.concat([...others.values()]);
}

/** Sorts guests; those of `before` are in that order already, or nearly. */
export function sorted(vms: readonly Vm[], by: ColumnName | "name", down: boolean, loads: LoadOf, before: readonly Vm[] = []): Vm[] {
  const keyed = inOrderOf(before, vms).map((vm) => ({ vm, key: worth(vm, by, loads.get(vm.id)) }));
  const words = by === "name" || by === "created" ? byKey : (a: string, b: string) => collator.compare(a, b);
  const compare = (a: string | number, b: string | number) => (typeof a === "number" && typeof b === "number" ? a - b : words(String(a), String(b)));
  keyed.sort((a, b) => (down ? -1 : 1) * compare(a.key, b.key) || byKey(key(a.vm.name), key(b.vm.name)));
  return keyed.map(({ vm }) => vm);
}

const KEPT = "columns";

/** The columns that were chosen here before. */
export function kept(): readonly ColumnName[] {
  const words = localStorage.getItem(KEPT)?.split(",");
  return words ? COLUMNS.filter((name) => words.includes(name)) : USUAL;
}

export function keep(columns: readonly ColumnName[]): void {
  localStorage.setItem(KEPT, columns.join(","));
}
