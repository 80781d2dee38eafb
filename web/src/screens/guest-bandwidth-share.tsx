// What a guest is promised of the storage pools and networks that it uses, and what it does there.

import { useState } from "react";

import type { Schemas, Vm } from "../api/client";
import { usePowers } from "../api/session";
import { Card, Fact, Facts } from "../parts/basics";
import { Icon } from "../parts/icon";
import { Table } from "../parts/table";
import { number, percent, rate, t } from "../text";
import { type Group, GroupFacts, isShared } from "./group-shares";
import { isUsual, ShareInBytesDialog, USUAL } from "./share-dialog";

type BandwidthReport = Schemas["BandwidthReport"];

/** Of what the share is. */
type Kind = "disk" | "network";

export function BandwidthShare({ vm, kind, report, groups }: { vm: Vm; kind: Kind; report: BandwidthReport | undefined; groups: Group[] }) {
  const { manage } = usePowers();
  const [editing, setEditing] = useState(false);
  const { promised, places } = report ?? { promised: USUAL, places: [] };
  // Nobody has to hear of what is not divided, and of which nothing is promised.
  const field = `${kind}_share` as const;
  if (isUsual(promised) && !isShared(groups, field) && !places.some((place) => place.bandwidth != null || place.operations != null)) return null;
  // What a group does on all of the places that this guest uses.
  const does = (group: Group) => (kind === "disk" ? group.pools : group.networks)?.filter((one) => places.some((place) => place.name === one.name)).reduce((sum, one) => sum + one.bytes, 0) ?? 0;
  const flows = places.flatMap((place) => place.flows.map((flow) => ({ place, flow })));
  const unsaid = places.filter((place) => place.bandwidth == null).map((place) => place.name);
  const edit = manage && <button type="button" onClick={() => setEditing(true)}><Icon name="edit" />{t(`bandwidth.change.${kind}`)}</button>;
  return (
    <Card title={t(`bandwidth.promised.${kind}`)} actions={edit}>
      <Facts>
        <Fact name={t("share.reserve")}>{rate(Number(promised.reserve ?? 0))}</Fact>
        <Fact name={t("share.weight")}>{number(promised.weight ?? 1000)}</Fact>
        <Fact name={t("share.limit")}>{promised.limit == null ? t("share.no-limit") : rate(Number(promised.limit))}</Fact>
        <GroupFacts groups={groups} field={field} shown={rate} has={does} />
        {places.map((place) => place.bandwidth != null && (
          <Fact key={place.name} name={t(`bandwidth.place.${kind}`)}><bdi>{place.name}</bdi>: {t("bandwidth.carries", { all: rate(Number(place.bandwidth)), reserved: rate(Number(place.reserved)) })}</Fact>
        ))}
        {places.map((place) => (place.others ?? []).length > 0 && (
          <Fact key={`${place.name} others`} name={t("share.others")}>{(place.others ?? []).map((other) => <div key={other.id}><bdi>{other.name}</bdi>: {rate(other.bytes)}</div>)}</Fact>
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
      {editing && <ShareInBytesDialog vm={vm} field={field} title={t(`bandwidth.edit.${kind}`, { name: vm.name })} hints={{ reserve: t(`bandwidth.reserve.hint.${kind}`), limit: t("bandwidth.limit.hint") }} onClose={() => setEditing(false)} />}
    </Card>
  );
}
