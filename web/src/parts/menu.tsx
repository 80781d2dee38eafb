// A button with more behind it.

import { type KeyboardEvent, type ReactNode, useEffect, useId, useRef, useState } from "react";

import { Icon, type IconName } from "./icon";

export interface Item {
  text: string;
  icon?: IconName;
  risky?: boolean;
  disabled?: boolean;
  do: () => void;
}

export function Menu({ label, items, children, className = "" }: { label: string; items: readonly Item[]; children?: ReactNode; className?: string }) {
  const [open, setOpen] = useState(false);
  const place = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const id = useId();

  useEffect(() => {
    if (!open) return;
    place.current?.querySelector<HTMLElement>("[role=menuitem]:not(:disabled)")?.focus();
    const outside = (event: Event) => { if (!place.current?.contains(event.target as Node)) setOpen(false); };
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, [open]);

  const close = () => { setOpen(false); button.current?.focus(); };
  const keys = (event: KeyboardEvent) => {
    if (!open) return;
    const all = [...(place.current?.querySelectorAll<HTMLElement>("[role=menuitem]:not(:disabled)") ?? [])];
    const here = all.indexOf(document.activeElement as HTMLElement);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      all[(to + all.length) % all.length]?.focus();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Tab") setOpen(false);
  };

  if (items.length === 0) return null;
  return (
    <div className="menu" ref={place} onKeyDown={keys}>
      <button type="button" ref={button} className={className} aria-haspopup="menu" aria-expanded={open} aria-controls={open ? id : undefined} aria-label={children ? undefined : label} onClick={() => setOpen(!open)}>
        {children ?? <Icon name="more" />}
      </button>
      {open && (
        <div className="menu-list" role="menu" id={id} aria-label={label}>
          {items.map((item) => (
            <button key={item.text} type="button" role="menuitem" tabIndex={-1} disabled={item.disabled} className={item.risky ? "risky" : ""} onClick={() => { close(); item.do(); }}>
              {item.icon && <Icon name={item.icon} />}{item.text}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
