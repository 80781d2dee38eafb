// What can be done to guests: only what their state allows is offered, and what loses data is asked for twice.

import { useRef, useState } from "react";

import { act, remove, type Verb, type Vm } from "./api/client";
import { t } from "./text";

type Deed = Verb | "remove";

const ALLOWED: Record<Deed, readonly string[]> = {
  start: ["stopped", "crashed"],
  shutdown: ["running"],
  reboot: ["running"],
  pause: ["running"],
  resume: ["paused"],
  stop: ["running", "paused", "starting", "stopping"],
  remove: ["stopped", "crashed"],
};

const DEEDS = Object.keys(ALLOWED) as Deed[];

export function Verbs({ guests }: { guests: readonly Vm[] }) {
  const [problems, setProblems] = useState<string[]>([]);
  const [asked, setAsked] = useState<{ deed: Deed; to: readonly Vm[] } | null>(null);
  const dialog = useRef<HTMLDialogElement>(null);

  const run = async (deed: Deed, to: readonly Vm[]) => {
    setProblems([]);
    const results = await Promise.allSettled(to.map((vm) => (deed === "remove" ? remove(vm.id) : act(vm.id, deed))));
    setProblems(results.flatMap((r, i) => (r.status === "rejected" ? [`${to[i]?.name ?? ""}: ${String((r.reason as Error).message)}`] : [])));
  };
  const choose = (deed: Deed) => {
    const to = guests.filter((vm) => ALLOWED[deed].includes(vm.status.state));
    if (deed !== "remove" && deed !== "stop") return void run(deed, to);
    setAsked({ deed, to });
    dialog.current?.showModal();
  };
  const close = () => dialog.current?.close();

  return (
    <div className="verbs">
      {DEEDS.filter((deed) => guests.some((vm) => ALLOWED[deed].includes(vm.status.state))).map((deed) => (
        <button type="button" key={deed} className={deed === "remove" || deed === "stop" ? "risky" : ""} onClick={() => choose(deed)}>
          {t(deed)}
        </button>
      ))}
      <dialog ref={dialog} aria-labelledby="consequence">
        <p id="consequence">{asked && t(asked.deed === "remove" ? "lose" : "cut", { n: asked.to.length })}</p>
        <ul>{asked?.to.slice(0, 8).map((vm) => <li key={vm.id}><bdi>{vm.name}</bdi></li>)}{asked && asked.to.length > 8 && <li>…</li>}</ul>
        <div className="verbs">
          <button type="button" onClick={close}>{t("cancel")}</button>
          <button type="button" className="risky" onClick={() => { close(); if (asked) void run(asked.deed, asked.to); }}>
            {asked && t(asked.deed)}
          </button>
        </div>
      </dialog>
      {problems.length > 0 && <ul className="problems" role="alert">{problems.slice(0, 5).map((p) => <li key={p}><bdi>{p}</bdi></li>)}</ul>}
    </div>
  );
}
