// Short words at the edge of the page about what has just happened.

import { useSyncExternalStore } from "react";

import { refusal } from "../api/client";
import { t } from "../text";
import { Icon } from "./icon";

interface Toast {
  id: number;
  kind: "good" | "risk";
  text: string;
  more?: string | undefined;
}

let toasts: readonly Toast[] = [];
let next = 1;
const listeners = new Set<() => void>();

function set(all: readonly Toast[]): void {
  toasts = all;
  for (const listener of listeners) listener();
}

/** Shows a word; what went well goes away by itself. */
export function toast(kind: Toast["kind"], text: string, more?: string): void {
  const id = next++;
  set([...toasts.slice(-3), { id, kind, text, more }]);
  window.setTimeout(() => dismiss(id), kind === "good" ? 4000 : 15_000);
}

/** Says why what was asked for is not done. */
export function failed(error: unknown): void {
  toast("risk", t("refused"), refusal(error).message);
}

function dismiss(id: number): void {
  set(toasts.filter((one) => one.id !== id));
}

export function Toasts() {
  const shown = useSyncExternalStore((listener) => { listeners.add(listener); return () => listeners.delete(listener); }, () => toasts);
  return (
    <div className="toasts" role="status" aria-live="polite">
      {shown.map((one) => (
        <div key={one.id} className={`toast ${one.kind}`}>
          <Icon name={one.kind === "good" ? "check" : "warning"} />
          <div><strong><bdi>{one.text}</bdi></strong>{one.more && <p><bdi>{one.more}</bdi></p>}</div>
          <button type="button" className="plain round" aria-label={t("close")} onClick={() => dismiss(one.id)}><Icon name="close" size={12} /></button>
        </div>
      ))}
    </div>
  );
}
