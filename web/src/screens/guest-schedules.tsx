// What the host makes of a guest again and again: snapshots and backups, and how many of them it keeps.

import { useState } from "react";

import { at, change, type Vm } from "../api/client";
import { type Schedule, useSchedules } from "../api/queries";
import { usePowers } from "../api/session";
import { Ask } from "../parts/ask";
import { Card, Loading, When } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Check, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { Table } from "../parts/table";
import { failed } from "../parts/toasts";
import { duration, t } from "../text";
import { PoolField } from "./guest-backups";

const HOW_OFTEN = { hour: 3600, day: 86_400, week: 604_800 } as const;
type HowOften = keyof typeof HOW_OFTEN;
const KEPT = ["last", "hourly", "daily", "weekly", "monthly"] as const;

type Asked = { what: "make" } | { what: "delete"; schedule: Schedule };

export function Schedules({ vm }: { vm: Vm }) {
  const { operate } = usePowers();
  const { data } = useSchedules(vm.id);
  const [asked, setAsked] = useState<Asked>();
  if (!data) return <Loading />;
  const close = () => setAsked(undefined);
  const make = operate && <button type="button" onClick={() => setAsked({ what: "make" })}><Icon name="add" />{t("schedule.make")}</button>;
  const items = (schedule: Schedule) => {
    const enabled = schedule.enabled ?? true;
    const set = () => { change("PATCH", at("vms", vm.id, "schedules", schedule.name), { body: { enabled: !enabled } }).catch(failed); };
    return [
      { text: t(enabled ? "alarm.disable" : "alarm.enable"), icon: enabled ? "pause" as const : "start" as const, do: set },
      { text: t("remove"), icon: "remove" as const, risky: true, do: () => setAsked({ what: "delete", schedule }) },
    ];
  };
  return (
    <Card title={t("schedules")} actions={make}>
      {data.length === 0 ? <p className="hint">{t("schedules.none")}</p> : (
        <Table
          label={t("schedules")} rows={data} id={(schedule) => schedule.name}
          columns={[
            { name: t("name"), main: true, of: (schedule) => <><bdi>{schedule.name}</bdi>{schedule.error && <span className="chip risk" title={schedule.error}>{t("schedule.failed")}</span>}</> },
            { name: t("kind"), of: (schedule) => schedule.action === "backup" ? t("schedule.backup-into", { pool: schedule.pool ?? "" }) : t("schedule.snapshot") },
            { name: t("schedule.every"), of: (schedule) => duration(schedule.every * 1000) },
            { name: t("schedule.keep"), of: (schedule) => KEPT.filter((one) => schedule.keep[one]).map((one) => t(`schedule.keep.${one}`, { n: schedule.keep[one] ?? 0 })).join(", ") },
            { name: t("schedule.next"), of: (schedule) => schedule.next ? <When time={schedule.next} /> : "–" },
            { name: "", of: (schedule) => operate && <Menu label={t("more-of", { name: schedule.name })} className="plain" items={items(schedule)} /> },
          ]}
        />
      )}
      {asked?.what === "make" && <Make vm={vm} onClose={close} />}
      {asked?.what === "delete" && (
        <Ask
          title={t("schedule.delete.title", { name: asked.schedule.name })} words={t("schedule.delete.words")} go={t("remove")} onClose={close}
          do={() => change("DELETE", at("vms", vm.id, "schedules", asked.schedule.name))}
        />
      )}
    </Card>
  );
}

function Make({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const [name, setName] = useState("");
  const [action, setAction] = useState<"snapshot" | "backup">("snapshot");
  const [often, setOften] = useState<HowOften>("day");
  const [keep, setKeep] = useState("7");
  const [pool, setPool] = useState("default");
  const [quiesce, setQuiesce] = useState(false);
  const { problem, busy, submit } = useSending(async () => {
    const body = { name, action, every: HOW_OFTEN[often], keep: { last: Number(keep) }, quiesce, ...(action === "backup" && { pool }) };
    await change("POST", at("vms", vm.id, "schedules"), { body });
    onClose();
  });
  return (
    <Dialog title={t("schedule.make")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} hint={t("name.hint")} required autoFocus />
        <Choice label={t("kind")} value={action} onChange={setAction} options={[["snapshot", t("schedule.snapshot")], ["backup", t("schedule.backup")]]} />
        {action === "backup" && <PoolField value={pool} onChange={setPool} error={problem?.at("/pool")} />}
        <Choice label={t("schedule.every")} value={often} onChange={setOften} options={[["hour", t("schedule.hour")], ["day", t("schedule.day")], ["week", t("schedule.week")]]} />
        <Input label={t("schedule.keep-last")} value={keep} onChange={setKeep} type="number" min={1} max={10_000} error={problem?.at("/keep") ?? problem?.at("/keep/last")} required />
        <Check label={t("snapshot.quiesce")} checked={quiesce} onChange={setQuiesce} />
        <Wrong problem={problem} besides={["/name", "/pool", "/keep", "/keep/last"]} />
        <Buttons go={t("schedule.make")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
