// What can be done to guests, and when: the tables behind buttons, menus and the palette.

import { at, change, refusal, type Vm, type VmState } from "../api/client";
import type { Powers } from "../api/session";
import { t } from "../text";
import type { IconName } from "./icon";
import { toast } from "./toasts";

export type Deed = "start" | "shutdown" | "reboot" | "pause" | "suspend" | "resume" | "stop" | "reset" | "remove";

interface About {
  icon: IconName;
  /** In which states it makes sense. */
  states: readonly VmState[];
  /** Whether it makes, changes or removes guests. */
  manages: boolean;
  /** What is lost: what was not written yet, or data for good. */
  loses: "" | "unwritten" | "data";
}

export const DEEDS: Readonly<Record<Deed, About>> = {
  start: { icon: "start", states: ["stopped", "crashed"], manages: false, loses: "" },
  resume: { icon: "start", states: ["paused", "suspended"], manages: false, loses: "" },
  shutdown: { icon: "power", states: ["running"], manages: false, loses: "" },
  reboot: { icon: "reboot", states: ["running"], manages: false, loses: "" },
  pause: { icon: "pause", states: ["running"], manages: false, loses: "" },
  suspend: { icon: "pause", states: ["running", "paused"], manages: false, loses: "" },
  reset: { icon: "reboot", states: ["running", "paused"], manages: false, loses: "unwritten" },
  stop: { icon: "stop", states: ["running", "paused", "starting", "stopping", "suspending", "suspended"], manages: false, loses: "unwritten" },
  remove: { icon: "remove", states: ["stopped", "crashed", "running", "paused", "suspended"], manages: true, loses: "data" },
};

/** The deeds that somebody may do and that at least one of the guests can take. */
export function possible(vms: readonly Vm[], powers: Powers): Deed[] {
  const all = Object.keys(DEEDS) as Deed[];
  const may = (deed: Deed) => (DEEDS[deed].manages ? powers.manage : powers.operate);
  return all.filter((deed) => may(deed) && vms.some((vm) => DEEDS[deed].states.includes(vm.status.state)));
}

export function takers(deed: Deed, vms: readonly Vm[]): Vm[] {
  return vms.filter((vm) => DEEDS[deed].states.includes(vm.status.state));
}

async function one(deed: Deed, vm: Vm): Promise<void> {
  if (deed === "remove") await change("DELETE", at("vms", vm.id), { query: { force: true } });
  // Only these take a body.
  else await change("POST", at("vms", vm.id, deed), deed === "shutdown" || deed === "reboot" ? { body: {} } : {});
}

/** How many requests are on their way at once. */
const TOGETHER = 8;

/** Does it to all of them; what is refused is said. What became of what was accepted, its tasks tell. */
export async function perform(deed: Deed, vms: readonly Vm[]): Promise<void> {
  const waiting = [...vms];
  const refused: string[] = [];
  const worker = async () => {
    for (let vm = waiting.shift(); vm; vm = waiting.shift()) {
      const { name } = vm;
      await one(deed, vm).catch((error: unknown) => refused.push(`${name}: ${refusal(error).message}`));
    }
  };
  await Promise.all(Array.from({ length: TOGETHER }, worker));
  if (refused.length > 0) toast("risk", t("deeds.refused", { n: refused.length }), refused.slice(0, 3).join("\n"));
}
