// What a guest was: its snapshots as the tree that they are.

import { useState } from "react";
import { useNavigate } from "@tanstack/react-router";

import { at, change, complete, getVersion, type Vm } from "../api/client";
import { type Snapshot, useSnapshots } from "../api/queries";
import { usePowers } from "../api/session";
import { Card, Empty, Loading, State, When } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Check, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { Table } from "../parts/table";
import { toast } from "../parts/toasts";
import { bytes, t } from "../text";

interface Placed {
  snapshot: Snapshot;
  deep: number;
}

/** The snapshots in the order of their tree: each after the one that it came after. */
export function placed(all: readonly Snapshot[]): Placed[] {
  const ids = new Set<string>(all.map((one) => one.id));
  const found: Placed[] = [];
  const grow = (parent: string | undefined, deep: number) => {
    for (const snapshot of all) {
      const of = snapshot.parent && ids.has(snapshot.parent) ? snapshot.parent : undefined;
      if (of !== parent) continue;
      found.push({ snapshot, deep });
      grow(snapshot.id, deep + 1);
    }
  };
  grow(undefined, 0);
  return found;
}

type Asked = { what: "take" } | { what: "edit" | "revert" | "delete" | "clone"; snapshot: Snapshot };

export function Snapshots({ vm }: { vm: Vm }) {
  const { operate, manage } = usePowers();
  const { data, isLoading } = useSnapshots(vm.id);
  const [asked, setAsked] = useState<Asked>();
  if (isLoading || !data) return <Loading />;
  const rows = placed(data);
  const close = () => setAsked(undefined);
  const take = operate && <button type="button" onClick={() => setAsked({ what: "take" })}><Icon name="camera" />{t("snapshot.take")}</button>;
  const items = (snapshot: Snapshot) => [
    { text: t("snapshot.revert"), icon: "reboot" as const, do: () => setAsked({ what: "revert", snapshot }) },
    ...(manage ? [{ text: t("snapshot.clone"), icon: "clone" as const, do: () => setAsked({ what: "clone", snapshot }) }] : []),
    { text: t("edit"), icon: "edit" as const, do: () => setAsked({ what: "edit", snapshot }) },
    { text: t("download"), icon: "download" as const, do: () => location.assign(at("vms", vm.id, "snapshots", snapshot.id, "data")) },
    { text: t("snapshot.delete"), icon: "remove" as const, risky: true, do: () => setAsked({ what: "delete", snapshot }) },
  ];
  return (
    <>
      {rows.length === 0 ? <Empty icon="camera" title={t("snapshots.none")}><p>{t("snapshots.words")}</p>{take && <p>{take}</p>}</Empty> : (
        <Card title={t("tab.snapshots")} actions={take}>
          <Table
            label={t("tab.snapshots")} rows={rows} id={({ snapshot }) => snapshot.id}
            columns={[
              { name: t("name"), main: true, of: ({ snapshot, deep }) => <span className="branch" data-deep={Math.min(deep, 12)}><bdi>{snapshot.name}</bdi>{snapshot.current && <span className="chip good">{t("snapshot.here")}</span>}</span> },
              { name: t("description"), of: ({ snapshot }) => <bdi>{snapshot.description || "–"}</bdi> },
              { name: t("created"), of: ({ snapshot }) => <When time={snapshot.created} /> },
              { name: t("state"), of: ({ snapshot }) => <State state={snapshot.state} /> },
              { name: t("memory"), number: true, of: ({ snapshot }) => snapshot.memory ? bytes(snapshot.memory) : "–" },
              { name: "", of: ({ snapshot }) => operate && <Menu label={t("more-of", { name: snapshot.name })} className="plain" items={items(snapshot)} /> },
            ]}
          />
        </Card>
      )}
      {asked?.what === "take" && <Take vm={vm} onClose={close} />}
      {asked?.what === "edit" && <Edit vm={vm} snapshot={asked.snapshot} onClose={close} />}
      {asked?.what === "revert" && <Revert vm={vm} snapshot={asked.snapshot} onClose={close} />}
      {asked?.what === "delete" && <Delete vm={vm} snapshot={asked.snapshot} onClose={close} />}
      {asked?.what === "clone" && <CloneOf vm={vm} snapshot={asked.snapshot} onClose={close} />}
    </>
  );
}

