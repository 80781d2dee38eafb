// Pieces of alarms: how bad, where they stand, and when they are raised, in words.

import { Link } from "@tanstack/react-router";
import { useEffect } from "react";

import type { Schemas } from "../api/client";
import { selectLink, useLive } from "../api/live";
import { type ActiveAlarm, type Alarm, queries, useAlarms } from "../api/queries";
import { duration, number, t } from "../text";
import { Icon } from "./icon";

type SeverityWord = Schemas["Severity"];
type Metric = Schemas["Metric"];

/** The metrics that are bad when they are low. */
export const LOW: readonly Metric[] = ["disk.room", "expiry.days"];
export const METRICS: readonly Metric[] = ["pool.used", "disk.room", "agent.silent", "host.memory", "host.cpu", "expiry.days"];
const UNITS: Readonly<Record<Metric, "percent" | "seconds" | "days">> = {
  "pool.used": "percent", "disk.room": "percent", "agent.silent": "seconds", "host.memory": "percent", "host.cpu": "percent", "expiry.days": "days",
};

export function unit(metric: Metric): string {
  return t(`unit.${UNITS[metric]}`);
}

export function Severity({ severity }: { severity: SeverityWord }) {
  return <span className={`chip ${severity === "critical" ? "risk" : severity === "warning" ? "warn" : ""}`}>{t(`severity.${severity}`)}</span>;
}

export function AlarmState({ state }: { state: Schemas["AlarmState"] }) {
  return <span className={`state alarm-${state}`}>{t(`alarm.state.${state}`)}</span>;
}

/** When an alarm is raised. */
export function condition({ trigger }: Alarm): string {
  if ("metric" in trigger) {
    const { of, above, below, for: hold = 0 } = trigger.metric;
    const threshold = `${number(above ?? below ?? 0, 1)} ${unit(of)}`;
    const words = t(above == null ? "alarm.below" : "alarm.above", { metric: t(`metric.${of}`), threshold });
    return hold ? `${words} ${t("alarm.held", { time: duration(hold * 1000) })}` : words;
  }
  const { kind, how = [], count = 1, within = 3600 } = trigger.event;
  return t("alarm.counted", { kind: how.length ? `${kind} (${how.join(", ")})` : kind, n: count, time: duration(within * 1000) });
}

export interface Raised {
  alarm: Alarm;
  one: ActiveAlarm;
}

const ORDER: readonly SeverityWord[] = ["critical", "warning", "info"];

/** Everything that is raised: what nobody knows of first, the worst first. */
export function raisedOf(alarms: readonly Alarm[]): Raised[] {
  const all = alarms.flatMap((alarm) => (alarm.status.active ?? []).filter((one) => one.state !== "pending").map((one) => ({ alarm, one })));
  const rank = ({ alarm, one }: Raised) => (one.acknowledged ? 10 : 0) + ORDER.indexOf(alarm.severity ?? "warning");
  return all.sort((a, b) => rank(a) - rank(b) || (a.one.since < b.one.since ? 1 : -1));
}

/** How much is raised that nobody knows of yet. */
export function Bell() {
  const { data } = useAlarms();
  const link = useLive(selectLink);
  // What was raised while the host did not answer was told to nobody here.
  useEffect(() => { if (link === "live") void queries.invalidateQueries({ queryKey: ["alarms"] }); }, [link]);
  const waiting = raisedOf(data ?? []).filter(({ one }) => !one.acknowledged);
  const worst = waiting[0]?.alarm.severity ?? "info";
  return (
    <Link to="/alarms" className="bell" aria-label={t("alarms.bell", { n: waiting.length })} title={t("alarms.bell", { n: waiting.length })}>
      <Icon name="bell" size={18} />{waiting.length > 0 && <span className={`bell-count ${worst}`}>{number(waiting.length)}</span>}
    </Link>
  );
}
