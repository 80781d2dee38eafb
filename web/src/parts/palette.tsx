// The command palette: places, guests, and what can be done to them, by typing a few letters (Ctrl-K).

import { useNavigate } from "@tanstack/react-router";
import { type KeyboardEvent, useId, useLayoutEffect, useMemo, useRef, useState } from "react";

import { selectVms, useLive } from "../api/live";
import { usePowers } from "../api/session";
import { t } from "../text";
import { DEEDS, type Deed, perform, possible } from "./deeds";
import { Icon, type IconName } from "./icon";
import { PLACES } from "./places";
import { Consequence } from "./verbs";
import type { Vm } from "../api/client";

interface Command {
  id: string;
  icon: IconName;
  text: string;
  under: string;
  do: () => void;
}

const MOST = 40;

/** How well `text` fits what was typed: all letters in order, better where words begin and where they follow each other. */
export function score(text: string, typed: string): number {
  const [where, what] = [text.toLowerCase(), typed.toLowerCase()];
  const whole = where.indexOf(what);
  if (whole >= 0) return 1000 - whole - where.length / 100;
  let [from, points] = [0, 0];
  for (const letter of what.replace(/\s+/g, "")) {
    const found = where.indexOf(letter, from);
    if (found < 0) return 0;
    points += found === from ? 3 : where[found - 1] === " " || where[found - 1] === "-" ? 2 : 0.5;
    from = found + 1;
  }
  return points;
}

export function Palette({ onClose }: { onClose: () => void }) {
  const place = useRef<HTMLDialogElement>(null);
  const [typed, setTyped] = useState("");
  const [chosen, setChosen] = useState(0);
  const [asked, setAsked] = useState<{ deed: Deed; vm: Vm }>();
  const vms = useLive(selectVms);
  const powers = usePowers();
  const navigate = useNavigate();
  const list = useId();

  // Closed while it is still on the page: only then does the focus go back to where it was.
  useLayoutEffect(() => {
    const dialog = place.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => dialog?.close();
  }, []);

  const found = useMemo(() => {
    const commands: Command[] = PLACES.filter((one) => one.may(powers)).map((one) => ({
      id: one.to, icon: one.icon, text: t(one.name), under: t("palette.go"), do: () => void navigate({ to: one.to }),
    }));
    if (powers.manage) commands.push({ id: "create", icon: "add", text: t("create.title"), under: t("palette.do"), do: () => void navigate({ to: "/create" }) });
    const words = typed.trim();
    const near = words ? vms.filter((vm) => words.split(/\s+/).some((word) => score(vm.name, word) > 0)).slice(0, 500) : vms.slice(0, 8);
    for (const vm of near) {
      const { name } = vm;
      commands.push({ id: vm.id, icon: "guests", text: name, under: t(`state.${vm.status.state}`), do: () => void navigate({ to: "/guests/$name", params: { name } }) });
      if (!words) continue;
      for (const deed of possible([vm], powers)) {
        const text = `${t(`deed.${deed}`)} ${name}`;
        const ask = () => { place.current?.close(); setAsked({ deed, vm }); };
        const run = () => { if (DEEDS[deed].loses) ask(); else void perform(deed, [vm]); };
        commands.push({ id: `${vm.id}-${deed}`, icon: DEEDS[deed].icon, text, under: t("palette.do"), do: run });
      }
    }
    if (!words) return commands.slice(0, MOST);
    const scored = commands.map((command) => ({ command, points: score(command.text, words) })).filter((one) => one.points > 0);
    return scored.sort((a, b) => b.points - a.points).slice(0, MOST).map((one) => one.command);
  }, [typed, vms, powers, navigate]);

  const at = Math.min(chosen, Math.max(0, found.length - 1));
  const run = (command: Command | undefined) => {
    if (!command) return;
    command.do();
    if (!/-(reset|stop|remove)$/.test(command.id)) onClose();
  };
  const keys = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const next = (at + step + found.length) % Math.max(1, found.length);
      setChosen(next);
      document.getElementById(`${list}-${String(next)}`)?.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter" && !event.nativeEvent.isComposing) {
      event.preventDefault();
      run(found[at]);
    }
  };

  if (asked) return <Consequence deed={asked.deed} vms={[asked.vm]} onClose={onClose} />;
  return (
    <dialog ref={place} className="palette" aria-label={t("palette.title")} onCancel={(e) => { e.preventDefault(); onClose(); }} onPointerDown={(e) => { if (e.target === place.current) onClose(); }}>
      <div className="palette-inside">
        <div className="palette-typed">
          <Icon name="search" />
          <input
            type="text" role="combobox" autoFocus aria-expanded="true" aria-controls={list} aria-label={t("palette.title")} aria-autocomplete="list"
            aria-activedescendant={found.length ? `${list}-${String(at)}` : undefined} placeholder={t("palette.hint")} value={typed} spellCheck={false}
            onChange={(e) => { setTyped(e.target.value); setChosen(0); }} onKeyDown={keys}
          />
          <kbd>Esc</kbd>
        </div>
        <ul role="listbox" id={list} aria-label={t("palette.title")}>
          {found.map((command, n) => (
            <li key={command.id} id={`${list}-${String(n)}`} role="option" aria-selected={n === at} onClick={() => run(command)} onPointerMove={() => setChosen(n)}>
              <Icon name={command.icon} /><bdi>{command.text}</bdi><span className="hint">{command.under}</span>
            </li>
          ))}
        </ul>
        {found.length === 0 && <p className="hint palette-none">{t("palette.none")}</p>}
      </div>
    </dialog>
  );
}
