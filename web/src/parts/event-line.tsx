// One event on a line: to what, what happened, when.

import { Link } from "@tanstack/react-router";

import type { Event } from "../api/client";
import { told } from "../text";
import { When } from "./basics";

/** What happened, in words; English ones of the daemon where the catalogue has none. */
export function words(event: Event): string {
  const { alarm } = (event.details ?? {}) as { alarm?: string };
  const known = told("event", event.kind, "", { alarm: alarm ?? "" });
  return known || event.message;
}

export function tone(event: Event): "risk" | "good" | "" {
  if (/crashed|failed|not-stopped|alarm.raised/.test(event.kind)) return "risk";
  return /started|created|resumed/.test(event.kind) ? "good" : "";
}

export function Target({ target = "", name = "" }: { target?: string | undefined; name?: string | undefined }) {
  const [, kind] = /^\/api\/v1\/([a-z]+)/.exec(target) ?? [];
  if (kind === "vms" && name) return <Link to="/guests/$name" params={{ name }}><bdi>{name}</bdi></Link>;
  if (kind === "networks" && name) return <Link to="/networks/$name" params={{ name }}><bdi>{name}</bdi></Link>;
  return <bdi>{name}</bdi>;
}

export function EventLine({ event }: { event: Event }) {
  return (
    <>
      <span className={`dot ${tone(event)}`} aria-hidden="true" />
      <span className="grow"><Target target={event.target} name={event.name} /> <bdi>{words(event)}</bdi></span>
      <span className="hint nowrap"><When time={event.time} /></span>
    </>
  );
}
