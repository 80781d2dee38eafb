// Makes a group, or changes what one is promised.

import { useState } from "react";

import { at, change } from "../api/client";
import { Dialog } from "../parts/dialog";
import { Buttons, Check, Choice, Input, useSending, Wrong } from "../parts/form";
import { toast } from "../parts/toasts";
import { t } from "../text";
import type { Group } from "./group-shares";
import { meant, USUAL, written } from "./guest-share";
import * as inBytes from "./share-dialog";

type Written = inBytes.Written;

type Shares = Record<"cpu_share" | inBytes.ShareField, Written>;

const FIELDS = ["cpu_share", "memory_share", "disk_share", "network_share"] as const;
const TITLES = { cpu_share: "group.cpu", memory_share: "group.memory", disk_share: "group.disk", network_share: "group.network" } as const;
const PARTS = ["reserve", "weight", "limit"] as const;

function writtenAll(group: Partial<Group>): Shares {
  return {
    cpu_share: written(group.cpu_share ?? USUAL),
    memory_share: inBytes.written(group.memory_share ?? inBytes.USUAL),
    disk_share: inBytes.written(group.disk_share ?? inBytes.USUAL),
    network_share: inBytes.written(group.network_share ?? inBytes.USUAL),
  };
}

/** What is sent of them. */
function meantAll(shares: Shares, soft: boolean) {
  return {
    cpu_share: meant(shares.cpu_share, soft),
    memory_share: inBytes.meant(shares.memory_share),
    disk_share: inBytes.meant(shares.disk_share),
    network_share: inBytes.meant(shares.network_share),
  };
}

/** What is not as it was: somebody else may have changed the rest meanwhile. */
function differing(before: Record<string, unknown>, after: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(after).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name])));
}

/** The names of all groups that this one can be in: not itself, nor what is in it. */
function places(groups: readonly Group[], before: Group | undefined): string[] {
  const isIn = (group: Group | undefined): boolean => group !== undefined && (group.name === before?.name || isIn(groups.find((one) => one.name === group.within)));
  return groups.filter((group) => !before || !isIn(group)).map((group) => group.name);
}

export function GroupDialog({ groups, before, onClose }: { groups: readonly Group[]; before?: Group; onClose: () => void }) {
  const [name, setName] = useState(before?.name ?? "");
  const [description, setDescription] = useState(before?.description ?? "");
  const [within, setWithin] = useState(before?.within ?? "");
  const [expandable, setExpandable] = useState(before?.expandable ?? true);
  const [soft, setSoft] = useState(before?.cpu_share?.soft ?? false);
  const [shares, setShares] = useState(() => writtenAll(before ?? {}));
  const [begun] = useState(definition);
  function definition() {
    return { description, within: within || null, expandable, ...meantAll(shares, soft) };
  }
  const { problem, busy, submit } = useSending(async () => {
    if (before) {
      await change("PATCH", at("share-groups", before.name), { body: differing(begun, definition()) });
      toast("good", t("edited", { name: before.name }));
    } else await change("POST", at("share-groups"), { body: { name, ...definition() } });
    onClose();
  });
  const set = (field: keyof Shares, part: keyof Written) => (value: string) => setShares({ ...shares, [field]: { ...shares[field], [part]: value } });
  const known = ["/name", "/description", "/within", "/expandable", ...FIELDS.flatMap((field) => PARTS.map((part) => `/${field}/${part}`))];
  return (
    <Dialog title={before ? t("group.edit", { name: before.name }) : t("group.create")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <div className="pair">
          {!before && <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />}
          <Choice label={t("group.within")} value={within} onChange={setWithin} error={problem?.at("/within")} options={[["", t("share.group.none")], ...places(groups, before).map((one) => [one, one] as const)]} />
        </div>
        <Input label={t("description")} value={description} onChange={setDescription} error={problem?.at("/description")} />
        {FIELDS.map((field) => (
          <fieldset key={field} className="share-row" aria-describedby={`group-${field}`}>
            <legend>{t(TITLES[field])}</legend>
            <div className="triple">
              <Input label={t("share.reserve")} value={shares[field].reserve} onChange={set(field, "reserve")} error={problem?.at(`/${field}/reserve`)} />
              <Input label={t("share.weight")} type="number" min={1} value={shares[field].weight} onChange={set(field, "weight")} error={problem?.at(`/${field}/weight`)} required />
              <Input label={t("share.limit")} value={shares[field].limit} onChange={set(field, "limit")} placeholder={t("share.no-limit")} error={problem?.at(`/${field}/limit`)} />
            </div>
            <p className="hint" id={`group-${field}`}>{t(`${TITLES[field]}.hint`)}</p>
            {field === "cpu_share" && shares.cpu_share.limit && <Check label={t("group.soft")} checked={soft} onChange={setSoft} />}
          </fieldset>
        ))}
        <Check label={t("group.expandable")} hint={t("group.expandable.hint")} checked={expandable} onChange={setExpandable} />
        <Wrong problem={problem} besides={known} />
        <Buttons go={before ? t("save") : t("group.create")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
