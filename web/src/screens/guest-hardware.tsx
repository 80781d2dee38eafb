// A guest's disks and network cards: what there is, what comes in, what goes out.

import { useState } from "react";

import { at, complete, type Schemas, type Vm } from "../api/client";
import { useNetworks, usePools, useVolumes } from "../api/queries";
import { usePowers } from "../api/session";
import { Card } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Check, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { SizeDialog } from "../parts/size-dialog";
import { Table } from "../parts/table";
import { toast } from "../parts/toasts";
import { bytes, number, rate, t, type Key } from "../text";

type Disk = Schemas["Disk"];
type Nic = Schemas["Nic"];

/** Gives the guest a device, or takes one away: at once if it runs. */
async function replace(vm: Vm, method: "POST" | "DELETE", path: string, rest: { body?: Disk | Nic; query?: { force: boolean } }): Promise<void> {
  await complete(method, path, rest);
  toast("good", t("edited", { name: vm.name }));
}

/** A disk's number: it stays the same while others come and go. */
function numberOf(disk: Disk, n: number): number {
  return disk.unit ?? n;
}

function diskName(disk: Disk, n: number): string {
  return t("disk.n", { n: String(numberOf(disk, n)) });
}

function isOwn(disk: Disk): boolean {
  return "image" in disk || "size" in disk;
}

function source(disk: Disk): string {
  if ("image" in disk) return disk.image;
  if ("size" in disk) return bytes(disk.size);
  return "volume" in disk ? `${disk.volume.pool ?? "default"}/${disk.volume.name}` : disk.file;
}

function kind(disk: Disk): string {
  return t("image" in disk ? "disk.image" : "size" in disk ? "disk.size" : "volume" in disk ? "disk.volume" : "disk.file");
}

type Limit = Schemas["Limit"] | null | undefined;

/** What a limit says. Answers have all of it; what is sent may be bytes each second alone. */
function limit(of: Limit): string {
  if (of === null || of === undefined) return "";
  if (typeof of !== "object") return rate(Number(of));
  const burst = (text: string | undefined) => (text === undefined ? "" : t("limit.burst", { burst: text }));
  const parts = [];
  if (of.bytes != null) parts.push(rate(Number(of.bytes)) + burst(of.bytes_burst == null ? undefined : bytes(of.bytes_burst)));
  if (of.operations != null) parts.push(t("limit.operations", { n: of.operations }) + burst(of.operations_burst == null ? undefined : number(of.operations_burst)));
  return parts.join(", ");
}

/** All limits of a device, each with what it is a limit of. */
function limits(all: [Key, Limit][]): string {
  return all.filter(([, of]) => of != null).map(([key, of]) => t(key, { limit: limit(of) })).join("; ") || "–";
}

function networkOf(nic: Nic): string {
  const network = nic.network ?? "user";
  return network === "user" ? t("nic.user") : "named" in network ? network.named : `tap ${network.tap}`;
}

