// Pools and the volumes in them.

import { type DragEvent, useState } from "react";

import { at, change, complete } from "../api/client";
import { type Pool, queries, useImages, usePools, useVolumes, type Volume } from "../api/queries";
import { usePowers } from "../api/session";
import { Ask } from "../parts/ask";
import { Card, Empty, Loading, Problem, Screen } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { Meter } from "../parts/meter";
import { SizeDialog } from "../parts/size-dialog";
import { Table } from "../parts/table";
import { begin, dismiss, pause, resume, useUploads } from "../parts/uploads";
import { bytes, percent, rate, t } from "../text";

export function Storage() {
  const pools = usePools();
  const { own } = usePowers();
  const [chosen, setChosen] = useState<string>();
  const [asked, setAsked] = useState<"pool" | { leave: string }>();
  const pool = pools.data?.find((one) => one.name === chosen) ?? pools.data?.[0];
  const add = own && <button type="button" onClick={() => setAsked("pool")}><Icon name="add" />{t("pool.add")}</button>;
  return (
    <Screen title={t("storage")} name={t("storage")} under={t("storage.under")} actions={add}>
      <Problem error={pools.error} />
      {pools.isLoading && <Loading />}
      <div className="pools" role="group" aria-label={t("pools")}>
        {(pools.data ?? []).map((one) => <PoolCard key={one.name} pool={one} on={one.name === pool?.name} choose={() => setChosen(one.name)} leave={own && one.name !== "default" ? () => setAsked({ leave: one.name }) : undefined} />)}
      </div>
      {pool && <Volumes key={pool.name} pool={pool.name} own={own} />}
      {asked === "pool" && <PoolDialog onClose={() => setAsked(undefined)} />}
      {typeof asked === "object" && (
        <Ask title={t("pool.leave.title", { name: asked.leave })} words={t("pool.leave.words")} go={t("pool.leave")} onClose={() => setAsked(undefined)}
          do={() => change("DELETE", at("pools", asked.leave)).then(() => queries.invalidateQueries({ queryKey: ["pools"] }))} />
      )}
    </Screen>
  );
}

function PoolCard({ pool, on, choose, leave }: { pool: Pool; on: boolean; choose: () => void; leave: (() => void) | undefined }) {
  const [capacity, free] = [Number(pool.status?.capacity ?? 0), Number(pool.status?.available ?? 0)];
  return (
    <div className={on ? "card pool on" : "card pool"}>
      <div className="card-head">
        <h2><button type="button" className="plain" aria-pressed={on} onClick={choose}><Icon name="storage" /><bdi>{pool.name}</bdi></button></h2>
        {leave && <Menu label={t("more-of", { name: pool.name })} className="plain" items={[{ text: t("pool.leave"), icon: "remove", do: leave }]} />}
      </div>
      {pool.problem ? <p className="risk-words"><bdi>{pool.problem}</bdi></p> : <Meter name={t("pool.volumes", { n: pool.status?.volumes ?? 0 })} used={capacity - free} of={capacity} text={t("free", { free: bytes(free) })} />}
      <p className="hint"><bdi>{pool.path}</bdi> · {t(`pool.kind.${pool.kind ?? "directory"}`)}</p>
      {pool.bandwidth != null && <p className="hint">{t("bandwidth.divided", { all: rate(Number(pool.bandwidth)) })}</p>}
    </div>
  );
}

type Asked = { deed: "remove" | "wipe" | "resize"; volume: Volume };

function Volumes({ pool, own }: { pool: string; own: boolean }) {
  const { data, error, isLoading } = useVolumes(pool);
  const [asked, setAsked] = useState<"create" | Asked>();
  const [over, setOver] = useState(false);
  const { operate } = usePowers();
  const take = (files: FileList | null) => { for (const file of files ?? []) begin(pool, file); };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    if (own) take(event.dataTransfer.files);
  };
  const more = (volume: Volume) => [
    ...(operate && !volume.problem ? [{ text: t("download"), icon: "download" as const, do: () => location.assign(`${at("pools", pool, "volumes", volume.name, "data")}?format=${volume.format}`) }] : []),
    ...(own ? [
      { text: t("volume.resize"), icon: "disk" as const, do: () => setAsked({ deed: "resize", volume }) },
      { text: t("volume.wipe"), icon: "reboot" as const, risky: true, do: () => setAsked({ deed: "wipe", volume }) },
      { text: t("remove"), icon: "remove" as const, risky: true, do: () => setAsked({ deed: "remove", volume }) },
    ] : []),
  ];
  const actions = own && (
    <span className="actions">
      <label className="button file"><Icon name="upload" />{t("upload")}<input type="file" multiple onChange={(e) => { take(e.target.files); e.target.value = ""; }} /></label>
      <button type="button" className="primary" onClick={() => setAsked("create")}><Icon name="add" />{t("volume.create")}</button>
    </span>
  );
  const close = () => setAsked(undefined);
  return (
    <div className={over ? "drop over" : "drop"} onDragOver={(e) => { e.preventDefault(); setOver(own); }} onDragLeave={() => setOver(false)} onDrop={drop}>
      <Card title={t("volumes.of", { name: pool })} actions={actions}>
        <Problem error={error} />
        {isLoading && <Loading />}
        <Uploads pool={pool} />
        {data?.length === 0 && <Empty icon="disk" title={t("volumes.none")}><p>{t("volumes.teach")}</p></Empty>}
        {(data?.length ?? 0) > 0 && (
          <Table
            label={t("volumes.of", { name: pool })} rows={data ?? []} id={(volume) => volume.id}
            columns={[
              { name: t("name"), main: true, of: (volume) => <><VolumeName volume={volume} />{volume.problem && <span className="risk-words block"><bdi>{volume.problem}</bdi></span>}</> },
              { name: t("format"), of: (volume) => volume.format },
              { name: t("size"), number: true, of: (volume) => bytes(volume.size) },
              { name: t("takes"), number: true, of: (volume) => bytes(volume.allocated) },
              { name: t("based-on"), of: (volume) => <bdi>{volume.based_on ? ("image" in volume.based_on ? volume.based_on.image : volume.based_on.volume) : "–"}</bdi> },
              { name: t("used-by"), of: (volume) => <bdi>{(volume.used_by ?? []).join(", ") || "–"}</bdi> },
              { name: "", of: (volume) => <Menu label={t("more-of", { name: volume.name })} className="plain" items={more(volume)} /> },
            ]}
          />
        )}
      </Card>
      {asked === "create" && <VolumeDialog pool={pool} onClose={close} />}
      {typeof asked === "object" && asked.deed === "resize" && <ResizeDialog pool={pool} volume={asked.volume} onClose={close} />}
      {typeof asked === "object" && asked.deed !== "resize" && (
        <Ask title={t(asked.deed === "wipe" ? "volume.wipe.title" : "remove.title", { name: asked.volume.name })} words={t(asked.deed === "wipe" ? "volume.wipe.words" : "volume.remove.words")} go={t(asked.deed === "wipe" ? "volume.wipe" : "remove")} type={asked.volume.name} onClose={close}
          do={() => (asked.deed === "wipe" ? complete("POST", at("pools", pool, "volumes", asked.volume.name, "wipe")) : complete("DELETE", at("pools", pool, "volumes", asked.volume.name)))} />
      )}
    </div>
  );
}

