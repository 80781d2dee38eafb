// What can be done to the guests at hand: the usual ones as buttons, the rest behind one.

import { useState } from "react";

import type { Vm } from "../api/client";
import { usePowers } from "../api/session";
import { t } from "../text";
import { DEEDS, type Deed, perform, possible, takers } from "./deeds";
import { Dialog } from "./dialog";
import { Buttons, Input } from "./form";
import { Icon } from "./icon";
import { type Item, Menu } from "./menu";

/** Buttons that are in sight; others are in the menu. */
const SHOWN: readonly Deed[] = ["start", "resume", "shutdown", "stop"];

export function Verbs({ vms, more = [], all = false }: { vms: readonly Vm[]; more?: readonly Item[]; all?: boolean }) {
  const powers = usePowers();
  const [asked, setAsked] = useState<Deed>();
  const deeds = possible(vms, powers);
  const choose = (deed: Deed) => {
    if (DEEDS[deed].loses) setAsked(deed);
    else void perform(deed, takers(deed, vms));
  };
  const shown = deeds.filter((deed) => all || SHOWN.includes(deed));
  const hidden = deeds.filter((deed) => !shown.includes(deed));
  return (
    <div className="verbs">
      {shown.map((deed) => (
        <button key={deed} type="button" className={DEEDS[deed].loses ? "risky" : ""} onClick={() => choose(deed)}>
          <Icon name={DEEDS[deed].icon} />{t(`deed.${deed}`)}
        </button>
      ))}
      <Menu
        label={t("more")}
        items={[...more, ...hidden.map((deed) => ({ text: t(`deed.${deed}`), icon: DEEDS[deed].icon, risky: DEEDS[deed].loses !== "", do: () => choose(deed) }))]}
      />
      {asked && <Consequence deed={asked} vms={takers(asked, vms)} onClose={() => setAsked(undefined)} />}
    </div>
  );
}

/** Asks before something is lost. Where it is data, a name or a number has to be typed. */
export function Consequence({ deed, vms, onClose }: { deed: Deed; vms: readonly Vm[]; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const about = DEEDS[deed];
  const word = vms.length === 1 ? (vms[0]?.name ?? "") : String(vms.length);
  const disks = vms.reduce((sum, vm) => sum + (vm.disks ?? []).filter((disk) => "image" in disk || "size" in disk).length, 0);
  const data = about.loses === "data" && disks > 0;
  const go = () => {
    onClose();
    void perform(deed, vms);
  };
  return (
    <Dialog title={t(`ask.${deed === "remove" ? "remove" : deed === "reset" ? "reset" : "stop"}`, { n: vms.length, name: word })} onClose={onClose}>
      <form className="dialog-form" onSubmit={(event) => { event.preventDefault(); go(); }}>
        <p>{data ? t("lose.data", { n: disks }) : deed === "remove" ? t("lose.nothing") : t("lose.unwritten")}</p>
        {vms.length > 1 && <ul className="names">{vms.slice(0, 8).map((vm) => <li key={vm.id}><bdi>{vm.name}</bdi></li>)}{vms.length > 8 && <li>{t("and-more", { n: vms.length - 8 })}</li>}</ul>}
        {data && <Input label={t(vms.length === 1 ? "type.name" : "type.number", { name: word })} value={typed} onChange={setTyped} autoFocus />}
        <Buttons go={t(`deed.${deed}`)} busy={false} risky disabled={data && typed !== word} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