export function Hardware({ vm }: { vm: Vm }) {
  const { manage } = usePowers();
  const [asked, setAsked] = useState<"disk" | "nic">();
  const [leaving, setLeaving] = useState<{ kind: "disk" | "nic"; n: number }>();
  const [growing, setGrowing] = useState<number>();
  const alive = vm.status.state !== "stopped" && vm.status.state !== "crashed";
  const disks = (vm.disks ?? []).map((disk, n) => ({ disk, n }));
  const nics = (vm.nics ?? []).map((nic, n) => ({ nic, n }));
  const deeds = (disk: Disk, n: number) => [
    // A file is not the host's to change.
    ...("file" in disk ? [] : [{ text: t("disk.grow"), icon: "up" as const, do: () => setGrowing(n) }]),
    { text: t(isOwn(disk) ? "disk.remove" : "disk.detach"), icon: "remove" as const, risky: isOwn(disk), do: () => setLeaving({ kind: "disk", n }) },
  ];
  const add = (what: "disk" | "nic") => manage && <button type="button" onClick={() => setAsked(what)}><Icon name="add" />{t(`${what}.add`)}</button>;
  return (
    <>
      {alive && manage && <p className="hint"><Icon name="info" /> {t("hotplug.words")}</p>}
      <Card title={t("disks")} actions={add("disk")}>
        {disks.length === 0 ? <p className="hint">{t("disks.none")}</p> : (
          <Table
            label={t("disks")} rows={disks} id={({ n }) => String(n)}
            columns={[
              { name: t("disk"), main: true, of: ({ disk, n }) => diskName(disk, n) },
              { name: t("kind"), of: ({ disk }) => kind(disk) },
              { name: t("source"), of: ({ disk }) => <bdi>{source(disk)}</bdi> },
              { name: t("access-mode"), of: ({ disk }) => t(disk.read_only ? "read-only" : "read-write") },
              { name: t("limit"), of: ({ disk }) => limits([["limit.all", disk.limit], ["limit.read", disk.read_limit], ["limit.write", disk.write_limit]]) },
              { name: t("serial"), of: ({ disk, n }) => <bdi>{disk.serial || `tessera-${String(numberOf(disk, n))}`}</bdi> },
              { name: "", of: ({ disk, n }) => manage && <Menu label={t("more-of", { name: diskName(disk, n) })} className="plain" items={deeds(disk, n)} /> },
            ]}
          />
        )}
      </Card>
      <Card title={t("nics")} actions={add("nic")}>
        {nics.length === 0 ? <p className="hint">{t("nics.none")}</p> : (
          <Table
            label={t("nics")} rows={nics} id={({ n }) => String(n)}
            columns={[
              { name: t("nic"), main: true, of: ({ n }) => `eth${String(n)}` },
              { name: t("network"), of: ({ nic }) => <bdi>{networkOf(nic)}</bdi> },
              { name: t("mac"), of: ({ nic }) => <code>{nic.mac}</code> },
              { name: t("addresses"), of: ({ nic }) => [nic.address, nic.address6].filter(Boolean).join(" ") || "–" },
              { name: t("limit"), of: ({ nic }) => limits([["limit.receive", nic.receive_limit], ["limit.send", nic.send_limit]]) },
              { name: t("forwards"), of: ({ nic }) => (nic.forwards ?? []).map((one) => `${one.address ?? "127.0.0.1"}:${String(one.host)} → ${String(one.guest)}`).join(", ") || "–" },
              { name: "", of: ({ n }) => manage && <Menu label={t("more-of", { name: `eth${String(n)}` })} className="plain" items={[{ text: t("nic.remove"), icon: "remove", do: () => setLeaving({ kind: "nic", n }) }]} /> },
            ]}
          />
        )}
      </Card>
      {asked === "disk" && <DiskDialog vm={vm} onClose={() => setAsked(undefined)} />}
      {asked === "nic" && <NicDialog vm={vm} onClose={() => setAsked(undefined)} />}
      {growing !== undefined && <GrowDialog vm={vm} n={growing} onClose={() => setGrowing(undefined)} />}
      {leaving && <Leaving vm={vm} {...leaving} onClose={() => setLeaving(undefined)} />}
    </>
  );
}

/** The size of a disk's volume, if whoever is here may see that. */
function useSize(vm: Vm, disk: Disk | undefined, n: number): Schemas["Size"] | undefined {
  const { own } = usePowers();
  const volume = disk && "volume" in disk ? disk.volume : undefined;
  const { data: volumes = [] } = useVolumes(own ? volume?.pool ?? "default" : undefined);
  const name = volume?.name ?? `vm-${vm.id}-${String(disk ? numberOf(disk, n) : n)}`;
  return volumes.find((one) => one.name === name)?.size;
}

function GrowDialog({ vm, n, onClose }: { vm: Vm; n: number; onClose: () => void }) {
  const disk = vm.disks?.[n];
  const now = useSize(vm, disk, n);
  const send = async (size: string) => {
    await complete("POST", at("vms", vm.id, "disks", String(disk ? numberOf(disk, n) : n), "grow"), { body: { size } });
    toast("good", t("edited", { name: vm.name }));
  };
  return <SizeDialog title={t("disk.grow.title", { name: disk ? diskName(disk, n) : "" })} words={t("disk.grow.words")} go={t("disk.grow")} now={now} send={send} onClose={onClose} />;
}

