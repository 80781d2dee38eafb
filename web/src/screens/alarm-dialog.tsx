// What an alarm watches, when it is raised, and what it does then.

import { useState } from "react";

import { at, change, getVersion, type Schemas } from "../api/client";
import { type Alarm, queries, usePools } from "../api/queries";
import { LOW, METRICS, unit } from "../parts/alarm";
import { Dialog } from "../parts/dialog";
import { Area, Buttons, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { t } from "../text";
import { labelsOf, labelsPatch, labelsText } from "./guest-dialogs";

type Metric = Schemas["Metric"];
type SeverityWord = Schemas["Severity"];
type Action = Schemas["AlarmAction"];

const SEVERITIES: readonly SeverityWord[] = ["info", "warning", "critical"];
const KINDS = ["vm.crashed", "vm.not-stopped", "vm.not-suspended", "vm.no-room", "task.failed"];
const FIELDS = ["/name", "/description", "/trigger", "/scope/labels", "/scope/pool", "/actions"];

/** An action as it is typed: the arguments of a command each on a line of their own. */
interface Typed {
  kind: "command" | "webhook";
  text: string;
  timeout: string;
}

function typed(action: Action): Typed {
  const timeout = String(action.timeout ?? 30);
  return action.webhook ? { kind: "webhook", text: action.webhook, timeout } : { kind: "command", text: (action.command ?? []).join("\n"), timeout };
}

function actionOf({ kind, text, timeout }: Typed): Action {
  return { timeout: Number(timeout), ...(kind === "webhook" ? { webhook: text.trim() } : { command: text.split("\n").filter((line) => line !== "") }) };
}

function shown(number: number | null | undefined): string {
  return number == null ? "" : String(number);
}

function given(text: string): number | null {
  return text.trim() === "" ? null : Number(text);
}

export function AlarmDialog({ alarm, onClose }: { alarm?: Alarm; onClose: () => void }) {
  const before = alarm?.trigger;
  const number = before && "metric" in before ? before.metric : undefined;
  const happening = before && "event" in before ? before.event : undefined;
  const [name, setName] = useState<string>(alarm?.name ?? "");
  const [description, setDescription] = useState(alarm?.description ?? "");
  const [severity, setSeverity] = useState<SeverityWord>(alarm?.severity ?? "warning");
  const [watches, setWatches] = useState<Metric | "event">(number?.of ?? (happening ? "event" : "pool.used"));
  const [threshold, setThreshold] = useState(shown(number?.above ?? number?.below));
  const [clear, setClear] = useState(shown(number?.clear));
  const [hold, setHold] = useState(shown(number?.for ?? 60));
  const [kind, setKind] = useState(happening?.kind ?? "vm.crashed");
  const [how, setHow] = useState((happening?.how ?? []).join(", "));
  const [count, setCount] = useState(shown(happening?.count ?? 1));
  const [within, setWithin] = useState(shown(happening?.within ?? 3600));
  const [labels, setLabels] = useState(labelsText(alarm?.scope?.labels));
  const [pool, setPool] = useState<string>(alarm?.scope?.pool ?? "");
  const [actions, setActions] = useState<readonly Typed[]>((alarm?.actions ?? []).map(typed));
  const pools = usePools();
  const ofGuests = watches === "disk.room" || watches === "agent.silent" || (watches === "event" && kind.startsWith("vm."));

  const { problem, busy, submit } = useSending(async () => {
    const low = watches !== "event" && (LOW.includes(watches) || (number?.of === watches && number.below != null));
    const metric = watches === "event" ? null : { of: watches, above: low ? null : given(threshold), below: low ? given(threshold) : null, clear: given(clear), for: given(hold) ?? 0 };
    const event = watches === "event" ? { kind, how: how.split(/[\s,]+/).filter(Boolean), count: given(count), within: given(within) } : null;
    const wanted = ofGuests ? labelsOf(labels) : {};
    const common = { description, severity, actions: actions.map(actionOf) };
    const scoped = watches === "pool.used" && pool ? { pool } : {};
    if (alarm) {
      const { version } = await getVersion(at("alarms", alarm.name));
      // One guest stays the one that it is; the rest of what is not said any more is taken out.
      const scope = { labels: labelsPatch(alarm.scope?.labels, wanted), pool: null, ...scoped, ...(!ofGuests && { vm: null }) };
      await change("PATCH", at("alarms", alarm.name), { body: { ...common, scope, trigger: { metric, event } }, version });
    } else {
      await change("POST", at("alarms"), { body: { ...common, name, scope: { labels: wanted, ...scoped }, trigger: metric ? { metric } : { event } } });
    }
    await queries.invalidateQueries({ queryKey: ["alarms"] });
    onClose();
  });

  const set = (n: number, next: Partial<Typed>) => setActions(actions.map((one, at) => (at === n ? { ...one, ...next } : one)));
  const watched = [...METRICS.map((one) => [one, t(`metric.${one}`)] as const), ["event", t("alarm.event")] as const];
  const at_ = (field: string) => problem?.at(`/trigger/metric/${field}`) ?? problem?.at(`/trigger/event/${field}`);
  return (
    <Dialog title={alarm ? t("edit.title", { name: alarm.name }) : t("alarm.create")} onClose={onClose} wide>
      <form className="dialog-form" onSubmit={submit}>
        {!alarm && <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />}
        <Input label={t("description")} value={description} onChange={setDescription} error={problem?.at("/description")} />
        <div className="pair">
          <Choice label={t("severity")} value={severity} onChange={setSeverity} options={SEVERITIES.map((one) => [one, t(`severity.${one}`)] as const)} />
          <Choice label={t("alarm.watches")} value={watches} onChange={setWatches} options={watched} />
        </div>
        {watches === "event" ? (
          <div className="pair">
            <Input label={t("kind")} value={kind} onChange={setKind} list={KINDS} error={at_("kind")} required />
            <Input label={t("alarm.how")} value={how} onChange={setHow} placeholder="panic, killed" error={at_("how")} />
            <Input label={t("alarm.count")} type="number" min={1} value={count} onChange={setCount} error={at_("count")} required />
            <Input label={t("alarm.within")} type="number" min={1} value={within} onChange={setWithin} error={at_("within")} required />
          </div>
        ) : (
          <div className="pair">
            <Input label={t(LOW.includes(watches) ? "alarm.threshold.below" : "alarm.threshold.above", { unit: unit(watches) })} value={threshold} onChange={setThreshold} error={at_("above") ?? at_("below")} required />
            <Input label={t("alarm.clear", { unit: unit(watches) })} value={clear} onChange={setClear} hint={t("alarm.clear.hint")} error={at_("clear")} />
            <Input label={t("alarm.hold")} type="number" min={0} value={hold} onChange={setHold} error={at_("for")} />
          </div>
        )}
        {ofGuests && !alarm?.scope?.vm && <Area label={t("bound")} value={labels} onChange={setLabels} rows={2} hint={t("labels.hint")} error={problem?.at("/scope/labels")} />}
        {watches === "pool.used" && <Choice label={t("pool")} value={pool} onChange={setPool} options={[["", t("all")] as const, ...(pools.data ?? []).map((one) => [one.name as string, one.name as string] as const)]} error={problem?.at("/scope/pool")} />}
        {actions.map((one, n) => (
          <fieldset key={n} className="alarm-action">
            <legend>{t(`action.${one.kind}`)}</legend>
            {one.kind === "webhook"
              ? <Input label={t("action.webhook.url")} value={one.text} onChange={(text) => set(n, { text })} placeholder="https://example.org/hook" hint={t("action.webhook.hint")} error={problem?.at(`/actions/${String(n)}`)} required />
              : <Area label={t("action.command.lines")} value={one.text} onChange={(text) => set(n, { text })} rows={3} mono hint={t("action.command.hint")} error={problem?.at(`/actions/${String(n)}`)} />}
            <div className="pair">
              <Input label={t("action.timeout")} type="number" min={1} max={300} value={one.timeout} onChange={(timeout) => set(n, { timeout })} required />
              <div className="buttons"><button type="button" className="small" onClick={() => setActions(actions.filter((_, at) => at !== n))}><Icon name="remove" size={12} />{t("remove")}</button></div>
            </div>
          </fieldset>
        ))}
        <div className="verbs">
          <button type="button" className="small" onClick={() => setActions([...actions, { kind: "command", text: "", timeout: "30" }])}><Icon name="add" size={12} />{t("action.command")}</button>
          <button type="button" className="small" onClick={() => setActions([...actions, { kind: "webhook", text: "", timeout: "30" }])}><Icon name="add" size={12} />{t("action.webhook")}</button>
        </div>
        <Wrong problem={problem} besides={FIELDS} />
        <Buttons go={t(alarm ? "save" : "alarm.create")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
