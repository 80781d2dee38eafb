// The search language of the list: words are parts of a name; `state:` and `label:` say what must hold.

import type { Vm } from "./api/client";

export function matcher(search: string): (vm: Vm) => boolean {
  const tests = search.toLowerCase().split(/\s+/).filter(Boolean).map(test);
  return (vm) => tests.every((holds) => holds(vm));
}

function test(word: string): (vm: Vm) => boolean {
  if (word.startsWith("state:")) return (vm) => vm.status.state === word.slice(6);
  if (word.startsWith("label:")) {
    const [key = "", value] = word.slice(6).split("=", 2);
    return (vm) =>
      Object.entries(vm.labels ?? {}).some(
        ([k, v]) => k.toLowerCase() === key && (value === undefined || v.toLowerCase() === value),
      );
  }
  return (vm) => vm.name.toLowerCase().includes(word) || (vm.description ?? "").toLowerCase().includes(word);
}
