// What a guest is promised of the host's pool of memory, and what it has of it.

import { useState } from "react";

import { at, complete, getVersion, type Schemas, type Vm } from "../api/client";
import { usePowers } from "../api/session";
import { Card, Fact, Facts } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Meter } from "../parts/meter";
import { toast } from "../parts/toasts";
import { bytes, number, t } from "../text";
import { sizeText } from "./guest-dialogs";

type MemoryReport = Schemas["MemoryReport"];
type MemoryShareOf = Schemas["MemoryShare"];

const USUAL: MemoryShareOf = { reserve: 0, weight: 1000 };

function why(now: Schemas["MemoryNow"]): string {
  if (now.active == null || now.target == null) return t("memory.why.silent");
  if (Number(now.held) >= Number(now.size)) return t("memory.why.all");
  return Number(now.target) >= Number(now.active) ? t("memory.why.enough") : t("memory.why.others");
}

export function MemoryShare({ vm, report }: { vm: Vm; report: MemoryReport }) {
  const { manage } = usePowers();
  const [editing, setEditing] = useState(false);
  const { promised, now, pool, pressure } = report;
  // Without a pool nothing is divided, and nobody has to hear of it who has promised nothing.
  if (pool == null && promised.reserve === 0 && promised.weight === 1000 && promised.limit == null) return null;
  const edit = manage && <button type="button" onClick={() => setEditing(true)}><Icon name="edit" />{t("memory.change")}</button>;
  return (
    <>
      {now && pool != null && (
        <div className="meters">
          <Card><Meter name={t("memory.has")} used={Number(now.held)} of={Number(now.size)} tone="" text={bytes(now.held)} under={t("memory.has.words", { size: bytes(now.size), touched: bytes(now.resident) })} /></Card>
          {now.active != null && <Card><Meter name={t("memory.uses")} used={Number(now.active)} of={Math.max(Number(now.target ?? 0), Number(now.active), 1)} tone={Number(now.active) > Number(now.target ?? 0) ? "warn" : ""} text={bytes(now.active)} under={t("memory.uses.words", { target: bytes(now.target) })} /></Card>}
        </div>
      )}
      <Card title={t("memory.promised")} actions={edit}>
        <Facts>
          <Fact name={t("share.reserve")}>{bytes(promised.reserve)}</Fact>
          <Fact name={t("share.weight")}>{number(promised.weight ?? 1000)}</Fact>
          <Fact name={t("share.limit")}>{promised.limit == null ? t("share.no-limit") : bytes(promised.limit)}</Fact>
          {pool != null && <Fact name={t("memory.pool")}>{t("memory.pool.words", { size: bytes(pool), pressure: t(`memory.pressure.${pressure}`) })}</Fact>}
        </Facts>
        <p className="hint">{pool == null ? t("memory.no-pool") : now ? why(now) : t("share.still")}</p>
      </Card>
      {editing && <MemoryDialog vm={vm} onClose={() => setEditing(false)} />}
    </>
  );
}

function MemoryDialog({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const before: MemoryShareOf = vm.memory_share ?? USUAL;
  const [reserve, setReserve] = useState(sizeText(before.reserve ?? 0));
  const [weight, setWeight] = useState(String(before.weight ?? 1000));
  const [limit, setLimit] = useState(before.limit == null ? "" : sizeText(before.limit));
  const { problem, busy, submit } = useSending(async () => {
    const { version } = await getVersion(at("vms", vm.id));
    const share = { reserve: reserve || 0, weight: Number(weight), limit: limit || null };
    await complete("PATCH", at("vms", vm.id), { body: { memory_share: share }, version });
    toast("good", t("edited", { name: vm.name }));
    onClose();
  });
  const fields = ["/memory_share/reserve", "/memory_share/weight", "/memory_share/limit"];
  return (
    <Dialog title={t("memory.edit", { name: vm.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("share.reserve")} value={reserve} onChange={setReserve} hint={t("memory.reserve.hint")} error={problem?.at("/memory_share/reserve")} autoFocus />
        <Input label={t("share.weight")} type="number" min={1} value={weight} onChange={setWeight} hint={t("share.weight.hint")} error={problem?.at("/memory_share/weight")} required />
        <Input label={t("share.limit")} value={limit} onChange={setLimit} hint={t("memory.limit.hint")} error={problem?.at("/memory_share/limit")} />
        <Wrong problem={problem} besides={fields} />
        <Buttons go={t("save")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
