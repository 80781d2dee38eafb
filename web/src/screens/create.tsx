// A new guest in three steps, with defaults that work.

import { Link, useNavigate } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";

import { at, change, type Refusal, refusal, type VmDefinition } from "../api/client";
import { type HostInfo, useHost, useImages, useNetworks, useTemplates } from "../api/queries";
import { Code, Empty, Fact, Facts, Loading, Screen } from "../parts/basics";
import { Area, Check, Choice, Input, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { bytes, number, t } from "../text";
import { blank, commandOf, type Draft, definitionOf, requestOf } from "./draft";

const STEPS = ["create.from", "create.size", "create.inside"] as const;

/** Which step shows what the daemon may find wrong. */
const SHOWN: readonly (readonly string[])[] = [["/name", "/disks"], ["/cpus", "/memory", "/nics"], ["/cloud_init", "/labels", "/description"]];

export function Create() {
  const images = useImages();
  const templates = useTemplates();
  const { data: networks = [] } = useNetworks();
  const { data: host } = useHost();
  const navigate = useNavigate();
  const [draft, setDraft] = useState<Draft>(blank);
  const [step, setStep] = useState(0);
  const [problem, setProblem] = useState<Refusal>();
  const [busy, setBusy] = useState(false);
  const set = (part: Partial<Draft>) => setDraft({ ...draft, ...part });
  if (images.isLoading || templates.isLoading) return <Screen title={t("create.title")} name={t("create.title")}><Loading /></Screen>;
  const sources = [...(templates.data ?? []).map((one) => `template:${one.name}`), ...(images.data ?? []).map((one) => `image:${one.name}`)];
  const whole = { ...draft, source: draft.source || (sources[0] ?? "") };
  const definition = definitionOf(whole);
  if (sources.length === 0) {
    return (
      <Screen title={t("create.title")} name={t("create.title")}>
        <Empty icon="images" title={t("create.no-image")}>
          <p>{t("create.no-image.words")}</p><p><Link to="/images" className="button primary">{t("images")}</Link></p>
          <Code label={t("command")} text="tessera image build debian:13" />
        </Empty>
      </Screen>
    );
  }
  const send = () => {
    setBusy(true);
    setProblem(undefined);
    const { query } = requestOf(whole);
    change("POST", at("vms"), { query, body: definition }).then(
      () => void navigate({ to: "/guests/$name/$tab", params: { name: whole.name, tab: whole.start ? "console" : "summary" } }),
      (error: unknown) => {
        const found = refusal(error);
        setProblem(found);
        // The step that has the field is opened, so that the words stand beside it.
        const wrong = SHOWN.findIndex((pointers) => pointers.some((pointer) => found.at(pointer)));
        if (wrong >= 0) setStep(wrong);
      },
    ).finally(() => setBusy(false));
  };
  const next = (event: FormEvent) => {
    event.preventDefault();
    if (step < STEPS.length - 1) setStep(step + 1);
    else send();
  };
  return (
    <Screen title={t("create.title")} name={t("create.title")} under={t("create.under")}>
      <div className="create">
        <form className="card" onSubmit={next}>
          <ol className="steps">
            {STEPS.map((name, n) => (
              <li key={name}><button type="button" className="plain" aria-current={n === step ? "step" : undefined} onClick={() => { if (n < step || whole.name) setStep(n); }}><b>{n + 1}</b>{t(name)}</button></li>
            ))}
          </ol>
          {step === 0 && <From draft={whole} set={set} sources={sources} problem={problem} />}
          {step === 1 && <Size draft={whole} set={set} networks={networks.map((one) => one.name)} problem={problem} />}
          {step === 2 && <Inside draft={whole} set={set} problem={problem} />}
          <Wrong problem={problem} besides={SHOWN[step] ?? []} />
          <div className="buttons">
            {step > 0 && <button type="button" onClick={() => setStep(step - 1)}>{t("back")}</button>}
            {step < STEPS.length - 1 && <button type="button" disabled={!whole.name || busy} onClick={send}>{t("create.now")}</button>}
            <button type="submit" className="primary" disabled={!whole.name || busy} aria-busy={busy}>{t(step < STEPS.length - 1 ? "next" : "create.go")}</button>
          </div>
        </form>
        <aside className="create-aside">
          {host && <Cost host={host} draft={whole} definition={definition} />}
          <Code label={t("command")} text={commandOf(whole)} />
          <Code label={t("api.call")} text={requestOf(whole).text(location.origin)} />
        </aside>
      </div>
    </Screen>
  );
}

interface Part {
  draft: Draft;
  set: (part: Partial<Draft>) => void;
  problem: Refusal | undefined;
}

function From({ draft, set, sources, problem }: Part & { sources: readonly string[] }) {
  return (
    <>
      <Input label={t("name")} value={draft.name} onChange={(name) => set({ name })} error={problem?.at("/name")} hint={t("name.hint")} placeholder="web-1" required autoFocus />
      <fieldset className="sources">
        <legend>{t("create.source")}</legend>
        {sources.map((one) => {
          const [kind = "", ...rest] = one.split(":");
          return (
            <label key={one} className={draft.source === one ? "source on" : "source"}>
              <input type="radio" name="source" value={one} checked={draft.source === one} onChange={() => set({ source: one })} />
              <Icon name={kind === "template" ? "clone" : "images"} size={20} /><span><strong><bdi>{rest.join(":")}</bdi></strong><small>{t(kind === "template" ? "template" : "image")}</small></span>
            </label>
          );
        })}
      </fieldset>
      {problem?.at("/disks") && <p className="error" role="alert">{problem.at("/disks")}</p>}
    </>
  );
}

function Size({ draft, set, networks, problem }: Part & { networks: readonly string[] }) {
  const template = draft.source.startsWith("template:");
  return (
    <>
      {template && <p className="hint">{t("create.template.words")}</p>}
      <div className="pair">
        <Input label={t("cpus")} type="number" min={1} value={draft.cpus} onChange={(cpus) => set({ cpus })} error={problem?.at("/cpus")} placeholder={template ? t("create.as-template") : "1"} />
        <Input label={t("memory")} value={draft.memory} onChange={(memory) => set({ memory })} error={problem?.at("/memory")} hint={t("size.hint")} placeholder={template ? t("create.as-template") : "1GiB"} />
      </div>
      {!template && <Input label={t("create.disk")} value={draft.grow} onChange={(grow) => set({ grow })} error={problem?.at("/disks")} hint={t("create.disk.hint")} placeholder="10GiB" />}
      <Choice label={t("network")} value={draft.network} onChange={(network) => set({ network })} error={problem?.at("/nics")}
        options={[...(template ? [["", t("create.as-template")] as const] : []), ["user", t("nic.user")], ["none", t("nic.none")], ...networks.map((one) => [`named:${one}`, one] as const)]} />
    </>
  );
}

function Inside({ draft, set, problem }: Part) {
  return (
    <>
      <div className="pair">
        <Input label={t("create.user")} value={draft.user} onChange={(user) => set({ user })} error={problem?.at("/cloud_init")} placeholder="ann" hint={t("create.user.hint")} />
        <Input label={t("labels")} value={draft.labels} onChange={(labels) => set({ labels })} error={problem?.at("/labels")} placeholder="env=test" hint={t("labels.hint")} />
      </div>
      <Area label={t("create.keys")} value={draft.keys} onChange={(keys) => set({ keys })} rows={3} mono placeholder="ssh-ed25519 AAAA… ann@laptop" hint={t("create.keys.hint")} />
      <Input label={t("description")} value={draft.description} onChange={(description) => set({ description })} error={problem?.at("/description")} />
      <Check label={t("create.start")} checked={draft.start} onChange={(start) => set({ start })} />
      <Check label={t("autostart.long")} checked={draft.autostart} onChange={(autostart) => set({ autostart })} />
    </>
  );
}

/** Whether it fits, by what is promised to others that run. */
function Cost({ host, draft, definition }: { host: HostInfo; draft: Draft; definition: Partial<VmDefinition> }) {
  const template = draft.source.startsWith("template:");
  const cpus = Number(definition.cpus ?? 1);
  const memory = parse(String(definition.memory ?? "1GiB"));
  const free = Number(host.memory_available);
  const fits = memory <= free;
  return (
    <div className="card">
      <div className="card-head"><h2>{t("create.cost")}</h2></div>
      {template && !definition.memory && <p className="hint">{t("create.template.cost")}</p>}
      <Facts>
        <Fact name={t("cpus")}>{t("create.cost.cpus", { n: number(host.cpus_promised + cpus), of: number(host.cpus) })}</Fact>
        <Fact name={t("memory")}>{t("create.cost.memory", { n: bytes(memory), free: bytes(free) })}</Fact>
      </Facts>
      <p className={fits ? "good-words" : "risk-words"}><Icon name={fits ? "check" : "warning"} /> {t(fits ? "create.fits" : "create.does-not-fit")}</p>
    </div>
  );
}

function parse(text: string): number {
  const [, digits = "0", unit = ""] = /^([0-9.]+)\s*([kmgt]?)/i.exec(text) ?? [];
  return Number(digits) * 1024 ** ("kmgt".indexOf(unit.toLowerCase() || "-") + 1);
}
