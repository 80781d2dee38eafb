// One network: who is on it, which addresses they have, and which ports lead to them.

import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";

import { at, complete, getVersion, type Schemas } from "../api/client";
import { selectVms, useLive } from "../api/live";
import { type NetworkInfo, useLeases, useNetworks } from "../api/queries";
import { usePowers } from "../api/session";
import { Ask } from "../parts/ask";
import { Card, Empty, Fact, Facts, Loading, Problem, Screen, When } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Table } from "../parts/table";
import { bytes, rate, t } from "../text";

type Forward = Schemas["Forward"];

async function setForwards(network: NetworkInfo, forwards: Forward[]): Promise<void> {
  const { version } = await getVersion(at("networks", network.id));
  await complete("PATCH", at("networks", network.id), { body: { forwards }, version });
}

export function Network() {
  const { name = "" } = useParams({ strict: false });
  const { data, error, isLoading } = useNetworks();
  const { own } = usePowers();
  const navigate = useNavigate();
  const [asked, setAsked] = useState<"remove" | "forward" | { leave: number }>();
  const network = data?.find((one) => one.name === name);
  if (!network) return <Screen title={<bdi>{name}</bdi>} name={name}>{isLoading ? <Loading /> : <><Problem error={error} /><Empty icon="networks" title={t("network.absent")}><p><Link to="/networks">{t("networks")}</Link></p></Empty></>}</Screen>;
  const close = () => setAsked(undefined);
  const forwards = (network.forwards ?? []).map((forward, n) => ({ forward, n }));
  const carries = network.kind === "nat" || network.kind === "routed" || network.kind === "user";
  return (
    <Screen
      title={<bdi>{network.name}</bdi>} name={network.name} under={t(`network.kind.${network.kind}.words`)}
      actions={own && <button type="button" className="risky" onClick={() => setAsked("remove")}><Icon name="remove" />{t("remove")}</button>}
    >
      {network.status.problems.map((one) => <div key={one} className="notice risk" role="alert"><Icon name="warning" /><p><bdi>{one}</bdi></p></div>)}
      <Card>
        <Facts>
          <Fact name={t("kind")}>{t(`network.kind.${network.kind}`)}</Fact>
          {network.ipv4 && <Fact name="IPv4"><code>{network.ipv4.subnet}</code></Fact>}
          {network.ipv4?.gateway && <Fact name={t("gateway")}><code>{network.ipv4.gateway}</code></Fact>}
          {network.ipv6 && <Fact name="IPv6"><code>{network.ipv6.subnet}</code></Fact>}
          {network.bandwidth != null && <Fact name={t("bandwidth")}>{t("bandwidth.divided.each-way", { all: rate(network.bandwidth) })}</Fact>}
          {network.interface && <Fact name={t("interface")}><code>{network.interface}</code></Fact>}
          <Fact name="DNS">{network.dns?.enabled === false ? t("no") : (network.dns?.domain ?? `${network.name}.internal`)}</Fact>
          <Fact name={t("made")}><When time={network.created} /></Fact>
        </Facts>
      </Card>
      <Ports network={network} />
      {carries && (
        <Card title={t("forwards")} actions={own && <button type="button" onClick={() => setAsked("forward")}><Icon name="add" />{t("forward.add")}</button>}>
          {forwards.length === 0 ? <p className="hint">{t("forwards.none")}</p> : (
            <Table
              label={t("forwards")} rows={forwards} id={({ n }) => String(n)}
              columns={[
                { name: t("forward.from"), main: true, of: ({ forward }) => <code>{forward.host_address}:{forward.host_port}/{forward.protocol}</code> },
                { name: t("forward.to"), of: ({ forward }) => <code>{forward.guest_address ?? t("guest")}:{forward.guest_port}</code> },
                { name: "", of: ({ n }) => own && <button type="button" className="plain small" onClick={() => setAsked({ leave: n })}><Icon name="close" size={12} />{t("remove")}</button> },
              ]}
            />
          )}
        </Card>
      )}
      <Leases network={network.name} />
      {asked === "remove" && <Ask title={t("remove.title", { name: network.name })} words={t("network.remove.words")} go={t("remove")} onClose={close} do={async () => { await complete("DELETE", at("networks", network.id)); void navigate({ to: "/networks" }); }} />}
      {asked === "forward" && <ForwardDialog network={network} onClose={close} />}
      {typeof asked === "object" && <Ask title={t("forward.remove")} words={t("forward.remove.words")} go={t("remove")} onClose={close} do={() => setForwards(network, (network.forwards ?? []).filter((_, n) => n !== asked.leave))} />}
    </Screen>
  );
}

