// A guest's backups: what there is, made now or again and again, and what becomes of it.

import { useState } from "react";
import { useNavigate } from "@tanstack/react-router";

import { at, complete, type Vm } from "../api/client";
import { type Backup, useBackups, usePools } from "../api/queries";
import { usePowers } from "../api/session";
import { Ask } from "../parts/ask";
import { Card, Loading, When } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Check, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { Table } from "../parts/table";
import { failed, toast } from "../parts/toasts";
import { bytes, t } from "../text";
import { Schedules } from "./guest-schedules";

type Asked = { what: "make" } | { what: "restore" | "delete"; backup: Backup };

export function Backups({ vm }: { vm: Vm }) {
  const { data } = useBackups(vm.id);
  return (
    <>
      {data ? <List vm={vm} backups={data} /> : <Loading />}
      <Schedules vm={vm} />
    </>
  );
}

function List({ vm, backups }: { vm: Vm; backups: readonly Backup[] }) {
  const { operate, manage } = usePowers();
  const [asked, setAsked] = useState<Asked>();
  const close = () => setAsked(undefined);
  const make = operate && <button type="button" onClick={() => setAsked({ what: "make" })}><Icon name="storage" />{t("backup.make")}</button>;
  const items = (backup: Backup) => [
    { text: t("backup.verify"), icon: "check" as const, do: () => verify(backup) },
    ...(manage ? [
      { text: t("backup.restore"), icon: "clone" as const, do: () => setAsked({ what: "restore", backup }) },
      { text: t("remove"), icon: "remove" as const, risky: true, do: () => setAsked({ what: "delete", backup }) },
    ] : []),
  ];
  return (
    <Card title={t("tab.backups")} actions={make}>
      {backups.length === 0 ? <p className="hint">{t("backups.none")}</p> : (
        <Table
          label={t("tab.backups")} rows={backups} id={(backup) => backup.id}
          columns={[
            { name: t("name"), main: true, of: (backup) => <><bdi>{backup.name}</bdi>{backup.problem && <span className="chip risk" title={backup.problem}>{t("backup.damaged")}</span>}</> },
            { name: t("created"), of: (backup) => <When time={backup.created} /> },
            { name: t("kind"), of: (backup) => t(backup.parent ? "backup.differs" : "backup.full") },
            { name: t("pool"), of: (backup) => <bdi>{backup.pool}</bdi> },
            { name: t("size"), number: true, of: (backup) => bytes(backup.stored) },
            { name: "", of: (backup) => operate && <Menu label={t("more-of", { name: backup.name })} className="plain" items={items(backup)} /> },
          ]}
        />
      )}
      {asked?.what === "make" && <Make vm={vm} onClose={close} />}
      {asked?.what === "restore" && <Restore backup={asked.backup} onClose={close} />}
      {asked?.what === "delete" && (
        <Ask
          title={t("backup.delete.title", { name: asked.backup.name })} words={t("backup.delete.words")} go={t("remove")} onClose={close}
          do={() => complete("DELETE", at("backups", asked.backup.id))}
        />
      )}
    </Card>
  );
}

function verify(backup: Backup): void {
  complete("POST", at("backups", backup.id, "verify")).then(() => toast("good", t("backup.verified", { name: backup.name })), failed);
}

/** Where backups can go: a choice for whoever may see the pools, and a name for others. */
export function PoolField({ value, onChange, error }: { value: string; onChange: (pool: string) => void; error?: string | undefined }) {
  const { own } = usePowers();
  const { data: pools = [] } = usePools(own);
  return own
    ? <Choice label={t("pool")} value={value} onChange={onChange} options={pools.map((one) => [one.name, one.name] as const)} error={error} />
    : <Input label={t("pool")} value={value} onChange={onChange} error={error} required />;
}

function Make({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const [pool, setPool] = useState("default");
  const [full, setFull] = useState(false);
  const [quiesce, setQuiesce] = useState(false);
  const { problem, busy, submit } = useSending(async () => {
    await complete("POST", at("vms", vm.id, "backups"), { body: { pool, full, quiesce } });
    toast("good", t("backup.made", { name: vm.name }));
    onClose();
  });
  return (
    <Dialog title={t("backup.make")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t("backup.make.words")}</p>
        <PoolField value={pool} onChange={setPool} error={problem?.at("/pool")} />
        <Check label={t("backup.make.full")} checked={full} onChange={setFull} />
        {vm.status.state === "running" && <Check label={t("snapshot.quiesce")} checked={quiesce} onChange={setQuiesce} />}
        <Wrong problem={problem} besides={["/pool"]} />
        <Buttons go={t("backup.make")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function Restore({ backup, onClose }: { backup: Backup; onClose: () => void }) {
  const [name, setName] = useState(`${backup.vm_name}-2`.slice(-63));
  const [start, setStart] = useState(false);
  const navigate = useNavigate();
  const { problem, busy, submit } = useSending(async () => {
    await complete("POST", at("backups", backup.id, "restore"), { body: { name, start } });
    onClose();
    void navigate({ to: "/guests/$name", params: { name } });
  });
  return (
    <Dialog title={t("backup.restore.title", { name: backup.name })} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t("backup.restore.words")}</p>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} hint={t("name.hint")} required autoFocus />
        <Check label={t("backup.restore.start")} checked={start} onChange={setStart} />
        <Wrong problem={problem} besides={["/name"]} />
        <Buttons go={t("backup.restore")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
