// The machine that all this runs on.

import { lazy, Suspense, useMemo } from "react";

import { at } from "../api/client";
import { type HostInfo, useHost } from "../api/queries";
import { usePowers } from "../api/session";
import { Card, Code, Fact, Facts, Loading, Problem, Screen, When } from "../parts/basics";
import { Icon } from "../parts/icon";
import { Table } from "../parts/table";
import { bytes, number, t, told } from "../text";
import { MemoryPool } from "./memory-pool";
import type { Group } from "./usage";

const Usage = lazy(() => import("./usage"));

export function Host() {
  const { data: host, error } = useHost();
  const { own } = usePowers();
  if (!host) return <Screen title={t("host")} name={t("host")}>{error ? <Problem error={error} /> : <Loading />}</Screen>;
  return (
    <Screen title={<bdi>{host.name}</bdi>} name={t("host")} under={t("host.under")} actions={own && <button type="button" onClick={() => location.assign(at("host", "report"))}><Icon name="download" />{t("host.report")}</button>}>
      <Past host={host} />
      <div className="columns two">
        <Card title={t("host.machine")}>
          <Facts>
            <Fact name={t("host.processor")}>{host.processor}</Fact>
            <Fact name={t("cpus")}>{number(host.cpus)}</Fact>
            <Fact name={t("host.nodes")}>{number(host.nodes)}{host.nodes > 1 && (host.numa ?? []).map((node) => <span key={node.number} className="hint block">{t("host.node", { n: node.number, cpus: node.cpus.length, memory: bytes(node.memory) })}</span>)}</Fact>
            <Fact name={t("memory")}>{bytes(host.memory)}</Fact>
            <Fact name={t("host.kernel")}>{host.kernel}</Fact>
            <Fact name={t("host.room")}>{t("free-of", { free: bytes(host.storage_available), of: bytes(host.storage) })}</Fact>
          </Facts>
        </Card>
        <Card title={t("host.daemon")}>
          <Facts>
            <Fact name={t("host.version")}>{host.version}</Fact>
            <Fact name={t("host.started")}><When time={host.started} /></Fact>
            <Fact name={t("host.engine")}>{t(`engine.${host.engine.engine}`)}{host.engine.why && <span className="hint block"><bdi>{host.engine.why}</bdi></span>}</Fact>
            <Fact name={t("id")}><code>{host.id}</code></Fact>
            <Fact name={t("host.pages")}>{(host.pages ?? []).map((page) => <bdi key={page} className="block">{page}</bdi>)}</Fact>
          </Facts>
        </Card>
      </div>
      <MemoryPool />
      {(host.disks ?? []).length > 0 && (
        <Card title={t("host.disks")}>
          <Table
            label={t("host.disks")} rows={host.disks ?? []} id={(disk) => disk.name}
            columns={[
              { name: t("name"), main: true, of: (disk) => <bdi>{disk.name}</bdi> },
              { name: t("size"), number: true, of: (disk) => bytes(disk.size) },
              { name: t("kind"), of: (disk) => t(disk.rotational ? "host.disk.turns" : "host.disk.solid") },
              { name: t("host.disk.model"), of: (disk) => <bdi>{disk.model}</bdi> },
              { name: t("host.disk.use"), of: (disk) => (disk.mounts ?? []).map((mount) => <bdi key={mount.device + mount.path} className="block">{`${mount.path} (${mount.device})`}</bdi>) },
            ]}
          />
        </Card>
      )}
      {(host.nics ?? []).length > 0 && (
        <Card title={t("host.nics")}>
          <Table
            label={t("host.nics")} rows={host.nics ?? []} id={(nic) => nic.name}
            columns={[
              { name: t("name"), main: true, of: (nic) => <bdi>{nic.name}</bdi> },
              { name: t("kind"), of: (nic) => told("host.nic.kind", nic.kind || "card", nic.kind ?? "") },
              { name: t("state"), of: (nic) => told("host.nic.state", nic.state, nic.state) },
              { name: t("host.nic.speed"), number: true, of: (nic) => (nic.speed ? t("host.nic.mbit", { n: nic.speed }) : "") },
              { name: t("host.nic.bridge"), of: (nic) => <bdi>{nic.bridge}</bdi> },
              { name: t("mac"), of: (nic) => <code>{nic.mac}</code> },
              { name: t("addresses"), of: (nic) => (nic.addresses ?? []).map((address) => <bdi key={address} className="block">{address}</bdi>) },
            ]}
          />
        </Card>
      )}
      <Card title={t("host.api")}>
        <p>{t("host.api.words")}</p>
        <Code label={t("api.call")} text={`curl -H "Authorization: Bearer $TOKEN" ${location.origin}/api/v1/host`} />
        <p><a href="/api/v1/openapi.json">/api/v1/openapi.json</a> · <a href="/metrics">/metrics</a> · <a href="/ca.pem">/ca.pem</a></p>
      </Card>
    </Screen>
  );
}

function Past({ host: { cpus, memory, storage } }: { host: HostInfo }) {
  const [all, room] = [Number(memory), Number(storage)];
  const groups = useMemo((): readonly Group[] => [
    { title: "cpu", unit: "processors", series: ["cpu_busy", "cpu_stolen"], stacked: true, most: cpus },
    { title: "memory", unit: "bytes", series: ["memory_used"], most: all },
    { title: "storage", unit: "bytes", series: ["storage_used"], most: room },
    { title: "disks", unit: "bytes/s", series: ["disk_read", "disk_written"] },
    { title: "net", unit: "bytes/s", series: ["net_received", "net_sent"] },
  ], [cpus, all, room]);
  return <Suspense fallback={<Loading />}><Usage path={at("host")} groups={groups} /></Suspense>;
}
