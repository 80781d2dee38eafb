// A question or a form that has to be dealt with before anything else.

import { type ReactNode, useId, useLayoutEffect, useRef } from "react";

import { t } from "../text";
import { Icon } from "./icon";

interface Props {
  title: string;
  children: ReactNode;
  onClose: () => void;
  wide?: boolean;
}

/** It is there as long as it is drawn. */
export function Dialog({ title, children, onClose, wide = false }: Props) {
  const place = useRef<HTMLDialogElement>(null);
  const name = useId();
  // Closed while it is still on the page: only then does the focus go back to where it was.
  useLayoutEffect(() => {
    const dialog = place.current;
    if (dialog && !dialog.open) {
      dialog.showModal();
      // What has to be filled in, or what does no harm; by itself the browser takes the cross in the corner.
      dialog.querySelector<HTMLElement>("form :is(input, select, textarea), form .buttons button")?.focus();
    }
    return () => dialog?.close();
  }, []);
  return (
    <dialog
      ref={place}
      className={wide ? "dialog wide" : "dialog"}
      aria-labelledby={name}
      onCancel={(event) => { event.preventDefault(); onClose(); }}
      onPointerDown={(event) => { if (event.target === place.current) onClose(); }}
    >
      <div className="dialog-inside">
        <header>
          <h2 id={name}>{title}</h2>
          <button type="button" className="plain round" aria-label={t("close")} onClick={onClose}><Icon name="close" /></button>
        </header>
        {children}
      </div>
    </dialog>
  );
}
