// A guest's serial line in a terminal. It is loaded when the first console is opened.

import "@xterm/xterm/css/xterm.css";

import { CanvasAddon } from "@xterm/addon-canvas";
import { FitAddon } from "@xterm/addon-fit";
import { Terminal as Screen } from "@xterm/xterm";
import { useEffect, useRef, useState } from "react";

import { at } from "../api/client";
import { t } from "../text";
import { Icon } from "./icon";
import { guard } from "./terminal-guard";

const SCROLLBACK = 10_000;
/** How often a connection that broke is tried again by itself. */
const TRIES = 30;

export default function Terminal({ id, name }: { id: string; name: string }) {
  const place = useRef<HTMLDivElement>(null);
  const screen = useRef<Screen>();
  const clear = useRef<HTMLButtonElement>(null);
  const [attempt, setAttempt] = useState(0);
  const [state, setState] = useState<"connecting" | "open" | "ended">("connecting");

  useEffect(() => {
    if (!place.current) return;
    const terminal = new Screen({
      scrollback: SCROLLBACK, fontSize: 13, cursorBlink: true, fontFamily: "ui-monospace, 'DejaVu Sans Mono', monospace", screenReaderMode: false,
      theme: { background: "#0d1210", foreground: "#dfe7e3", cursor: "#63cbb0", selectionBackground: "#2f5a4e" },
    });
    screen.current = terminal;
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    // Before the terminal opens: its own renderer makes style elements, which the page's policy forbids.
    terminal.loadAddon(new CanvasAddon());
    terminal.open(place.current);
    const sized = new ResizeObserver(() => fit.fit());
    sized.observe(place.current);
    // What copies elsewhere copies here; Ctrl-C is the guest's. So is Tab, so that another key leads out: that of `tessera vm console`.
    terminal.attachCustomKeyEventHandler((event) => {
      if (event.ctrlKey && event.key === "]") {
        event.preventDefault();
        if (event.type === "keydown") clear.current?.focus();
        return false;
      }
      const copies = event.type === "keydown" && event.ctrlKey && event.shiftKey && event.code === "KeyC" && terminal.hasSelection();
      if (!copies) return true;
      event.preventDefault();
      document.execCommand("copy");
      return false;
    });
    const connection = connect(terminal, guard(terminal), id, setState);
    return () => {
      connection.end();
      sized.disconnect();
      terminal.dispose();
      screen.current = undefined;
    };
  }, [id, attempt]);

  return (
    <div className="console">
      <div className="console-bar">
        <span className={`link ${state === "open" ? "live" : "lost"}`} role="status">{t(`console.${state}`)}</span>
        <span className="grow" />
        {state === "ended" && <button type="button" className="small" onClick={() => setAttempt(attempt + 1)}><Icon name="reboot" size={12} />{t("console.again")}</button>}
        <span className="console-keys">{t("console.keys")}</span>
        <button type="button" ref={clear} className="small" onClick={() => { screen.current?.clear(); screen.current?.focus(); }}>{t("console.clear")}</button>
        <button type="button" className="small" onClick={() => { void place.current?.closest(".console")?.requestFullscreen?.(); screen.current?.focus(); }}><Icon name="open" size={12} />{t("console.whole")}</button>
      </div>
      <div ref={place} className="terminal-place" role="group" aria-label={`${t("console")}: ${name}`} />
    </div>
  );
}

/** Carries what is said and typed, and connects again when that breaks. */
function connect(terminal: Screen, reset: () => void, id: string, tell: (state: "connecting" | "open" | "ended") => void) {
  let [gone, failures, retry] = [false, 0, 0];
  let socket: WebSocket | undefined;
  const open = () => {
    const line = new WebSocket(`${location.origin.replace(/^http/, "ws")}${at("vms", id, "console")}`);
    socket = line;
    line.binaryType = "arraybuffer";
    line.onopen = () => {
      // The daemon begins with what was said lately, so what is on the screen would come twice.
      reset();
      failures = 0;
      tell("open");
    };
    line.onmessage = (event: MessageEvent<ArrayBuffer>) => terminal.write(new Uint8Array(event.data));
    line.onclose = () => {
      if (gone) return;
      failures += 1;
      tell(failures > TRIES ? "ended" : "connecting");
      if (failures <= TRIES) retry = window.setTimeout(open, Math.min(300 * failures, 5000));
    };
  };
  tell("connecting");
  open();
  const encoder = new TextEncoder();
  terminal.onData((typed) => {
    if (socket?.readyState === WebSocket.OPEN) socket.send(encoder.encode(typed));
  });
  return {
    end: () => {
      gone = true;
      window.clearTimeout(retry);
      socket?.close();
    },
  };
}