function Take({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const [name, setName] = useState("");
  const [description, setDescription] = useState("");
  const [memory, setMemory] = useState(false);
  const [quiesce, setQuiesce] = useState(false);
  const runs = vm.status.state === "running" || vm.status.state === "paused";
  const { problem, busy, submit } = useSending(async () => {
    await complete("POST", at("vms", vm.id, "snapshots"), { body: { name, description, memory, quiesce } });
    toast("good", t("snapshot.taken", { name }));
    onClose();
  });
  return (
    <Dialog title={t("snapshot.take")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} hint={t("name.hint")} required autoFocus />
        <Input label={t("description")} value={description} onChange={setDescription} error={problem?.at("/description")} />
        {runs && <Check label={t("snapshot.memory")} checked={memory} onChange={(on) => { setMemory(on); if (on) setQuiesce(false); }} />}
        {runs && !memory && <Check label={t("snapshot.quiesce")} checked={quiesce} onChange={setQuiesce} />}
        <Wrong problem={problem} besides={["/name", "/description"]} />
        <Buttons go={t("snapshot.take")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

interface Of {
  vm: Vm;
  snapshot: Snapshot;
  onClose: () => void;
}

function Edit({ vm, snapshot, onClose }: Of) {
  const [name, setName] = useState<string>(snapshot.name);
  const [description, setDescription] = useState(snapshot.description ?? "");
  const place = at("vms", vm.id, "snapshots", snapshot.id);
  const { problem, busy, submit } = useSending(async () => {
    const { version } = await getVersion(place);
    await change<Snapshot>("PATCH", place, { body: { name, description }, version });
    toast("good", t("edited", { name }));
    onClose();
  });
  return (
    <Dialog title={t("edit.title", { name: snapshot.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} hint={t("name.hint")} required autoFocus />
        <Input label={t("description")} value={description} onChange={setDescription} error={problem?.at("/description")} />
        <Wrong problem={problem} besides={["/name", "/description"]} />
        <Buttons go={t("save")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function Revert({ vm, snapshot, onClose }: Of) {
  const runs = vm.status.state === "running" || vm.status.state === "paused";
  const { problem, busy, submit } = useSending(async () => {
    await complete("POST", at("vms", vm.id, "snapshots", snapshot.id, "revert"), { body: { force: runs } });
    toast("good", t("snapshot.reverted", { name: vm.name, snapshot: snapshot.name }));
    onClose();
  });
  return (
    <Dialog title={t("snapshot.revert.title", { name: snapshot.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t("snapshot.revert.words")}</p>
        {runs && <p className="notice risk"><Icon name="warning" /> {t("snapshot.revert.runs")}</p>}
        <Wrong problem={problem} />
        <Buttons go={t("snapshot.revert")} busy={busy} risky onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function Delete({ vm, snapshot, onClose }: Of) {
  const { problem, busy, submit } = useSending(async () => {
    await complete("DELETE", at("vms", vm.id, "snapshots", snapshot.id));
    toast("good", t("snapshot.deleted", { name: snapshot.name }));
    onClose();
  });
  return (
    <Dialog title={t("snapshot.delete.title", { name: snapshot.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t("snapshot.delete.words")}</p>
        <Wrong problem={problem} />
        <Buttons go={t("snapshot.delete")} busy={busy} risky onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function CloneOf({ vm, snapshot, onClose }: Of) {
  const [name, setName] = useState(`${vm.name}-2`.slice(-63));
  const [memory, setMemory] = useState(snapshot.memory != null);
  const navigate = useNavigate();
  const { problem, busy, submit } = useSending(async () => {
    await complete("POST", at("vms", vm.id, "clone"), { body: { name, snapshot: snapshot.id, memory, start: memory } });
    onClose();
    void navigate({ to: "/guests/$name", params: { name } });
  });
  return (
    <Dialog title={t("snapshot.clone")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t("snapshot.clone.words", { name: snapshot.name })}</p>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />
        {snapshot.memory != null && <Check label={t("snapshot.clone.memory")} checked={memory} onChange={setMemory} />}
        <Wrong problem={problem} besides={["/name"]} />
        <Buttons go={t("clone")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
