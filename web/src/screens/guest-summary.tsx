// What a guest is and does, at a glance.

import { Link } from "@tanstack/react-router";
import { lazy, Suspense, useMemo } from "react";

import { at, type Vm } from "../api/client";
import { selectEvents, selectLoads, useLive } from "../api/live";
import { useAgent } from "../api/queries";
import { Card, Copy, Fact, Facts, Labels, Loading, When } from "../parts/basics";
import type { Colour } from "../parts/chart";
import { Meter } from "../parts/meter";
import { bytes, number, percent, rate, t } from "../text";
import { EventLine } from "../parts/event-line";
import { imageOf } from "./guest-columns";
import type { Group } from "./usage";

const Usage = lazy(() => import("./usage"));

export function Summary({ vm }: { vm: Vm }) {
  const running = vm.status.state === "running";
  return (
    <>
      {running && <Meters vm={vm} />}
      <Past vm={vm} />
      <div className="columns">
        <About vm={vm} />
        <Inside vm={vm} />
        <Latest vm={vm} />
      </div>
    </>
  );
}

function Meters({ vm }: { vm: Vm }) {
  const load = useLive(selectLoads).get(vm.id);
  const cpus = vm.cpus ?? 1;
  return (
    <div className="meters">
      <Card>
        <Meter name={t("cpu")} used={load?.cpu ?? 0} of={cpus} text={load ? percent(load.cpu / cpus) : "–"} under={t("cpus.of", { n: cpus })} />
      </Card>
      <Card>
        <Meter name={t("memory")} used={load?.memory ?? 0} of={Number(vm.memory)} text={bytes(load?.memory)} under={t("memory.of", { of: bytes(vm.memory) })} />
      </Card>
      <Card>
        <div className="meter"><div className="meter-words"><span>{t("disks")}</span><strong>{rate(load?.disk ?? 0)}</strong></div></div>
        <p className="hint">{t("meter.rw")}</p>
      </Card>
      <Card>
        <div className="meter"><div className="meter-words"><span>{t("net")}</span><strong>{rate(load?.net ?? 0)}</strong></div></div>
        <p className="hint">{t("meter.sr")}</p>
      </Card>
    </div>
  );
}

/** Where processors' time goes, and in which colours: what is nothing to do is grey. */
const STACK = ["cpu_run", "cpu_ready", "cpu_limited", "cpu_memory", "cpu_io", "cpu_halted"];
const STACK_COLOURS: readonly Colour[] = ["--chart-1", "--chart-2", "--chart-4", "--chart-5", "--chart-6", "--chart-3"];

function Past({ vm }: { vm: Vm }) {
  const [cpus, memory] = [vm.cpus ?? 1, Number(vm.memory)];
  const groups = useMemo((): readonly Group[] => [
    { title: "cpu", unit: "processors", series: STACK, colours: STACK_COLOURS, stacked: true, most: cpus },
    { title: "memory", unit: "bytes", series: ["memory"], most: memory },
    { title: "disks", unit: "bytes/s", series: ["disk_read", "disk_written"] },
    { title: "usage.operations", unit: "1/s", series: ["disk_reads", "disk_writes"] },
    { title: "net", unit: "bytes/s", series: ["net_received", "net_sent"] },
  ], [cpus, memory]);
  return <Suspense fallback={<Loading />}><Usage key={vm.id} path={at("vms", vm.id)} groups={groups} /></Suspense>;
}

function About({ vm }: { vm: Vm }) {
  const image = imageOf(vm);
  return (
    <Card title={t("guest.about")}>
      <Facts>
        <Fact name={t("cpus")}>{number(vm.cpus ?? 1)}</Fact>
        <Fact name={t("memory")}>{bytes(vm.memory)}</Fact>
        {image && <Fact name={t("image")}><bdi>{image}</bdi></Fact>}
        {vm.template && <Fact name={t("template")}><bdi>{vm.template}</bdi></Fact>}
        {vm.boot?.kernel && <Fact name={t("kernel")}><code><bdi>{vm.boot.kernel}</bdi></code></Fact>}
        <Fact name={t("engine")}>{t(`engine.${vm.status.engine ?? vm.engine ?? "auto"}`)}</Fact>
        <Fact name={t("autostart")}>{t(vm.autostart?.enabled ? "yes" : "no")}</Fact>
        <Fact name={t("on-crash")}>{t(`on-end.${vm.on_crash ?? "restart"}`)}</Fact>
        <Fact name={t("made")}><When time={vm.created} /></Fact>
        <Fact name={t("labels")}>{Object.keys(vm.labels ?? {}).length ? <Labels labels={vm.labels} /> : "–"}</Fact>
        <Fact name={t("id")}><code>{vm.id}</code> <Copy text={vm.id} /></Fact>
      </Facts>
    </Card>
  );
}

function Inside({ vm }: { vm: Vm }) {
  const running = vm.status.state === "running";
  const { data: agent, isLoading } = useAgent(vm.id, running);
  const addresses = (vm.nics ?? []).flatMap((nic) => [nic.address, nic.address6]).filter((one) => one != null);
  return (
    <Card title={t("guest.inside")}>
      <Facts>
        <Fact name={t("addresses")}>{addresses.length ? addresses.map((one) => <span key={one} className="block"><code>{one}</code> <Copy text={one} /></span>) : "–"}</Fact>
        {agent?.os && <Fact name={t("guest.os")}><bdi>{agent.os}</bdi></Fact>}
        {agent?.hostname && <Fact name={t("guest.hostname")}><bdi>{agent.hostname}</bdi></Fact>}
        {agent?.kernel && <Fact name={t("kernel")}><bdi>{agent.kernel}</bdi></Fact>}
        {(agent?.interfaces ?? []).map((one) => <Fact key={one.name} name={one.name}>{(one.addresses ?? []).map((address) => <code key={address} className="block"><bdi>{address}</bdi></code>)}</Fact>)}
      </Facts>
      {!agent && <p className="hint">{t(!running ? "agent.off" : isLoading ? "loading" : "agent.none")}</p>}
    </Card>
  );
}

function Latest({ vm }: { vm: Vm }) {
  const events = useLive(selectEvents).filter((event) => event.target?.endsWith(vm.id)).slice(0, 7);
  return (
    <Card title={t("overview.events")} actions={<Link to="/guests/$name/$tab" params={{ name: vm.name, tab: "events" }}>{t("events.all")}</Link>}>
      {events.length === 0 && <p className="hint">{t("events.none")}</p>}
      <ul className="lines">{events.map((event) => <li key={event.number}><EventLine event={event} /></li>)}</ul>
    </Card>
  );
}
