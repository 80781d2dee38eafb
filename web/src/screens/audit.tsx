// Who did what from where.

import { useState } from "react";

import { useAudit } from "../api/queries";
import { Empty, Loading, Problem, Screen, When } from "../parts/basics";
import { Icon } from "../parts/icon";
import { Table } from "../parts/table";
import { t } from "../text";

export function Audit() {
  const { data, error, refetch, isFetching } = useAudit();
  const [search, setSearch] = useState("");
  const asked = search.toLowerCase().split(/\s+/).filter(Boolean);
  const entries = (data?.items ?? []).map((entry, n) => ({ ...entry, n }));
  const shown = entries.filter((entry) => {
    const text = `${entry.actor ?? ""} ${entry.from} ${entry.method} ${entry.path} ${String(entry.status)}`.toLowerCase();
    return asked.every((word) => text.includes(word));
  });
  const actions = (
    <>
      <input type="search" aria-label={t("audit.search")} placeholder={t("audit.search")} value={search} onChange={(e) => setSearch(e.target.value)} />
      <button type="button" disabled={isFetching} onClick={() => void refetch()}><Icon name="reboot" />{t("refresh")}</button>
    </>
  );
  return (
    <Screen title={t("audit")} name={t("audit")} under={t("audit.under")} actions={actions}>
      <Problem error={error} />
      {!data && !error && <Loading />}
      {data && shown.length === 0 && <Empty icon="audit" title={t("nothing-found")} />}
      {shown.length > 0 && (
        <Table
          label={t("audit")} rows={shown} id={(entry) => String(entry.n)}
          columns={[
            { name: t("time"), of: (entry) => <When time={entry.time} /> },
            { name: t("actor"), main: true, of: (entry) => <bdi>{entry.actor ?? t("audit.nobody")}</bdi> },
            { name: t("from"), of: (entry) => <bdi>{entry.from}</bdi> },
            { name: t("request"), of: (entry) => <code><bdi>{entry.method} {entry.path}</bdi>{entry.more ? ` ×${String(entry.more + 1)}` : ""}</code> },
            { name: t("answer"), number: true, of: (entry) => <span className={`chip ${entry.status >= 400 ? "risk" : "good"}`}>{entry.status}</span> },
          ]}
        />
      )}
    </Screen>
  );
}
