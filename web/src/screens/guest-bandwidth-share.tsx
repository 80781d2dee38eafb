// What a guest is promised of the storage pools and networks that it uses, and what it does there.

import { useState } from "react";

import { at, complete, getVersion, type Schemas, type Vm } from "../api/client";
import { usePowers } from "../api/session";
import { Card, Fact, Facts } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Table } from "../parts/table";
import { toast } from "../parts/toasts";
import { number, percent, rate, t } from "../text";
import { sizeText } from "./guest-dialogs";

type BandwidthReport = Schemas["BandwidthReport"];
type BandwidthShareOf = Schemas["BandwidthShare"];

/** Of what the share is. */
type Kind = "disk" | "network";

const USUAL: BandwidthShareOf = { reserve: 0, weight: 1000 };

export function BandwidthShare({ vm, kind, report }: { vm: Vm; kind: Kind; report: BandwidthReport | undefined }) {
  const { manage } = usePowers();
  const [editing, setEditing] = useState(false);
  const { promised, places } = report ?? { promised: USUAL, places: [] };
  const usual = promised.reserve === 0 && promised.weight === 1000 && promised.limit == null;
  // Nobody has to hear of what is not divided, and of which nothing is promised.
  if (usual && !places.some((place) => place.bandwidth != null || place.operations != null)) return null;
  const flows = places.flatMap((place) => place.flows.map((flow) => ({ place, flow })));
  const unsaid = places.filter((place) => place.bandwidth == null).map((place) => place.name);
  const edit = manage && <button type="button" onClick={() => setEditing(true)}><Icon name="edit" />{t(`bandwidth.change.${kind}`)}</button>;
  return (
    <Card title={t(`bandwidth.promised.${kind}`)} actions={edit}>
      <Facts>
        <Fact name={t("share.reserve")}>{rate(Number(promised.reserve ?? 0))}</Fact>
        <Fact name={t("share.weight")}>{number(promised.weight ?? 1000)}</Fact>
        <Fact name={t("share.limit")}>{promised.limit == null ? t("share.no-limit") : rate(Number(promised.limit))}</Fact>
        {places.map((place) => place.bandwidth != null && (
          <Fact key={place.name} name={t(`bandwidth.place.${kind}`)}><bdi>{place.name}</bdi>: {t("bandwidth.carries", { all: rate(Number(place.bandwidth)), reserved: rate(Number(place.reserved)) })}</Fact>
        ))}
      </Facts>
      {flows.length > 0 && (
        <Table
          label={t(`bandwidth.promised.${kind}`)} rows={flows} id={({ place, flow }) => `${place.name} ${flow.way}`}
          columns={[
            { name: t(`bandwidth.place.${kind}`), main: true, of: ({ place, flow }) => <><bdi>{place.name}</bdi> {t(`bandwidth.way.${flow.way}`)}</> },
            { name: t("bandwidth.does"), number: true, of: ({ flow }) => rate(flow.bytes) },
            { name: t("bandwidth.may"), number: true, of: ({ flow }) => (flow.allowed == null ? "–" : rate(Number(flow.allowed))) },
            { name: t("bandwidth.waited"), number: true, of: ({ flow }) => percent(flow.waited) },
          ]}
        />
      )}
      {unsaid.length > 0 && <p className="hint">{t("bandwidth.unsaid", { names: unsaid.join(", ") })}</p>}
      {editing && <BandwidthDialog vm={vm} kind={kind} onClose={() => setEditing(false)} />}
    </Card>
  );
}

function BandwidthDialog({ vm, kind, onClose }: { vm: Vm; kind: Kind; onClose: () => void }) {
  const field = `${kind}_share` as const;
  const before: BandwidthShareOf = vm[field] ?? USUAL;
  const [reserve, setReserve] = useState(sizeText(before.reserve ?? 0));
  const [weight, setWeight] = useState(String(before.weight ?? 1000));
  const [limit, setLimit] = useState(before.limit == null ? "" : sizeText(before.limit));
  const { problem, busy, submit } = useSending(async () => {
    const { version } = await getVersion(at("vms", vm.id));
    const share = { reserve: reserve || 0, weight: Number(weight), limit: limit || null };
    await complete("PATCH", at("vms", vm.id), { body: { [field]: share }, version });
    toast("good", t("edited", { name: vm.name }));
    onClose();
  });
  const [inReserve, inWeight, inLimit] = [`/${field}/reserve`, `/${field}/weight`, `/${field}/limit`];
  return (
    <Dialog title={t(`bandwidth.edit.${kind}`, { name: vm.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("share.reserve")} value={reserve} onChange={setReserve} hint={t(`bandwidth.reserve.hint.${kind}`)} error={problem?.at(inReserve)} autoFocus />
        <Input label={t("share.weight")} type="number" min={1} value={weight} onChange={setWeight} hint={t("share.weight.hint")} error={problem?.at(inWeight)} required />
        <Input label={t("share.limit")} value={limit} onChange={setLimit} hint={t("bandwidth.limit.hint")} error={problem?.at(inLimit)} />
        <Wrong problem={problem} besides={[inReserve, inWeight, inLimit]} />
        <Buttons go={t("save")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
