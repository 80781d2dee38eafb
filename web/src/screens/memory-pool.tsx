// The host's pool of memory: what is taken of it, where what it has no room for goes, and who has what.

import { Link } from "@tanstack/react-router";

import type { Schemas } from "../api/client";
import { useMemoryPool } from "../api/queries";
import { Card, Fact, Facts } from "../parts/basics";
import { Meter } from "../parts/meter";
import { Table } from "../parts/table";
import { bytes, number, rate, t } from "../text";

type Pool = Schemas["MemoryPool"];

/** Memory that is in use is there to be used: only what the host says of pressure is a warning. */
const TONE: Record<Schemas["MemoryPressure"], "" | "warn" | "risk"> = { high: "", clear: "", soft: "warn", hard: "warn", low: "risk" };

function Outside({ pool: { merging, compression, paging, flow } }: { pool: Pool }) {
  if (!merging && !compression && !paging) return <p className="hint">{t("pool-memory.no-paging")}</p>;
  return (
    <Facts>
      {merging && <Fact name={t("pool-memory.merged")}>{t("pool-memory.merged.words", { merged: bytes(merging.merged), saved: bytes(merging.saved) })}</Fact>}
      {compression && <Fact name={t("pool-memory.compressed")}>{t("pool-memory.compressed.words", { used: bytes(compression.used), size: bytes(compression.size), taken: bytes(compression.taken) })}</Fact>}
      {paging && (
        <Fact name={t("pool-memory.paged")}>
          {Number(paging.size) === 0 ? t("pool-memory.paging-gone") : t("free-of", { free: bytes(Number(paging.size) - Number(paging.used)), of: bytes(paging.size) })}
          <bdi className="hint block">{paging.path}</bdi>
        </Fact>
      )}
      {flow && <Fact name={t("pool-memory.out")}>{rate(Number(flow.out_rate))}<span className="hint block">{t("pool-memory.in-all", { size: bytes(flow.out) })}</span></Fact>}
      {flow && <Fact name={t("pool-memory.back")}>{rate(Number(flow.back_rate))}<span className="hint block">{t("pool-memory.in-all", { size: bytes(flow.back) })}</span></Fact>}
    </Facts>
  );
}

export function MemoryPool() {
  const { data: pool } = useMemoryPool();
  // Without one nothing is divided.
  if (pool?.size == null) return null;
  const out = pool.guests.some((guest) => Number(guest.now.out ?? 0) > 0);
  const [size, used] = [Number(pool.size), Number(pool.used)];
  return (
    <Card title={t("pool-memory")}>
      <div className="columns two">
        <Meter name={t("pool-memory.used")} used={used} of={size} promised={Number(pool.reserved)} tone={TONE[pool.pressure]} text={bytes(used)} under={t("pool-memory.used.words", { size: bytes(size), reserved: bytes(pool.reserved), pressure: t(`memory.pressure.${pool.pressure}`) })} />
        <Outside pool={pool} />
      </div>
      {pool.guests.length > 0 && (
        <Table
          label={t("pool-memory.guests")} rows={pool.guests} id={(guest) => guest.id}
          columns={[
            { name: t("guest"), main: true, of: ({ name }) => <Link to="/guests/$name" params={{ name }}><bdi>{name}</bdi></Link> },
            { name: t("share.reserve"), number: true, of: ({ promised }) => bytes(promised.reserve) },
            { name: t("share.weight"), number: true, of: ({ promised }) => number(promised.weight ?? 1000) },
            { name: t("memory.has"), number: true, of: ({ now }) => bytes(now.held) },
            { name: t("memory.uses"), number: true, of: ({ now }) => (now.active == null ? t("pool-memory.unknown") : bytes(now.active)) },
            { name: t("pool-memory.target"), number: true, of: ({ now }) => (now.target == null ? t("pool-memory.unknown") : bytes(now.target)) },
            ...(out ? [{ name: t("pool-memory.outside"), number: true, of: ({ now }: Schemas["MemoryOfGuest"]) => bytes(now.out ?? 0) }] : []),
          ]}
        />
      )}
    </Card>
  );
}
