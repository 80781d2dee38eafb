// What is bad now, and what is watched.

import { useState } from "react";

import { at, change, complete } from "../api/client";
import { type ActiveAlarm, type Alarm, queries, useAlarms } from "../api/queries";
import { usePowers } from "../api/session";
import { AlarmState, condition, raisedOf, Severity } from "../parts/alarm";
import { Ask } from "../parts/ask";
import { Card, Code, Loading, Problem, Screen, When } from "../parts/basics";
import { Target } from "../parts/event-line";
import { Icon } from "../parts/icon";
import { type Item, Menu } from "../parts/menu";
import { Table } from "../parts/table";
import { failed, toast } from "../parts/toasts";
import { t } from "../text";
import { AlarmDialog } from "./alarm-dialog";

type Asked = "create" | { edit: Alarm } | { remove: string };

function reread(): Promise<void> {
  return queries.invalidateQueries({ queryKey: ["alarms"] });
}

export function Alarms() {
  const { data, error, isLoading } = useAlarms();
  const { own } = usePowers();
  const [asked, setAsked] = useState<Asked>();
  const close = () => setAsked(undefined);
  const alarms = data ?? [];
  return (
    <Screen title={t("alarms")} name={t("alarms")} under={t("alarms.under")} actions={own && <button type="button" className="primary" onClick={() => setAsked("create")}><Icon name="add" />{t("alarm.create")}</button>}>
      <Problem error={error} />
      {isLoading && <Loading />}
      {data && <Raised alarms={alarms} />}
      <Table
        label={t("alarms")} rows={alarms} id={(alarm) => alarm.name}
        columns={[
          { name: t("name"), main: true, of: (alarm) => <><bdi>{alarm.name}</bdi><span className="hint block"><bdi>{alarm.description}</bdi></span></> },
          { name: t("severity"), of: (alarm) => <Severity severity={alarm.severity ?? "warning"} /> },
          { name: t("state"), of: (alarm) => <AlarmState state={alarm.status.state} /> },
          { name: t("alarm.when"), of: (alarm) => condition(alarm) },
          { name: t("alarm.of"), of: (alarm) => <Scope alarm={alarm} /> },
          { name: t("alarm.actions"), of: (alarm) => (own && alarm.actions?.length ? alarm.actions.map((one, n) => <bdi key={n} className="block">{one.webhook ? t("action.webhook") : one.command?.[0]}</bdi>) : "–") },
          { name: "", of: (alarm) => own && <Menu label={t("more-of", { name: alarm.name })} className="plain" items={deeds(alarm, setAsked)} /> },
        ]}
      />
      {own && <Code label={t("command")} text="tessera alarm create full --metric pool.used --above 90 --clear 85 --for 60 -- /usr/bin/logger full" />}
      {asked === "create" && <AlarmDialog onClose={close} />}
      {typeof asked === "object" && "edit" in asked && <AlarmDialog alarm={asked.edit} onClose={close} />}
      {typeof asked === "object" && "remove" in asked && <Ask title={t("remove.title", { name: asked.remove })} words={t("alarm.remove.words")} go={t("remove")} onClose={close} do={() => change("DELETE", at("alarms", asked.remove)).then(reread)} />}
    </Screen>
  );
}

function deeds(alarm: Alarm, ask: (asked: Asked) => void): Item[] {
  const enabled = alarm.enabled ?? true;
  const set = () => { change("PATCH", at("alarms", alarm.name), { body: { enabled: !enabled } }).then(reread, failed); };
  const test = () => { complete("POST", at("alarms", alarm.name, "test")).then(() => toast("good", t("alarm.tested", { name: alarm.name })), failed); };
  return [
    { text: t("edit"), icon: "edit", do: () => ask({ edit: alarm }) },
    { text: t(enabled ? "alarm.disable" : "alarm.enable"), icon: enabled ? "pause" : "start", do: set },
    { text: t("alarm.test"), icon: "share", disabled: (alarm.actions ?? []).length === 0, do: test },
    ...(alarm.built_in ? [] : [{ text: t("remove"), icon: "remove" as const, risky: true, do: () => ask({ remove: alarm.name }) }]),
  ];
}

function Scope({ alarm: { scope } }: { alarm: Alarm }) {
  const labels = Object.entries(scope?.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  return <bdi>{[...labels, scope?.vm, scope?.pool].filter(Boolean).join(" ") || t("all")}</bdi>;
}

function Raised({ alarms }: { alarms: readonly Alarm[] }) {
  const { operate } = usePowers();
  const raised = raisedOf(alarms);
  const acknowledge = (alarm: Alarm, one?: ActiveAlarm) => {
    change("POST", at("alarms", alarm.name, "acknowledge"), { body: { target: one?.target ?? null } }).then(reread, failed);
  };
  return (
    <Card title={t("alarms.raised")}>
      {raised.length === 0 ? <p className="good-words"><Icon name="check" /> {t("alarms.good")}</p> : (
        <ul className="lines">
          {raised.slice(0, 200).map(({ alarm, one }) => (
            <li key={`${alarm.name}${one.target}`}>
              <Severity severity={alarm.severity ?? "warning"} />
              <span className="grow"><Target target={one.target} name={one.name} /> · <bdi>{alarm.name}</bdi><span className="hint block"><bdi>{one.message}</bdi></span></span>
              <span className="hint nowrap"><When time={one.raised ?? one.since} /></span>
              {one.acknowledged
                ? <span className="hint">{t("alarm.known", { name: one.acknowledged.actor })}</span>
                : operate && <button type="button" className="small" aria-label={t("alarm.acknowledge.of", { alarm: alarm.name, name: one.name })} onClick={() => acknowledge(alarm, one)}><Icon name="check" size={12} />{t("alarm.acknowledge")}</button>}
            </li>
          ))}
        </ul>
      )}
      {raised.length > 200 && <p className="hint">{t("and-more", { n: raised.length - 200 })}</p>}
    </Card>
  );
}
