// The search language of the list: words are parts of a name; `state:` and `label:` say what must hold; `-` before a word turns it round.

import type { Vm } from "../api/client";

export function matcher(search: string): (vm: Vm) => boolean {
  const tests = search.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    if (!word.startsWith("-") || word.length === 1) return test(word);
    const holds = test(word.slice(1));
    return (vm: Vm) => !holds(vm);
  });
  return (vm) => tests.every((holds) => holds(vm));
}

function test(word: string): (vm: Vm) => boolean {
  if (word.startsWith("state:")) {
    const states = word.slice(6).split(",");
    return (vm) => states.includes(vm.status.state);
  }
  if (word.startsWith("image:")) return (vm) => (vm.disks ?? []).some((disk) => "image" in disk && disk.image.includes(word.slice(6)));
  if (word.startsWith("label:")) {
    const [key = "", value] = word.slice(6).split("=", 2);
    return (vm) =>
      Object.entries(vm.labels ?? {}).some(
        ([k, v]) => k.toLowerCase() === key && (value === undefined || v.toLowerCase() === value),
      );
  }
  const address = (vm: Vm) => (vm.nics ?? []).some((nic) => nic.address?.startsWith(word) ?? false);
  return (vm) => vm.name.toLowerCase().includes(word) || (vm.description ?? "").toLowerCase().includes(word) || address(vm);
}

/** `search` with the word that begins with `prefix` put in, changed or, without a value, taken out. */
export function withWord(search: string, prefix: string, value: string): string {
  const others = search.split(/\s+/).filter((word) => word && !word.startsWith(prefix));
  return (value ? [...others, `${prefix}${value}`] : others).join(" ");
}

/** What follows `prefix` in a search. */
export function wordOf(search: string, prefix: string): string {
  return search.split(/\s+/).find((word) => word.startsWith(prefix))?.slice(prefix.length) ?? "";
}