function Leaving({ vm, kind: what, n, onClose }: { vm: Vm; kind: "disk" | "nic"; n: number; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const [force, setForce] = useState(false);
  const alive = vm.status.state === "running";
  const disk = what === "disk" ? vm.disks?.[n] : undefined;
  const loses = disk !== undefined && isOwn(disk);
  const { problem, busy, submit } = useSending(async () => {
    const device = disk ? at("vms", vm.id, "disks", String(numberOf(disk, n))) : at("vms", vm.id, "nics", vm.nics?.[n]?.mac ?? "");
    await replace(vm, "DELETE", device, { query: { force } });
    onClose();
  });
  return (
    <Dialog title={t(what === "nic" ? "nic.remove" : loses ? "disk.remove" : "disk.detach")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t(what === "nic" ? "nic.remove.words" : loses ? "disk.remove.words" : "disk.detach.words")}</p>
        {loses && <Input label={t("type.name", { name: vm.name })} value={typed} onChange={setTyped} autoFocus />}
        {alive && <Check label={t("hotplug.force")} checked={force} onChange={setForce} />}
        <Wrong problem={problem} />
        <Buttons go={t(what === "nic" ? "nic.remove" : loses ? "disk.remove" : "disk.detach")} busy={busy} risky={loses} disabled={loses && typed !== vm.name} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function DiskDialog({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const { own } = usePowers();
  const [from, setFrom] = useState<"size" | "volume">("size");
  const [size, setSize] = useState("10GiB");
  const [pool, setPool] = useState("default");
  const [volume, setVolume] = useState("");
  const [readOnly, setReadOnly] = useState(false);
  const { data: pools = [] } = usePools(own);
  const { data: volumes = [] } = useVolumes(from === "volume" ? pool : undefined);
  const free = volumes.filter((one) => (one.used_by ?? []).length === 0);
  const { problem, busy, submit } = useSending(async () => {
    const disk: Disk = from === "size" ? { size } : { volume: { pool, name: volume || (free[0]?.name ?? "") }, ...(readOnly && { read_only: true }) };
    await replace(vm, "POST", at("vms", vm.id, "disks"), { body: disk });
    onClose();
  });
  return (
    <Dialog title={t("disk.add")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        {own && <Choice label={t("kind")} value={from} onChange={setFrom} options={[["size", t("disk.size")], ["volume", t("disk.volume")]]} />}
        {from === "size" && <Input label={t("size")} value={size} onChange={setSize} hint={t("size.hint")} error={problem?.at("/disks")} />}
        {from === "volume" && <Choice label={t("pool")} value={pool} onChange={setPool} options={pools.map((one) => [one.name, one.name] as const)} />}
        {from === "volume" && <Choice label={t("volume")} value={volume || (free[0]?.name ?? "")} onChange={setVolume} options={free.map((one) => [one.name, `${one.name} · ${bytes(one.size)}`] as const)} hint={free.length ? undefined : t("volumes.none-free")} error={problem?.at("/disks")} />}
        {from === "volume" && <Check label={t("read-only")} checked={readOnly} onChange={setReadOnly} />}
        <Wrong problem={problem} besides={["/disks"]} />
        <Buttons go={t("disk.add")} busy={busy} disabled={from === "volume" && free.length === 0} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function NicDialog({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const { data: networks = [] } = useNetworks();
  const [network, setNetwork] = useState("user");
  const [address, setAddress] = useState("");
  const [forwards, setForwards] = useState("");
  const { problem, busy, submit } = useSending(async () => {
    const ports = forwards.split(/[\s,]+/).filter(Boolean).map((one) => one.split(":").map(Number)).map(([host = 0, guest = 0]) => ({ host, guest }));
    const nic: Nic = network === "user"
      ? { network: "user", ...(ports.length > 0 && { forwards: ports }) }
      : { network: { named: network.slice(6) }, ...(address && { address }) };
    await replace(vm, "POST", at("vms", vm.id, "nics"), { body: nic });
    onClose();
  });
  return (
    <Dialog title={t("nic.add")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Choice label={t("network")} value={network} onChange={setNetwork} options={[["user", t("nic.user")], ...networks.map((one) => [`named:${one.name}`, `${one.name} · ${t(`network.kind.${one.kind}`)}`] as const)]} />
        {network === "user" && <Input label={t("forwards")} value={forwards} onChange={setForwards} placeholder="2222:22" hint={t("forwards.hint")} error={problem?.at("/nics")} />}
        {network !== "user" && <Input label={t("address")} value={address} onChange={setAddress} hint={t("address.hint")} error={problem?.at("/nics")} />}
        <Wrong problem={problem} besides={["/nics"]} />
        <Buttons go={t("nic.add")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