/** A guest's own disk by what it is; its name, which the daemon has made, stands below. */
function VolumeName({ volume }: { volume: Volume }) {
  const [, number] = /^vm-[0-9a-f-]{36}-(\d+)$/.exec(volume.name) ?? [];
  const [guest] = volume.used_by ?? [];
  if (number === undefined || !guest) return <bdi>{volume.name}</bdi>;
  return <>{t("volume.own", { n: number, name: guest })}<span className="hint block"><bdi>{volume.name}</bdi></span></>;
}

function Uploads({ pool }: { pool: string }) {
  const uploads = useUploads().filter((one) => one.pool === pool);
  return (
    <ul className="lines">
      {uploads.map((one) => (
        <li key={one.id}>
          <Icon name="upload" /><span className="grow"><bdi>{one.name}</bdi> <span className="hint">{t(`upload.${one.state}`)} <bdi>{one.why}</bdi></span></span>
          <progress aria-label={`${one.name}: ${percent(one.length ? one.sent / one.length : 1)}`} value={one.length ? one.sent / one.length : 1} max={1} />
          <span className="hint nowrap">{bytes(one.sent)} / {bytes(one.length)}</span>
          {one.state === "sending" && <button type="button" className="small" onClick={() => pause(one.id)}>{t("deed.pause")}</button>}
          {(one.state === "paused" || one.state === "failed") && <button type="button" className="small" onClick={() => resume(one.id)}>{t("deed.resume")}</button>}
          <button type="button" className="plain round" aria-label={t("close")} onClick={() => dismiss(one.id)}><Icon name="close" size={12} /></button>
        </li>
      ))}
    </ul>
  );
}

function PoolDialog({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [path, setPath] = useState("");
  const [kind, setKind] = useState<"directory" | "shared">("directory");
  const { problem, busy, submit } = useSending(async () => {
    await change("POST", at("pools"), { body: { name, path, kind } });
    await queries.invalidateQueries({ queryKey: ["pools"] });
    onClose();
  });
  return (
    <Dialog title={t("pool.add")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />
        <Input label={t("path")} value={path} onChange={setPath} error={problem?.at("/path")} placeholder="/srv/guests" hint={t("path.hint")} required />
        <Choice label={t("kind")} value={kind} onChange={setKind} options={[["directory", t("pool.kind.directory")], ["shared", t("pool.kind.shared")]]} error={problem?.at("/kind")} />
        <Wrong problem={problem} besides={["/name", "/path", "/kind"]} />
        <Buttons go={t("pool.add")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function VolumeDialog({ pool, onClose }: { pool: string; onClose: () => void }) {
  const { data: images = [] } = useImages();
  const [name, setName] = useState("");
  const [size, setSize] = useState("10GiB");
  const [image, setImage] = useState("");
  const [format, setFormat] = useState<"qcow2" | "raw">("qcow2");
  const { problem, busy, submit } = useSending(async () => {
    await complete("POST", at("pools", pool, "volumes"), { body: { name, format, ...(size && { size }), ...(image && { source: { image } }) } });
    onClose();
  });
  return (
    <Dialog title={t("volume.create")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />
        <Choice label={t("source")} value={image} onChange={setImage} options={[["", t("volume.empty")], ...images.map((one) => [one.name, one.name] as const)]} error={problem?.at("/source")} />
        <div className="pair">
          <Input label={t("size")} value={size} onChange={setSize} hint={t("size.hint")} error={problem?.at("/size")} />
          <Choice label={t("format")} value={format} onChange={setFormat} options={[["qcow2", "qcow2"], ["raw", "raw"]]} error={problem?.at("/format")} />
        </div>
        <Wrong problem={problem} besides={["/name", "/source", "/size", "/format"]} />
        <Buttons go={t("volume.create")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function ResizeDialog({ pool, volume, onClose }: { pool: string; volume: Volume; onClose: () => void }) {
  const send = (size: string) => complete("POST", at("pools", pool, "volumes", volume.name, "resize"), { body: { size } });
  return <SizeDialog title={t("volume.resize")} words={t("volume.resize.words")} go={t("volume.resize")} now={volume.size} send={send} onClose={onClose} />;
}
