// What a guest is promised of the host's pool of memory, and what it has of it.

import { useState } from "react";

import type { Schemas, Vm } from "../api/client";
import { usePowers } from "../api/session";
import { Card, Fact, Facts } from "../parts/basics";
import { Icon } from "../parts/icon";
import { Meter } from "../parts/meter";
import { bytes, number, t } from "../text";
import { type Group, GroupFacts } from "./group-shares";
import { isUsual, ShareInBytesDialog } from "./share-dialog";

type MemoryReport = Schemas["MemoryReport"];

function why({ limit }: Schemas["MemoryShare"], now: Schemas["MemoryNow"]): string {
  if (now.active == null || now.target == null) return t("memory.why.silent");
  if (Number(now.held) >= Number(now.size)) return t("memory.why.all");
  // To a mebibyte: what it is to have is worked out, and the limit is said.
  if (limit != null && Number(now.target) + 2 ** 20 >= Number(limit)) return t("memory.why.limit");
  return Number(now.target) >= Number(now.active) ? t("memory.why.enough") : t("memory.why.others");
}

export function MemoryShare({ vm, report, groups }: { vm: Vm; report: MemoryReport; groups: Group[] }) {
  const { manage } = usePowers();
  const [editing, setEditing] = useState(false);
  const { promised, now, pool, pressure, others = [] } = report;
  // Without a pool nothing is divided, and nobody has to hear of it who has promised nothing.
  if (pool == null && isUsual(promised)) return null;
  const edit = manage && <button type="button" onClick={() => setEditing(true)}><Icon name="edit" />{t("memory.change")}</button>;
  return (
    <>
      {now && pool != null && (
        <div className="meters">
          <Card><Meter name={t("memory.has")} used={Number(now.held)} of={Number(now.size)} tone="" text={bytes(now.held)} under={t("memory.has.words", { size: bytes(now.size), touched: bytes(now.resident) })} /></Card>
          {now.active != null && <Card><Meter name={t("memory.uses")} used={Number(now.active)} of={Math.max(Number(now.target ?? 0), Number(now.active), 1)} tone={Number(now.active) > Number(now.target ?? 0) ? "warn" : ""} text={bytes(now.active)} under={t("memory.uses.words", { target: bytes(now.target) })} /></Card>}
        </div>
      )}
      <Card title={t("memory.promised")} actions={edit}>
        <Facts>
          <Fact name={t("share.reserve")}>{bytes(promised.reserve)}</Fact>
          <Fact name={t("share.weight")}>{number(promised.weight ?? 1000)}</Fact>
          <Fact name={t("share.limit")}>{promised.limit == null ? t("share.no-limit") : bytes(promised.limit)}</Fact>
          {pool != null && <GroupFacts groups={groups} field="memory_share" shown={bytes} has={(group) => Number(group.memory?.held ?? 0)} />}
          {pool != null && others.length > 0 && <Fact name={t("share.others")}>{others.map((other) => <div key={other.id}><bdi>{other.name}</bdi>: {bytes(other.now.resident)}</div>)}</Fact>}
          {pool != null && <Fact name={t("memory.pool")}>{t("memory.pool.words", { size: bytes(pool), pressure: t(`memory.pressure.${pressure}`) })}</Fact>}
        </Facts>
        <p className="hint">{pool == null ? t("memory.no-pool") : now ? why(promised, now) : t("share.still")}</p>
      </Card>
      {editing && <ShareInBytesDialog vm={vm} field="memory_share" title={t("memory.edit", { name: vm.name })} hints={{ reserve: t("memory.reserve.hint"), limit: t("memory.limit.hint") }} onClose={() => setEditing(false)} />}
    </>
  );
}
