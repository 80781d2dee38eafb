// The networks of the host.

import { Link } from "@tanstack/react-router";
import { useState } from "react";

import { at, complete, type Schemas } from "../api/client";
import { useNetworks } from "../api/queries";
import { usePowers } from "../api/session";
import { Code, Empty, Loading, Problem, Screen } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Table } from "../parts/table";
import { number, t } from "../text";

type Kind = Schemas["NetworkKind"];
const KINDS: readonly Kind[] = ["nat", "routed", "isolated", "bridged", "user"];

export function Networks() {
  const { data, error, isLoading } = useNetworks();
  const { own } = usePowers();
  const [making, setMaking] = useState(false);
  const add = own && <button type="button" className="primary" onClick={() => setMaking(true)}><Icon name="add" />{t("network.create")}</button>;
  return (
    <Screen title={t("networks")} name={t("networks")} under={t("networks.under")} actions={add}>
      <Problem error={error} />
      {isLoading && <Loading />}
      {data?.length === 0 && <Empty icon="networks" title={t("networks.none")}><p>{t("networks.teach")}</p>{own && <Code label={t("command")} text="tessera network create lan --kind nat" />}</Empty>}
      {(data?.length ?? 0) > 0 && (
        <Table
          label={t("networks")} rows={data ?? []} id={(network) => network.id}
          columns={[
            { name: t("name"), main: true, of: (network) => <Link to="/networks/$name" params={{ name: network.name }}><bdi>{network.name}</bdi></Link> },
            { name: t("kind"), of: (network) => t(`network.kind.${network.kind}`) },
            { name: "IPv4", of: (network) => <code>{network.ipv4?.subnet ?? "–"}</code> },
            { name: "IPv6", of: (network) => <code>{network.ipv6?.subnet ?? "–"}</code> },
            { name: t("network.cards"), number: true, of: (network) => number(network.status.ports.length) },
            { name: t("forwards"), number: true, of: (network) => number((network.forwards ?? []).length) },
            { name: t("state"), of: (network) => (network.status.problems.length ? <span className="risk-words"><bdi>{network.status.problems.join(" ")}</bdi></span> : <span className="good-words">{t("network.good")}</span>) },
          ]}
        />
      )}
      {making && <NetworkDialog onClose={() => setMaking(false)} />}
    </Screen>
  );
}

function NetworkDialog({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [kind, setKind] = useState<Kind>("nat");
  const [subnet, setSubnet] = useState("");
  const [card, setCard] = useState("");
  const addresses = kind === "nat" || kind === "routed" || kind === "isolated";
  const { problem, busy, submit } = useSending(async () => {
    await complete("POST", at("networks"), { body: { name, kind, ...(addresses && subnet && { ipv4: { subnet } }), ...(kind === "bridged" && { interface: card }) } });
    onClose();
  });
  return (
    <Dialog title={t("network.create")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />
        <Choice label={t("kind")} value={kind} onChange={setKind} options={KINDS.map((one) => [one, t(`network.kind.${one}`)] as const)} hint={t(`network.kind.${kind}.words`)} error={problem?.at("/kind")} />
        {addresses && <Input label={t("subnet")} value={subnet} onChange={setSubnet} placeholder="10.10.0.0/24" hint={t("subnet.hint")} error={problem?.at("/ipv4")} />}
        {kind === "bridged" && <Input label={t("interface")} value={card} onChange={setCard} placeholder="eth0" error={problem?.at("/interface")} required />}
        <Wrong problem={problem} besides={["/name", "/kind", "/ipv4", "/interface"]} />
        <Buttons go={t("network.create")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
