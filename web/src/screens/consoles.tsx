// Several consoles side by side.

import { Link, useSearch } from "@tanstack/react-router";
import { lazy, Suspense } from "react";

import { selectVms, useLive } from "../api/live";
import { Empty, Loading, Screen, State } from "../parts/basics";
import { t } from "../text";

const Terminal = lazy(() => import("../parts/terminal"));

export function Consoles() {
  const { of = "" } = useSearch({ strict: false });
  const names = of.split(",").filter(Boolean);
  const vms = useLive(selectVms).filter((vm) => names.includes(vm.name)).slice(0, 6);
  return (
    <Screen title={t("consoles")} name={t("consoles")} full>
      {vms.length === 0 && <Empty icon="console" title={t("consoles.none")}><p>{t("consoles.teach")}</p></Empty>}
      <div className="consoles">
        {vms.map((vm) => (
          <section key={vm.id} aria-label={vm.name}>
            <h2><Link to="/guests/$name" params={{ name: vm.name }}><bdi>{vm.name}</bdi></Link> <State state={vm.status.state} /></h2>
            <Suspense fallback={<Loading />}><Terminal id={vm.id} name={vm.name} /></Suspense>
          </section>
        ))}
      </div>
    </Screen>
  );
}
