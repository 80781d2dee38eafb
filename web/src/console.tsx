// A guest's serial line in a terminal. It is loaded when the first console is opened.

import "@xterm/xterm/css/xterm.css";

import { CanvasAddon } from "@xterm/addon-canvas";
import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import { useEffect, useRef, useState } from "react";

import { t } from "./text";

export default function Console({ id, name }: { id: string; name: string }) {
  const place = useRef<HTMLDivElement>(null);
  const [attempt, setAttempt] = useState(0);
  const [ended, setEnded] = useState(false);

  useEffect(() => {
    if (!place.current) return;
    const terminal = new Terminal({ scrollback: 10000, fontSize: 13, cursorBlink: true, fontFamily: "ui-monospace, monospace" });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    // Before the terminal opens: its own renderer makes style elements, which the page's policy forbids.
    terminal.loadAddon(new CanvasAddon());
    terminal.open(place.current);
    const sized = new ResizeObserver(() => fit.fit());
    sized.observe(place.current);

    let retry = 0;
    let gone = false;
    let socket: WebSocket | undefined;
    let failures = 0;
    const connect = () => {
      socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/v1/vms/${encodeURIComponent(id)}/console`);
      socket.binaryType = "arraybuffer";
      socket.onopen = () => {
        // The daemon begins with what was said lately, so what is on the screen would come twice.
        terminal.reset();
        failures = 0;
        setEnded(false);
      };
      socket.onmessage = (event: MessageEvent<ArrayBuffer>) => terminal.write(new Uint8Array(event.data));
      socket.onclose = () => {
        if (gone) return;
        setEnded(true);
        if (++failures <= 30) retry = window.setTimeout(connect, Math.min(500 * failures, 5000));
      };
    };
    connect();
    const encoder = new TextEncoder();
    terminal.onData((typed) => { if (socket?.readyState === WebSocket.OPEN) socket.send(encoder.encode(typed)); });
    return () => {
      gone = true;
      window.clearTimeout(retry);
      socket?.close();
      sized.disconnect();
      terminal.dispose();
    };
  }, [id, attempt]);

  return (
    <div className="console">
      {ended && <p role="status">{t("ended")} <button type="button" onClick={() => setAttempt(attempt + 1)}>{t("again")}</button></p>}
      <div ref={place} className="terminal-place" role="group" aria-label={`${t("console")}: ${name}`} />
    </div>
  );
}
