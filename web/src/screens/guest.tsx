// One guest: what it is, what can be done to it, and all about it in tabs.

import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { lazy, Suspense, useState } from "react";

import type { Vm } from "../api/client";
import { selectLink, selectVms, useLive } from "../api/live";
import { usePowers } from "../api/session";
import { Code, Empty, Loading, Screen, State, When } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Icon, type IconName } from "../parts/icon";
import { Verbs } from "../parts/verbs";
import { type Key, t } from "../text";
import { CloneDialog, EditDialog, TemplateDialog } from "./guest-dialogs";
import { Backups } from "./guest-backups";
import { GuestConsole } from "./guest-console";
import { GuestEvents } from "./guest-events";
import { Hardware } from "./guest-hardware";
import { Share } from "./guest-share";
import { Snapshots } from "./guest-snapshots";
import { Summary } from "./guest-summary";

const Definition = lazy(() => import("./definition"));

const TABS: readonly { name: string; text: Key; icon: IconName }[] = [
  { name: "summary", text: "tab.summary", icon: "overview" },
  { name: "console", text: "tab.console", icon: "console" },
  { name: "hardware", text: "tab.hardware", icon: "disk" },
  { name: "snapshots", text: "tab.snapshots", icon: "camera" },
  { name: "backups", text: "tab.backups", icon: "storage" },
  { name: "share", text: "tab.share", icon: "share" },
  { name: "events", text: "tab.events", icon: "events" },
  { name: "definition", text: "tab.definition", icon: "edit" },
];

/** On a narrow screen not all tabs have room. */
function inSight(tab: HTMLAnchorElement | null): void {
  tab?.scrollIntoView({ block: "nearest", inline: "center" });
}

type Asked = "edit" | "clone" | "template" | "command";

export function Guest() {
  const { name = "", tab = "summary" } = useParams({ strict: false });
  const vms = useLive(selectVms);
  const link = useLive(selectLink);
  const { manage, own } = usePowers();
  const [asked, setAsked] = useState<Asked>();
  const navigate = useNavigate();
  const vm = vms.find((one) => one.name === name) ?? vms.find((one) => one.id === name);
  if (!vm) {
    if (link === "connecting") return <Screen title={<bdi>{name}</bdi>} name={name}><Loading /></Screen>;
    return <Screen title={<bdi>{name}</bdi>} name={name}><Empty icon="guests" title={t("guest.absent")}><p><Link to="/guests">{t("guests.all")}</Link></p></Empty></Screen>;
  }
  const more = [
    ...(manage ? [{ text: t("edit"), icon: "edit" as const, do: () => setAsked("edit") }, { text: t("clone"), icon: "clone" as const, do: () => setAsked("clone") }] : []),
    ...(own ? [{ text: t("template.save"), icon: "images" as const, do: () => setAsked("template") }] : []),
    { text: t("command.show"), icon: "console" as const, do: () => setAsked("command") },
  ];
  const close = () => setAsked(undefined);
  return (
    <Screen
      name={vm.name} title={<bdi>{vm.name}</bdi>} actions={<Verbs vms={[vm]} more={more} />} full={tab === "console"}
      under={<><State state={vm.status.state} /> <span>{t("since")} <When time={vm.status.since} /></span>{vm.description && <bdi>{vm.description}</bdi>}</>}
    >
      <Notices vm={vm} />
      <nav className="tabs" aria-label={t("tabs")}>
        {TABS.map((one) => (
          <Link key={one.name} to="/guests/$name/$tab" params={{ name: vm.name, tab: one.name }} {...(tab === one.name && { "aria-current": "page" as const, className: "on", ref: inSight })}>
            <Icon name={one.icon} />{t(one.text)}
          </Link>
        ))}
      </nav>
      <Tab vm={vm} tab={tab} />
      {asked === "edit" && <EditDialog vm={vm} onClose={close} onRenamed={(to) => void navigate({ to: "/guests/$name", params: { name: to }, replace: true })} />}
      {asked === "clone" && <CloneDialog vm={vm} onClose={close} />}
      {asked === "template" && <TemplateDialog vm={vm} onClose={close} />}
      {asked === "command" && <Commands vm={vm} onClose={close} />}
    </Screen>
  );
}

function Notices({ vm }: { vm: Vm }) {
  const { state, pending_restart: pending, last_end: end, no_room: short } = vm.status;
  return (
    <>
      {pending && <div className="notice"><Icon name="info" /><p>{t("pending.words")}</p></div>}
      {short && <div className="notice risk" role="alert"><Icon name="warning" /><p>{t("room.words", { disks: short.join(", ") })}</p></div>}
      {state === "crashed" && end && <div className="notice risk" role="alert"><Icon name="warning" /><p>{t("crashed.words")} <bdi>{end.message}</bdi></p></div>}
    </>
  );
}

function Tab({ vm, tab }: { vm: Vm; tab: string }) {
  switch (tab) {
    case "console": return <GuestConsole vm={vm} />;
    case "hardware": return <Hardware vm={vm} />;
    case "snapshots": return <Snapshots vm={vm} />;
    case "backups": return <Backups key={vm.id} vm={vm} />;
    case "share": return <Share key={vm.id} vm={vm} />;
    case "events": return <GuestEvents vm={vm} />;
    case "definition": return <Suspense fallback={<Loading />}><Definition key={vm.id} vm={vm} /></Suspense>;
    default: return <Summary vm={vm} />;
  }
}

function Commands({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const base = `${location.origin}/api/v1/vms/${vm.name}`;
  const header = "-H \"Authorization: Bearer $TOKEN\"";
  return (
    <Dialog title={t("command.show")} onClose={onClose} wide>
      <Code label={t("command.see")} text={`tessera vm show ${vm.name}`} />
      <Code label={t("console")} text={`tessera vm console ${vm.name}`} />
      <Code label={t("deed.start")} text={`tessera vm start ${vm.name}\ncurl -X POST ${header} ${base}/start`} />
      <Code label={t("deed.shutdown")} text={`tessera vm shutdown ${vm.name}\ncurl -X POST ${header} --json '{}' ${base}/shutdown`} />
    </Dialog>
  );
}
