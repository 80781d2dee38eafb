// Pieces that most screens are made of.

import { type ReactNode, useEffect, useState } from "react";

import type { VmState } from "../api/client";
import { ago, clock, t } from "../text";
import { Icon, type IconName } from "./icon";

interface ScreenProps {
  title: ReactNode;
  /** The title without markup, for the window. */
  name: string;
  under?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  full?: boolean;
}

export function Screen({ title, name, under, actions, children, full = false }: ScreenProps) {
  useEffect(() => { document.title = `${name.slice(0, 80)} · Tessera`; }, [name]);
  return (
    <section className={full ? "screen full" : "screen"}>
      <div className="screen-head">
        <div className="screen-title"><h1>{title}</h1>{under && <div className="under">{under}</div>}</div>
        {actions && <div className="actions">{actions}</div>}
      </div>
      {children}
    </section>
  );
}

export function Card({ title, actions, children, className = "" }: { title?: ReactNode; actions?: ReactNode; children: ReactNode; className?: string }) {
  return (
    <div className={`card ${className}`}>
      {title && <div className="card-head"><h2>{title}</h2>{actions}</div>}
      {children}
    </div>
  );
}

/** What stands where there is nothing yet, and how there would be something. */
export function Empty({ icon, title, children }: { icon: IconName; title: string; children?: ReactNode }) {
  return <div className="empty"><Icon name={icon} size={40} /><h2>{title}</h2>{children}</div>;
}

export function Loading() {
  return <div className="loading" role="status"><span className="hidden-text">{t("loading")}</span><i /><i /><i /></div>;
}

export function Problem({ error }: { error: unknown }) {
  if (!error) return null;
  return <div className="notice risk" role="alert"><Icon name="warning" /><p><bdi>{error instanceof Error ? error.message : String(error)}</bdi></p></div>;
}

export function State({ state }: { state: VmState }) {
  return <span className={`state ${state}`}>{t(`state.${state}`)}</span>;
}

/** A time as people say it; the exact one on hover. */
export function When({ time }: { time: string | number }) {
  const [, again] = useState(0);
  useEffect(() => {
    const timer = window.setInterval(() => again((n) => n + 1), 20_000);
    return () => window.clearInterval(timer);
  }, []);
  return <time dateTime={new Date(time).toISOString()} title={clock(time)}>{ago(time)}</time>;
}

export function Facts({ children }: { children: ReactNode }) {
  return <dl className="facts">{children}</dl>;
}

export function Fact({ name, children }: { name: string; children: ReactNode }) {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}

export function Labels({ labels }: { labels: Record<string, string> | undefined }) {
  const all = Object.entries(labels ?? {});
  return <span className="chips">{all.map(([key, value]) => <bdi key={key} className="chip">{value ? `${key}=${value}` : key}</bdi>)}</span>;
}

export function Copy({ text, label }: { text: string; label?: string }) {
  const [copied, setCopied] = useState(false);
  const copy = () => {
    write(text).then(() => {
      setCopied(true);
      window.setTimeout(() => setCopied(false), 1500);
    }, () => undefined);
  };
  return (
    <button type="button" className="small" onClick={copy}>
      <Icon name={copied ? "check" : "copy"} size={14} />{copied ? t("copied") : (label ?? t("copy"))}
    </button>
  );
}

/** Puts text where it can be pasted from; the clipboard of the browser is missing where the page came over plain HTTP. */
async function write(text: string): Promise<void> {
  if (window.isSecureContext) return navigator.clipboard.writeText(text);
  const place = document.createElement("textarea");
  place.value = text;
  document.body.append(place);
  place.select();
  document.execCommand("copy");
  place.remove();
}

/** Text to copy: a command, a request, a secret. */
export function Code({ text, label }: { text: string; label: string }) {
  return (
    <figure className="code">
      <figcaption>{label}<Copy text={text} /></figcaption>
      <pre tabIndex={0} aria-label={label}>{text}</pre>
    </figure>
  );
}
