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

/** A share as it stands in fields. */
export interface Written {
  reserve: string;
  weight: string;
  limit: string;
}

export function written(share: ShareInBytes): Written {
  return { reserve: sizeText(share.reserve ?? 0), weight: String(share.weight ?? 1000), limit: share.limit == null ? "" : sizeText(share.limit) };
}

/** What is sent of that. */
export function meant({ reserve, weight, limit }: Written) {
  return { reserve: reserve || 0, weight: Number(weight), limit: limit || null };
}

export function isUsual(share: ShareInBytes): boolean {
  return share.reserve === 0 && share.weight === 1000 && share.limit == null;
}

export function ShareInBytesDialog({ vm, field, title, hints, onClose }: Props) {
  const before = written(vm[field] ?? USUAL);
  const [reserve, setReserve] = useState(before.reserve);
  const [weight, setWeight] = useState(before.weight);
  const [limit, setLimit] = useState(before.limit);
  const { problem, busy, submit } = useSending(async () => {
    const { version } = await getVersion(at("vms", vm.id));
    await complete("PATCH", at("vms", vm.id), { body: { [field]: meant({ reserve, weight, limit }) }, version });
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
