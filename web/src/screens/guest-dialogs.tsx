// Questions about one guest: what it is to be, what its clone is called, what its template is called.

import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";

import { at, change, complete, getVersion, type Vm, type VmDefinition } from "../api/client";
import { Dialog } from "../parts/dialog";
import { Area, Buttons, Check, Choice, Input, useSending, Wrong } from "../parts/form";
import { toast } from "../parts/toasts";
import { t } from "../text";

/** What somebody says of a guest: everything that the host does not add. */
export function definitionOf(vm: Vm): VmDefinition {
  const { id: _id, created: _created, status: _status, ...definition } = vm;
  return definition;
}

export function labelsText(labels: Record<string, string> | undefined): string {
  return Object.entries(labels ?? {}).map(([key, value]) => (value ? `${key}=${value}` : key)).join("\n");
}

export function labelsOf(text: string): Record<string, string> {
  const words = text.split(/[\n,]+/).map((word) => word.trim()).filter(Boolean);
  return Object.fromEntries(words.map((word) => {
    const [key = "", ...value] = word.split("=");
    return [key.trim(), value.join("=").trim()];
  }));
}

/** A merge patch (RFC 7396) that takes the labels that are gone out. */
export function labelsPatch(before: Record<string, string> | undefined, after: Record<string, string>): Record<string, string | null> {
  const gone = Object.keys(before ?? {}).filter((key) => !(key in after));
  return { ...after, ...Object.fromEntries(gone.map((key) => [key, null])) };
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** Bytes as people write them in a field, and exactly: `2GiB`, `1500MiB`. */
export function sizeText(of: number | string | undefined): string {
  let [amount, unit] = [Number(of ?? 0), 0];
  while (amount > 0 && amount % 1024 === 0 && unit < UNITS.length - 1) [amount, unit] = [amount / 1024, unit + 1];
  return `${amount}${UNITS[unit]}`;
}

const FIELDS = ["/name", "/description", "/cpus", "/cpus_max", "/memory", "/memory_max", "/labels", "/on_crash", "/autostart"];

export function EditDialog({ vm, onClose, onRenamed }: { vm: Vm; onClose: () => void; onRenamed: (name: string) => void }) {
  const [name, setName] = useState<string>(vm.name);
  const [description, setDescription] = useState(vm.description ?? "");
  const [cpus, setCpus] = useState(String(vm.cpus ?? 1));
  const [cpusMax, setCpusMax] = useState(String(vm.cpus_max ?? ""));
  const [memory, setMemory] = useState(sizeText(vm.memory));
  const [memoryMax, setMemoryMax] = useState(vm.memory_max ? sizeText(vm.memory_max) : "");
  const [apply, setApply] = useState<"auto" | "live" | "next-boot">("auto");
  const [labels, setLabels] = useState(labelsText(vm.labels));
  const [onCrash, setOnCrash] = useState(vm.on_crash ?? "restart");
  const [autostart, setAutostart] = useState(vm.autostart?.enabled ?? false);
  const [merge, setMerge] = useState(vm.merge_memory ?? false);
  const before = { memory: sizeText(vm.memory), cpusMax: String(vm.cpus_max ?? ""), memoryMax: vm.memory_max ? sizeText(vm.memory_max) : "" };
  const { problem, busy, submit } = useSending(async () => {
    const { version } = await getVersion(at("vms", vm.id));
    const patch = {
      ...(name !== vm.name && { name }),
      ...(description !== (vm.description ?? "") && { description }),
      ...(Number(cpus) !== vm.cpus && { cpus: Number(cpus) }),
      ...(cpusMax !== before.cpusMax && { cpus_max: cpusMax ? Number(cpusMax) : null }),
      ...(memory !== before.memory && { memory }),
      ...(memoryMax !== before.memoryMax && { memory_max: memoryMax || null }),
      ...(labels !== labelsText(vm.labels) && { labels: labelsPatch(vm.labels, labelsOf(labels)) }),
      ...(onCrash !== (vm.on_crash ?? "restart") && { on_crash: onCrash }),
      ...(autostart !== (vm.autostart?.enabled ?? false) && { autostart: { enabled: autostart } }),
      ...(merge !== (vm.merge_memory ?? false) && { merge_memory: merge }),
    };
    if (Object.keys(patch).length > 0) {
      await complete("PATCH", at("vms", vm.id), { body: patch, version, query: { apply } });
      toast("good", t("edited", { name }));
    }
    onClose();
    if (name !== vm.name) onRenamed(name);
  });
  const alive = vm.status.state === "running";
  return (
    <Dialog title={t("edit.title", { name: vm.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required />
        <Input label={t("description")} value={description} onChange={setDescription} error={problem?.at("/description")} />
        <div className="pair">
          <Input label={t("cpus")} type="number" min={1} value={cpus} onChange={setCpus} error={problem?.at("/cpus")} />
          <Input label={t("cpus.max")} type="number" min={1} value={cpusMax} onChange={setCpusMax} error={problem?.at("/cpus_max")} placeholder={cpus} hint={t("max.hint")} />
        </div>
        <div className="pair">
          <Input label={t("memory")} value={memory} onChange={setMemory} error={problem?.at("/memory")} />
          <Input label={t("memory.max")} value={memoryMax} onChange={setMemoryMax} error={problem?.at("/memory_max")} placeholder={memory} hint={t("max.hint")} />
        </div>
        {alive && <Choice label={t("apply")} value={apply} onChange={setApply} options={[["auto", t("apply.auto")], ["live", t("apply.live")], ["next-boot", t("apply.next-boot")]]} />}
        <Area label={t("labels")} value={labels} onChange={setLabels} error={problem?.at("/labels")} hint={t("labels.hint")} rows={3} />
        <Choice label={t("on-crash")} value={onCrash} onChange={setOnCrash} options={[["restart", t("on-end.restart")], ["stop", t("on-end.stop")]]} />
        <Check label={t("autostart.long")} checked={autostart} onChange={setAutostart} />
        <Check label={t("memory.merge")} checked={merge} onChange={setMerge} hint={t("memory.merge.hint")} />
        <Wrong problem={problem} besides={FIELDS} />
        <Buttons go={t("save")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

export function CloneDialog({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const [name, setName] = useState(`${vm.name}-2`.slice(-63));
  const [shares, setShares] = useState(false);
  const runs = vm.status.state === "running" || vm.status.state === "paused";
  const still = vm.status.state === "stopped" || vm.status.state === "crashed";
  const instant = runs || (still && shares);
  const navigate = useNavigate();
  const { problem, busy, submit } = useSending(async () => {
    await complete("POST", at("vms", vm.id, "clone"), { body: { name, instant, start: runs } });
    onClose();
    void navigate({ to: "/guests/$name", params: { name } });
  });
  return (
    <Dialog title={t("clone.title", { name: vm.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t(runs ? "clone.runs" : instant ? "clone.shares" : "clone.words")}</p>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />
        {still && <Check label={t("clone.instant")} checked={shares} onChange={setShares} />}
        <Wrong problem={problem} besides={["/name"]} />
        <Buttons go={t("clone")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

export function TemplateDialog({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const [name, setName] = useState<string>(vm.name);
  const [description, setDescription] = useState("");
  const { problem, busy, submit } = useSending(async () => {
    const { name: _name, nics, template: _template, ...rest } = definitionOf(vm);
    // Addresses are each guest's own.
    const own = (nics ?? []).map(({ mac: _mac, address: _address, address6: _address6, ...nic }) => nic);
    await change("POST", at("templates"), { body: { name, description, definition: { ...rest, nics: own } } });
    toast("good", t("template.made", { name }));
    onClose();
  });
  return (
    <Dialog title={t("template.save")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t("template.words")}</p>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />
        <Input label={t("description")} value={description} onChange={setDescription} error={problem?.at("/description")} />
        <Wrong problem={problem} besides={["/name", "/description"]} />
        <Buttons go={t("template.save")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
