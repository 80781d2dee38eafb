// What the groups that a guest is in are promised in bytes, and what they have.

import type { Schemas } from "../api/client";
import { Fact } from "../parts/basics";
import { number, t } from "../text";
import { isUsual, type ShareField, type ShareInBytes, USUAL } from "./share-dialog";

export type Group = Schemas["ShareGroupInfo"];

/** Whether anything is said of what one of them is promised. */
export function isShared(groups: Group[], field: ShareField): boolean {
  return groups.some((group) => !isUsual(group[field] ?? USUAL));
}

export function inShort(share: ShareInBytes, shown: (bytes: number) => string): string {
  const words = { reserve: shown(Number(share.reserve ?? 0)), weight: number(share.weight ?? 1000) };
  return share.limit == null ? t("share.short", words) : t("share.short.limited", { ...words, limit: shown(Number(share.limit)) });
}

interface Props {
  groups: Group[];
  field: ShareField;
  /** Bytes, or bytes each second, as they are read. */
  shown: (bytes: number) => string;
  /** What a group has. */
  has: (group: Group) => number;
}

export function GroupFacts({ groups, field, shown, has }: Props) {
  return groups.map((group) => (
    <Fact key={group.name} name={t("share.group")}><bdi>{group.name}</bdi>: {inShort(group[field] ?? USUAL, shown)}; {t("share.group.has", { n: shown(has(group)) })}</Fact>
  ));
}
