// What a guest says: in a terminal while it runs, as text once it is off, or for those who may only look.

import { lazy, Suspense } from "react";

import type { Vm } from "../api/client";
import { usePowers } from "../api/session";
import { Loading } from "../parts/basics";
import { t } from "../text";

const Terminal = lazy(() => import("../parts/terminal"));
const LastWords = lazy(() => import("./last-words"));

export function GuestConsole({ vm }: { vm: Vm }) {
  const { operate } = usePowers();
  const alive = vm.status.state !== "stopped" && vm.status.state !== "crashed";
  return (
    <Suspense fallback={<Loading />}>
      {alive && operate ? <Terminal key={vm.id} id={vm.id} name={vm.name} /> : <LastWords vm={vm} why={t(alive ? "console.look" : "console.off")} />}
    </Suspense>
  );
}
