// What the machine has, what is promised, what is used, and what goes on.

import { Link } from "@tanstack/react-router";

import { at, type Vm } from "../api/client";
import { seriesOf, useHistory } from "../api/history";
import { type Live, selectEvents, selectLoads, selectTasks, selectVms, useLive } from "../api/live";
import { useAlarms, useHost } from "../api/queries";
import { usePowers } from "../api/session";
import { raisedOf } from "../parts/alarm";
import { Card, Code, Empty, Loading, Problem, Screen, State } from "../parts/basics";
import { Icon } from "../parts/icon";
import { Meter, Spark } from "../parts/meter";
import { Mosaic } from "../parts/mosaic";
import { action, CancelTask, isRunning, Progress } from "../parts/recent";
import { bytes, number, percent, rate, t } from "../text";
import { EventLine } from "../parts/event-line";

const selectStats = (live: Live) => live.stats;
const selectHost = (live: Live) => live.host;

export function Overview() {
  const { data: host, error } = useHost();
  const vms = useLive(selectVms);
  const { manage } = usePowers();
  if (!host) return <Screen title={t("overview")} name={t("overview")}>{error ? <Problem error={error} /> : <Loading />}</Screen>;
  const create = manage && <Link to="/create" className="button primary"><Icon name="add" />{t("create.title")}</Link>;
  const running = vms.filter((vm) => vm.status.state === "running").length;
  const under = t("overview.under", { n: vms.length, running, cpus: host.cpus, engine: host.engine.engine });
  return (
    <Screen title={<bdi>{host.name}</bdi>} name={t("overview")} under={under} actions={create}>
      <Alarms />
      <Meters host={host} vms={vms} />
      <p className="hint">{t("meter.hour")} <Link to="/host">{t("usage.more")}</Link></p>
      {vms.length === 0 ? <First manage={manage} /> : (
        <Card title={t("mosaic")} actions={<Legend />}><Mosaic /></Card>
      )}
      <div className="columns">
        <Running /><Top vms={vms} /><Latest />
      </div>
    </Screen>
  );
}

/** What is raised that nobody knows of, if anything is. */
function Alarms() {
  const { data } = useAlarms();
  const waiting = raisedOf(data ?? []).filter(({ one }) => !one.acknowledged);
  if (waiting.length === 0) return null;
  const critical = waiting.some(({ alarm }) => alarm.severity === "critical");
  return (
    <div className={critical ? "notice risk" : "notice"} role="status">
      <Icon name="bell" />
      <div>
        {waiting.slice(0, 5).map(({ alarm, one }) => <p key={`${alarm.name}${one.target}`}><strong><bdi>{one.name}</bdi></strong> · <bdi>{alarm.name}</bdi>: <bdi>{one.message}</bdi></p>)}
        <p><Link to="/alarms">{t("alarms.bell", { n: waiting.length })}</Link></p>
      </div>
    </div>
  );
}

function First({ manage }: { manage: boolean }) {
  return (
    <Card>
      <Empty icon="guests" title={t("guests.none")}>
        <p>{t(manage ? "guests.none.teach" : "guests.none.wait")}</p>
        {manage && <p><Link to="/create" className="button primary"><Icon name="add" />{t("create.title")}</Link></p>}
        {manage && <Code label={t("command")} text="tessera image build debian:13&#10;tessera vm create web --image debian:13 --net user --start" />}
      </Empty>
    </Card>
  );
}

function Legend() {
  const steps = ["off", "idle", "low", "mid", "high", "full", "crashed"] as const;
  return <ul className="legend">{steps.map((step) => <li key={step}><i className={`tile-${step}`} />{t(`legend.${step}`)}</li>)}</ul>;
}

