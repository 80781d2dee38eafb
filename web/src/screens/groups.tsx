// Groups in which guests share: what each is promised of the host, what its members have, and forms to make and change them.

import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";

import { at, change } from "../api/client";
import { shareGroups } from "../api/queries";
import { usePowers } from "../api/session";
import { Ask } from "../parts/ask";
import { Code, Empty, Loading, Problem, Screen } from "../parts/basics";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { Table } from "../parts/table";
import { bytes, number, t } from "../text";
import { GroupDialog } from "./group-dialog";
import { type Group, inShort as inBytes } from "./group-shares";
import { inShort, USUAL } from "./guest-share";
import { isUsual } from "./share-dialog";

/** What members get changes all the time, ms. */
const AGAIN = 2000;

/** The groups with how deep each is, those in one behind it. */
export function inOrder(groups: readonly Group[]): { group: Group; depth: number }[] {
  const below = (within: string | null, depth: number): { group: Group; depth: number }[] =>
    groups.filter((group) => (group.within ?? null) === within).flatMap((group) => [{ group, depth }, ...below(group.name, depth + 1)]);
  return below(null, 0);
}

/** What a group is promised besides processors, where anything is said of it. */
function Besides({ group }: { group: Group }) {
  const said = ([["memory", group.memory_share, bytes], ["disk", group.disk_share, rate], ["network", group.network_share, rate]] as const)
    .flatMap(([kind, share, shown]) => (share && !isUsual(share) ? [`${t(`group.${kind}`)}: ${inBytes(share, shown)}`] : []));
  return said.length === 0 ? "–" : <div>{said.map((line) => <span key={line} className="block">{line}</span>)}</div>;
}

function rate(of: number): string {
  return t("group.rate", { n: bytes(of) });
}

type Asked = "create" | { edit: Group } | { remove: Group };

export function Groups() {
  const { data, error, isLoading } = useQuery({ ...shareGroups, refetchInterval: AGAIN });
  const { own } = usePowers();
  const [asked, setAsked] = useState<Asked>();
  const close = () => setAsked(undefined);
  const add = own && <button type="button" className="primary" onClick={() => setAsked("create")}><Icon name="add" />{t("group.create")}</button>;
  const more = (group: Group) => [
    { text: t("edit"), icon: "edit" as const, do: () => setAsked({ edit: group }) },
    { text: t("remove"), icon: "remove" as const, risky: true, do: () => setAsked({ remove: group }) },
  ];
  return (
    <Screen title={t("groups")} name={t("groups")} under={t("groups.under")} actions={add}>
      <Problem error={error} />
      {isLoading && <Loading />}
      {data?.length === 0 && <Empty icon="groups" title={t("groups.none")}><p>{t("groups.teach")}</p>{own && <Code label={t("command")} text="tessera share group create team --cpu-reserve 0.5" />}</Empty>}
      {(data?.length ?? 0) > 0 && (
        <Table
          label={t("groups")} rows={inOrder(data ?? [])} id={({ group }) => group.name}
          columns={[
            { name: t("name"), main: true, of: ({ group, depth }) => <div className="group-name" style={{ paddingInlineStart: `${depth * 1.4}em` }}><bdi>{group.name}</bdi>{group.description && <span className="hint block"><bdi>{group.description}</bdi></span>}</div> },
            { name: t("group.cpu"), of: ({ group }) => inShort(group.cpu_share ?? USUAL) },
            { name: t("group.besides"), of: ({ group }) => <Besides group={group} /> },
            { name: t("group.promised"), number: true, of: ({ group }) => number(group.promised, 3) },
            { name: t("group.got"), number: true, of: ({ group }) => number(group.got_10s, 2) },
            { name: t("guests"), number: true, of: ({ group }) => number(group.guests) },
            ...(own ? [{ name: "", of: ({ group }: { group: Group }) => <Menu label={t("more-of", { name: group.name })} className="plain" items={more(group)} /> }] : []),
          ]}
        />
      )}
      {(data?.length ?? 0) > 0 && <p className="hint">{t("groups.how")} <Link to="/guests">{t("guests")}</Link></p>}
      {asked === "create" && <GroupDialog groups={data ?? []} onClose={close} />}
      {typeof asked === "object" && "edit" in asked && <GroupDialog groups={data ?? []} before={asked.edit} onClose={close} />}
      {typeof asked === "object" && "remove" in asked && (
        <Ask title={t("remove.title", { name: asked.remove.name })} words={t("group.remove.words")} go={t("remove")} onClose={close} do={() => change("DELETE", at("share-groups", asked.remove.name))} />
      )}
    </Screen>
  );
}
