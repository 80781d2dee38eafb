// Changes what a guest is promised in bytes: of memory, of pools, of networks.

import { useState } from "react";

import { at, complete, getVersion, type Schemas, type Vm } from "../api/client";
import { Dialog } from "../parts/dialog";
import { Buttons, Input, useSending, Wrong } from "../parts/form";
import { toast } from "../parts/toasts";
import { t } from "../text";
import { sizeText } from "./guest-dialogs";

export type ShareInBytes = Schemas["MemoryShare"] | Schemas["BandwidthShare"];

/** A share among what is said of a guest, or of a group. */
export type ShareField = "memory_share" | "disk_share" | "network_share";

interface Props {
  vm: Vm;
  field: ShareField;
  title: string;
  hints: { reserve: string; limit: string };
  onClose: () => void;
}

/** The share of a guest of which nothing is said. */
export const USUAL: ShareInBytes = { reserve: 0, weight: 1000 };

/** A number as it was written. What is none goes as it stands, and the host says what is wrong with it. */
export function amount(text: string): number | string {
  return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

export function isUsual(share: ShareInBytes): boolean {
  return share.reserve === 0 && share.weight === 1000 && share.limit == null;
}

export function ShareInBytesDialog({ vm, field, title, hints, onClose }: Props) {
  const before = vm[field] ?? USUAL;
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
    <Dialog title={title} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("share.reserve")} value={reserve} onChange={setReserve} hint={hints.reserve} error={problem?.at(inReserve)} autoFocus />
        <Input label={t("share.weight")} type="number" min={1} value={weight} onChange={setWeight} hint={t("share.weight.hint")} error={problem?.at(inWeight)} required />
        <Input label={t("share.limit")} value={limit} onChange={setLimit} hint={hints.limit} error={problem?.at(inLimit)} />
        <Wrong problem={problem} besides={[inReserve, inWeight, inLimit]} />
        <Buttons go={t("save")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
