// What a guest is promised of the host's processors, what it wants and gets, and who gets the rest.

import { lazy, Suspense, useState } from "react";

import { at, complete, getVersion, type Schemas, type Vm } from "../api/client";
import { useReceipts, useShare, useShareGroups } from "../api/queries";
import { usePowers } from "../api/session";
import { Card, Fact, Facts, Loading, Problem } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Check, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Meter } from "../parts/meter";
import { Table } from "../parts/table";
import { toast } from "../parts/toasts";
import { number, t } from "../text";
import { BandwidthShare } from "./guest-bandwidth-share";
import { MemoryShare } from "./guest-memory-share";
import type { Written } from "./share-dialog";
import type { Group } from "./usage";

const Usage = lazy(() => import("./usage"));

type CpuShare = Schemas["CpuShare"];

/** What is promised of processors where nothing is said. */
export const USUAL: CpuShare = { reserve: 0, weight: 1000, soft: false };

function limitText(share: CpuShare): string {
  if (share.limit == null) return t("share.no-limit");
  return t(share.soft ? "share.limit.soft-of" : "share.of", { n: number(share.limit, 3) });
}

/** A number as it was written. What is none goes as it stands, and the host says what is wrong with it. */
function amount(text: string): number | string {
  return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

export function written(share: CpuShare): Written {
  return { reserve: String(share.reserve ?? 0), weight: String(share.weight ?? 1000), limit: String(share.limit ?? "") };
}

/** What is sent of that. */
export function meant({ reserve, weight, limit }: Written, soft: boolean) {
  return { reserve: amount(reserve), weight: Number(weight), limit: limit ? amount(limit) : null, soft: limit ? soft : false };
}

export function inShort(share: CpuShare): string {
  if (share.dedicated) return t("share.dedicated.short");
  const words = { reserve: number(share.reserve ?? 0, 3), weight: number(share.weight ?? 1000) };
  return share.limit == null ? t("share.short", words) : t("share.short.limited", { ...words, limit: limitText(share) });
}

export function Share({ vm }: { vm: Vm }) {
  const { manage } = usePowers();
  const [editing, setEditing] = useState(false);
  const { data, error } = useShare(vm.id);
  if (error) return <Problem error={error} />;
  if (!data) return <Loading />;
  const { promised, groups = [], now, host, others, rest, not_enforced: why } = data.cpu;
  const used = host.guests + host.besides;
  return (
    <>
      {why && <div className="notice risk" role="alert"><Icon name="warning" /><p>{t("share.not-enforced")} <bdi>{why}</bdi></p></div>}
      {now && (
        <div className="meters">
          <Card><Meter name={t("share.got")} used={now.got_10s} of={Math.max(now.asked, now.target, 0.01)} tone={now.bound === "others" ? "warn" : ""} text={number(now.got_10s, 2)} under={t("share.got.words", { asked: number(now.asked, 2), target: number(now.target, 2) })} /></Card>
          <Card><Meter name={t("share.reserved")} used={host.reserved} of={host.processors} tone="" text={number(host.reserved, 3)} under={t("share.reserved.words", { n: number(host.processors, 3) })} /></Card>
          <Card><Meter name={t("share.host")} used={used} of={Math.max(host.processors, used)} text={number(used, 2)} under={t("share.host.words", { guests: number(host.guests, 2), besides: number(host.besides, 2) })} /></Card>
        </div>
      )}
      <div className="columns">
        <Card title={t("share.promised")} actions={manage && <button type="button" onClick={() => setEditing(true)}><Icon name="edit" />{t("edit")}</button>}>
          <Facts>
            {promised.dedicated ? (
              <Fact name={t("share.dedicated")}>{now?.own?.length ? t("share.dedicated.these", { numbers: now.own.join(", ") }) : t(now ? "share.dedicated.none" : "share.dedicated.some")}</Fact>
            ) : (
              <>
                <Fact name={t("share.reserve")}>{t("share.of", { n: number(promised.reserve ?? 0, 3) })}</Fact>
                <Fact name={t("share.weight")}>{number(promised.weight ?? 1000)}</Fact>
                <Fact name={t("share.limit")}>{limitText(promised)}</Fact>
              </>
            )}
            {groups.map((group) => (
              <Fact key={group.name} name={t("share.group")}><bdi>{group.name}</bdi>: {inShort(group.cpu_share ?? USUAL)}; {t("share.group.got", { n: number(group.got_10s, 2) })}</Fact>
            ))}
          </Facts>
          <p className="hint">{now ? t(`share.bound.${now.bound}`) : t("share.still")}</p>
        </Card>
        <Card title={t("share.others")}>
          {others.length === 0 ? <p className="hint">{t("share.others.none")}</p> : (
            <Table
              label={t("share.others")} rows={others} id={(one) => one.id}
              columns={[
                { name: t("guest"), main: true, of: (one) => <bdi>{one.name}</bdi> },
                { name: t("share.got"), of: (one) => number(one.got_10s, 2) },
                { name: t("share.promised"), of: (one) => inShort(one.promised) },
              ]}
            />
          )}
          {rest >= 0.005 && <p className="hint">{t("share.rest", { n: number(rest, 2) })}</p>}
        </Card>
      </div>
      <Delivered vm={vm} />
      <MemoryShare vm={vm} report={data.memory} groups={groups} />
      <BandwidthShare vm={vm} kind="disk" report={data.disks} groups={groups} />
      <BandwidthShare vm={vm} kind="network" report={data.networks} groups={groups} />
      {editing && <ShareDialog vm={vm} onClose={() => setEditing(false)} />}
    </>
  );
}

const RECEIPTS: readonly Group[] = [{ title: "receipts", unit: "processors", series: ["cpu_delivered", "cpu_asked", "cpu_due"] }];

/** What became of what it is promised. */
function Delivered({ vm }: { vm: Vm }) {
  const { data } = useReceipts(vm.id);
  const words = data && { kept: number(data.kept), all: number(data.receipts.length), step: number(data.step), short: number(data.worst_short, 3) };
  return (
    <>
      <Suspense fallback={<Loading />}><Usage key={vm.id} path={at("vms", vm.id)} groups={RECEIPTS} /></Suspense>
      {words && <p className="hint">{data.receipts.length > 0 ? t("receipts.kept", words) : t("receipts.none")}</p>}
    </>
  );
}

function ShareDialog({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const before: CpuShare = vm.cpu_share ?? USUAL;
  const begun = written(before);
  const [reserve, setReserve] = useState(begun.reserve);
  const [weight, setWeight] = useState(begun.weight);
  const [limit, setLimit] = useState(begun.limit);
  const [soft, setSoft] = useState(before.soft ?? false);
  const [dedicated, setDedicated] = useState(before.dedicated ?? false);
  const [group, setGroup] = useState(vm.share_group ?? "");
  const { data: groups = [] } = useShareGroups();
  const { problem, busy, submit } = useSending(async () => {
    const { version } = await getVersion(at("vms", vm.id));
    const shared = { ...meant({ reserve, weight, limit }, soft), dedicated: false };
    const share = dedicated ? { ...shared, reserve: 0, limit: null, soft: false, dedicated } : shared;
    await complete("PATCH", at("vms", vm.id), { body: { cpu_share: share, share_group: group || null }, version });
    toast("good", t("edited", { name: vm.name }));
    onClose();
  });
  const fields = ["/cpu_share/reserve", "/cpu_share/weight", "/cpu_share/limit", "/share_group"].filter((field) => !dedicated || field === "/share_group");
  return (
    <Dialog title={t("share.edit", { name: vm.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Check label={t("share.dedicated")} hint={t("share.dedicated.hint")} checked={dedicated} onChange={setDedicated} />
        {!dedicated && (
          <>
            <Input label={t("share.reserve")} value={reserve} onChange={setReserve} hint={t("share.reserve.hint")} error={problem?.at("/cpu_share/reserve")} required autoFocus />
            <Input label={t("share.weight")} type="number" min={1} value={weight} onChange={setWeight} hint={t("share.weight.hint")} error={problem?.at("/cpu_share/weight")} required />
            <Input label={t("share.limit")} value={limit} onChange={setLimit} hint={t("share.limit.hint")} error={problem?.at("/cpu_share/limit")} />
            {limit && <Check label={t("share.soft")} checked={soft} onChange={setSoft} />}
          </>
        )}
        {groups.length > 0 && (
          <Choice
            label={t("share.group")} value={group} onChange={setGroup} hint={t("share.group.hint")} error={problem?.at("/share_group")}
            options={[["", t("share.group.none")], ...groups.map((one) => [one.name, one.name] as const)]}
          />
        )}
        <Wrong problem={problem} besides={fields} />
        <Buttons go={t("save")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
