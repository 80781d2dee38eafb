// What guests are made from: images and templates.

import { useState } from "react";

import { at, change, complete } from "../api/client";
import { queries, useImages, useTemplates } from "../api/queries";
import { usePowers } from "../api/session";
import { Ask } from "../parts/ask";
import { Card, Code, Empty, Loading, Problem, Screen, When } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Buttons, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { Table } from "../parts/table";
import { toast } from "../parts/toasts";
import { bytes, t } from "../text";

export function Images() {
  const images = useImages();
  const templates = useTemplates();
  const { own } = usePowers();
  const [asked, setAsked] = useState<"build" | { image: string } | { template: string }>();
  const close = () => setAsked(undefined);
  const build = own && <button type="button" className="primary" onClick={() => setAsked("build")}><Icon name="add" />{t("image.build")}</button>;
  return (
    <Screen title={t("images")} name={t("images")} under={t("images.under")} actions={build}>
      <Problem error={images.error ?? templates.error} />
      {images.isLoading && <Loading />}
      {images.data?.length === 0 && (
        <Empty icon="images" title={t("images.none")}><p>{t("images.teach")}</p><Code label={t("command")} text="tessera image build debian:13&#10;tessera image import disk.raw --name mine --kernel vmlinuz" /></Empty>
      )}
      {(images.data?.length ?? 0) > 0 && (
        <Card title={t("images.only")}>
          <Table
            label={t("images.only")} rows={images.data ?? []} id={(image) => image.name}
            columns={[
              { name: t("name"), main: true, of: (image) => <bdi>{image.name}</bdi> },
              { name: t("origin"), of: (image) => <bdi>{image.origin}</bdi> },
              { name: t("size"), number: true, of: (image) => bytes(image.size) },
              { name: t("takes"), number: true, of: (image) => bytes(image.used) },
              { name: "", of: (image) => own && <Menu label={t("more-of", { name: image.name })} className="plain" items={[{ text: t("remove"), icon: "remove", risky: true, do: () => setAsked({ image: image.name }) }]} /> },
            ]}
          />
        </Card>
      )}
      <Card title={t("templates")}>
        {(templates.data ?? []).length === 0 ? <p className="hint">{t("templates.teach")}</p> : (
          <Table
            label={t("templates")} rows={templates.data ?? []} id={(template) => template.name}
            columns={[
              { name: t("name"), main: true, of: (template) => <bdi>{template.name}</bdi> },
              { name: t("description"), of: (template) => <bdi>{template.description || "–"}</bdi> },
              { name: t("made"), of: (template) => <When time={template.created} /> },
              { name: "", of: (template) => own && <Menu label={t("more-of", { name: template.name })} className="plain" items={[{ text: t("remove"), icon: "remove", risky: true, do: () => setAsked({ template: template.name }) }]} /> },
            ]}
          />
        )}
      </Card>
      {asked === "build" && <Build onClose={close} />}
      {typeof asked === "object" && "image" in asked && <Ask title={t("remove.title", { name: asked.image })} words={t("image.remove.words")} go={t("remove")} type={asked.image} onClose={close} do={() => complete("DELETE", at("images", asked.image))} />}
      {typeof asked === "object" && "template" in asked && (
        <Ask title={t("remove.title", { name: asked.template })} words={t("template.remove.words")} go={t("remove")} onClose={close}
          do={() => change("DELETE", at("templates", asked.template)).then(() => queries.invalidateQueries({ queryKey: ["templates"] }))} />
      )}
    </Screen>
  );
}

function Build({ onClose }: { onClose: () => void }) {
  const [release, setRelease] = useState("debian:13");
  const [name, setName] = useState("");
  const [packages, setPackages] = useState("");
  const [size, setSize] = useState("");
  const { problem, busy, submit } = useSending(async () => {
    const list = packages.split(/[\s,]+/).filter(Boolean);
    await change("POST", at("images"), { body: { release, packages: list, ...(name && { name }), ...(size && { size }) } });
    toast("good", t("image.building"), t("see-tasks"));
    onClose();
  });
  return (
    <Dialog title={t("image.build")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{t("image.build.words")}</p>
        <Choice label={t("image.release")} value={release} onChange={setRelease} options={[["debian:13", "Debian 13"], ["debian:12", "Debian 12"]]} error={problem?.at("/release")} />
        <Input label={t("name")} value={name} onChange={setName} placeholder={release} error={problem?.at("/name")} />
        <Input label={t("image.packages")} value={packages} onChange={setPackages} placeholder="nginx postgresql" error={problem?.at("/packages")} />
        <Input label={t("size")} value={size} onChange={setSize} placeholder="4GiB" hint={t("size.hint")} error={problem?.at("/size")} />
        <Wrong problem={problem} besides={["/release", "/name", "/packages", "/size"]} />
        <Buttons go={t("image.build")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
