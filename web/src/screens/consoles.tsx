// Several consoles side by side.

import { Link, useSearch } from "@tanstack/react-router";
import { selectVms, useLive } from "../api/live";
import { Empty, Screen, State } from "../parts/basics";
import { t } from "../text";
import { GuestConsole } from "./guest-console";

export function Consoles() {
  const { of = "" } = useSearch({ strict: false });
  const names = of.split(",").filter(Boolean);
  const vms = useLive(selectVms).filter((vm) => names.includes(vm.name)).slice(0, 6);
  return (
    <Screen title={t("consoles")} name={t("consoles")} under={vms.length > 0 && t("console.keys")} full>
      {vms.length === 0 && <Empty icon="console" title={t("consoles.none")}><p>{t("consoles.teach")}</p></Empty>}
      <div className="consoles">
        {vms.map((vm) => (
          <section key={vm.id} aria-label={vm.name}>
            <h2><Link to="/guests/$name" params={{ name: vm.name }}><bdi>{vm.name}</bdi></Link> <State state={vm.status.state} /></h2>
            <GuestConsole vm={vm} />
          </section>
        ))}
      </div>
    </Screen>
  );
}
