// One guest: what it is, what can be done to it, its console and its definition.

import { useParams } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useState } from "react";

import { text, type Vm } from "../api/client";
import { useGuests } from "../api/guests";
import { bytes, t } from "../text";
import { Verbs } from "../verbs";

const Console = lazy(() => import("../console"));

export function Guest() {
  const { name } = useParams({ strict: false });
  const { list, link } = useGuests();
  const vm = list.find((vm) => vm.name === name || vm.id === name);
  if (!vm) return <p className="empty">{t(link === "live" ? "absent" : "connecting")}</p>;
  const { status } = vm;
  const definition = Object.fromEntries(Object.entries(vm).filter(([key]) => !["id", "created", "status"].includes(key)));
  const runs = status.state === "running" || status.state === "paused";
  return (
    <section className="screen guest">
      <div className="tools">
        <h1><bdi>{vm.name}</bdi></h1>
        <span className={`state ${status.state}`}>{t(status.state)}</span>
        <Verbs guests={[vm]} />
      </div>
      <dl>
        <div><dt>{t("cpus")}</dt><dd>{vm.cpus}</dd></div>
        <div><dt>{t("memory")}</dt><dd>{bytes(Number(vm.memory))}</dd></div>
        <div><dt>{t("since")}</dt><dd>{new Date(status.since).toLocaleString()}</dd></div>
        {vm.description && <div><dt>{t("description")}</dt><dd><bdi>{vm.description}</bdi></dd></div>}
        {status.pending_restart && <div><dt>{t("definition")}</dt><dd>{t("restart")}</dd></div>}
      </dl>
      <h2>{t("console")}</h2>
      {runs ? <Suspense fallback={<p>{t("connecting")}</p>}><Console key={vm.id} id={vm.id} name={vm.name} /></Suspense> : <LastWords vm={vm} />}
      <details><summary>{t("definition")}</summary><pre tabIndex={0}>{JSON.stringify(definition, null, 2)}</pre></details>
    </section>
  );
}

/** What a guest that does not run said last, as text. */
function LastWords({ vm }: { vm: Vm }) {
  const [said, setSaid] = useState("");
  useEffect(() => {
    let here = true;
    text(`/vms/${vm.id}/console/log`).then((log) => { if (here) setSaid(log.slice(-20000)); }, (error: Error) => { if (here) setSaid(error.message); });
    return () => { here = false; };
  }, [vm.id, vm.status.state]);
  return <><p className="hint">{t("off")}</p><pre tabIndex={0} className="log">{said}</pre></>;
}