function Ports({ network }: { network: NetworkInfo }) {
  const vms = useLive(selectVms);
  const guest = (id: string) => vms.find((vm) => vm.id === id)?.name;
  return (
    <Card title={t("network.cards")}>
      {network.status.ports.length === 0 ? <p className="hint">{t("network.cards.none")}</p> : (
        <Table
          label={t("network.cards")} rows={network.status.ports} id={(port) => port.mac}
          columns={[
            { name: t("guest"), main: true, of: (port) => { const found = guest(port.vm); return found ? <Link to="/guests/$name" params={{ name: found }}><bdi>{found}</bdi></Link> : <bdi>{port.name ?? port.vm}</bdi>; } },
            { name: t("addresses"), of: (port) => <code>{[port.address, port.address6].filter(Boolean).join(" ") || "–"}</code> },
            { name: t("mac"), of: (port) => <code>{port.mac}</code> },
            { name: t("network.received"), number: true, of: (port) => (port.traffic ? bytes(port.traffic.received_bytes) : "–") },
            { name: t("network.sent"), number: true, of: (port) => (port.traffic ? bytes(port.traffic.sent_bytes) : "–") },
          ]}
        />
      )}
    </Card>
  );
}

function Leases({ network }: { network: string }) {
  const { data, error } = useLeases(network);
  return (
    <Card title={t("leases")}>
      <Problem error={error} />
      {(data ?? []).length === 0 ? <p className="hint">{t("leases.none")}</p> : (
        <Table
          label={t("leases")} rows={data ?? []} id={(lease) => lease.address}
          columns={[
            { name: t("address"), main: true, of: (lease) => <code>{lease.address}</code> },
            { name: t("guest.hostname"), of: (lease) => <bdi>{lease.hostname ?? "–"}</bdi> },
            { name: t("mac"), of: (lease) => <code>{lease.mac ?? "–"}</code> },
            { name: t("expires"), of: (lease) => (lease.expires ? <When time={lease.expires * 1000} /> : t("never")) },
          ]}
        />
      )}
    </Card>
  );
}

function ForwardDialog({ network, onClose }: { network: NetworkInfo; onClose: () => void }) {
  const [protocol, setProtocol] = useState<"tcp" | "udp">("tcp");
  const [host, setHost] = useState("");
  const [guest, setGuest] = useState("");
  const [address, setAddress] = useState(network.status.ports[0]?.address ?? "");
  const { problem, busy, submit } = useSending(async () => {
    const forward: Forward = { protocol, host_address: "0.0.0.0", host_port: Number(host), guest_port: Number(guest), ...(address && { guest_address: address }) };
    await setForwards(network, [...(network.forwards ?? []), forward]);
    onClose();
  });
  return (
    <Dialog title={t("forward.add")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Choice label={t("protocol")} value={protocol} onChange={setProtocol} options={[["tcp", "TCP"], ["udp", "UDP"]]} />
        <Input label={t("forward.from")} type="number" min={1} max={65535} value={host} onChange={setHost} required autoFocus error={problem?.at("/forwards")} />
        {network.kind !== "user" && <Input label={t("forward.guest")} value={address} onChange={setAddress} list={network.status.ports.flatMap((port) => port.address ?? [])} required />}
        <Input label={t("forward.port")} type="number" min={1} max={65535} value={guest} onChange={setGuest} required />
        <Wrong problem={problem} besides={["/forwards"]} />
        <Buttons go={t("forward.add")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