function Meters({ host, vms }: { host: NonNullable<ReturnType<typeof useHost>["data"]>; vms: readonly Vm[] }) {
  const stats = useLive(selectStats);
  const last = useLive(selectHost);
  const { history } = useHistory(at("host"), "hour", 360);
  const hour = (...names: string[]) => sum(names.map((name) => seriesOf(history, name)?.avg ?? []));
  const alive = vms.filter((vm) => vm.status.state !== "stopped" && vm.status.state !== "crashed");
  const promised = { cpus: alive.reduce((sum, vm) => sum + (vm.cpus ?? 1), 0), memory: alive.reduce((sum, vm) => sum + Number(vm.memory), 0) };
  const memory = Number(stats?.memory ?? host.memory);
  const used = memory - Number(stats?.memory_available ?? host.memory_available);
  const storage = Number(stats?.storage ?? host.storage);
  const stored = storage - Number(stats?.storage_available ?? host.storage_available);
  return (
    <div className="meters">
      <Card>
        <Meter name={t("cpu")} used={last?.cpu ?? 0} of={host.cpus} promised={promised.cpus} text={last ? percent(last.cpu / host.cpus) : "–"} under={t("meter.cpu", { promised: promised.cpus, of: host.cpus })} />
        <Spark values={hour("cpu_busy")} most={host.cpus} label={t("spark.cpu")} />
      </Card>
      <Card>
        <Meter name={t("memory")} used={used} of={memory} promised={promised.memory} text={bytes(used)} under={t("meter.memory", { promised: bytes(promised.memory), of: bytes(memory) })} />
        <Spark values={hour("memory_used")} most={memory} label={t("spark.memory")} />
      </Card>
      <Card>
        <Meter name={t("storage")} used={stored} of={storage} text={bytes(stored)} under={t("meter.storage", { free: bytes(storage - stored), of: bytes(storage) })} />
        <p className="hint">{t("meter.disk", { rate: rate(last?.disk ?? 0) })}</p>
        <Spark values={hour("disk_read", "disk_written")} label={t("spark.disk")} />
      </Card>
      <Card>
        <div className="meter"><div className="meter-words"><span>{t("net")}</span><strong>{rate(last?.net ?? 0)}</strong></div></div>
        <p className="hint">{t("meter.net")}</p>
        <Spark values={hour("net_received", "net_sent")} label={t("spark.net")} />
      </Card>
    </div>
  );
}

/** The values of several series together, where all are known. */
function sum(series: readonly (readonly (number | null)[])[]): (number | null)[] {
  return (series[0] ?? []).map((_, n) => series.reduce<number | null>((all, one) => {
    const value = one[n] ?? null;
    return all === null || value === null ? null : all + value;
  }, 0));
}

function Running() {
  const running = useLive(selectTasks).filter(isRunning);
  return (
    <Card title={t("overview.tasks")} actions={<Link to="/tasks">{t("tasks.all")}</Link>}>
      {running.length === 0 && <p className="hint">{t("overview.quiet")}</p>}
      <ul className="lines">
        {running.slice(0, 6).map((task) => (
          <li key={task.id}><span className="grow">{action(task)} <bdi>{task.name}</bdi></span><Progress task={task} /><CancelTask task={task} /></li>
        ))}
      </ul>
    </Card>
  );
}

function Top({ vms }: { vms: readonly Vm[] }) {
  const loads = useLive(selectLoads);
  const known = vms.map((vm) => ({ vm, cpu: loads.get(vm.id)?.cpu ?? 0 }));
  const top = known.filter((one) => one.vm.status.state === "running").sort((a, b) => b.cpu - a.cpu || (a.vm.name < b.vm.name ? -1 : 1)).slice(0, 6);
  return (
    <Card title={t("overview.top")} actions={<Link to="/guests">{t("guests.all")}</Link>}>
      {top.length === 0 && <p className="hint">{t("overview.none-runs")}</p>}
      <ul className="lines">
        {top.map(({ vm, cpu }) => (
          <li key={vm.id}>
            <span className="grow"><Link to="/guests/$name" params={{ name: vm.name }}><bdi>{vm.name}</bdi></Link></span>
            <State state={vm.status.state} />
            <span className="number wide-number">{t("cpus.used", { n: number(cpu, 2) })}</span>
          </li>
        ))}
      </ul>
    </Card>
  );
}

function Latest() {
  const events = useLive(selectEvents);
  return (
    <Card title={t("overview.events")} actions={<Link to="/events">{t("events.all")}</Link>}>
      {events.length === 0 && <p className="hint">{t("events.none")}</p>}
      <ul className="lines">{events.slice(0, 6).map((event) => <li key={event.number}><EventLine event={event} /></li>)}</ul>
    </Card>
  );
}
