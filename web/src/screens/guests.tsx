// The list of guests: ten thousand of them as quick as ten, since only the rows in sight exist.

import { Link } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useMemo, useRef, useState } from "react";

import { useGuests } from "../api/guests";
import { matcher } from "../filter";
import { bytes, t } from "../text";
import { Verbs } from "../verbs";

const ROW = 36;

export function GuestList() {
  const { list, link } = useGuests();
  const [search, setSearch] = useState("");
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const scroller = useRef<HTMLDivElement>(null);
  const shown = useMemo(
    () => list.filter(matcher(search)).sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })),
    [list, search],
  );
  // What the search hides is not acted on.
  const selected = shown.filter((vm) => chosen.has(vm.id));
  const rows = useVirtualizer({ count: shown.length, getScrollElement: () => scroller.current, estimateSize: () => ROW, overscan: 12 });

  const toggle = (id: string) => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    setChosen(next);
  };
  const all = selected.length > 0 && selected.length === shown.length;

  return (
    <section className="screen">
      <div className="tools">
        <h1>{t("guests")}</h1>
        <input type="search" value={search} placeholder={t("search")} aria-label={t("search")} onChange={(e) => setSearch(e.target.value)} />
        <span className="count">{selected.length > 0 ? t("selected", { n: selected.length }) : t("shown", { n: shown.length, all: list.length })}</span>
        {selected.length > 0 && <Verbs guests={selected} />}
      </div>
      {list.length === 0 && link === "live" && (
        <div className="empty"><h2>{t("none")}</h2><p>{t("teach")}</p><pre>tessera vm create web --image debian:13 --net user --start</pre></div>
      )}
      {list.length > 0 && shown.length === 0 && <p className="empty">{t("nothing")}</p>}
      {shown.length > 0 && (
        <div className="table" role="table" aria-label={t("guests")} aria-rowcount={shown.length + 1}>
          <div role="rowgroup">
            <div className="row head" role="row" aria-rowindex={1}>
              <span role="columnheader"><input type="checkbox" aria-label={t("all")} checked={all} onChange={() => setChosen(all ? new Set() : new Set(shown.map((vm) => vm.id)))} /></span>
              <span role="columnheader">{t("name")}</span>
              <span role="columnheader">{t("state")}</span>
              <span role="columnheader" className="number">{t("cpus")}</span>
              <span role="columnheader" className="number">{t("memory")}</span>
              <span role="columnheader" className="labels">{t("labels")}</span>
            </div>
          </div>
          <div className="scroller" ref={scroller} role="rowgroup" tabIndex={0} aria-label={t("guests")}>
            <div style={{ height: rows.getTotalSize(), position: "relative" }} role="presentation">
              {rows.getVirtualItems().map((item) => {
                const vm = shown[item.index];
                return vm && (
                  <div key={vm.id} className="row" role="row" aria-rowindex={item.index + 2} style={{ transform: `translateY(${String(item.start)}px)` }}>
                    <span role="cell"><input type="checkbox" aria-label={t("select", { name: vm.name })} checked={chosen.has(vm.id)} onChange={() => toggle(vm.id)} /></span>
                    <span role="cell"><Link to="/guests/$name" params={{ name: vm.name }}><bdi>{vm.name}</bdi></Link></span>
                    <span role="cell" className={`state ${vm.status.state}`}>{t(vm.status.state)}</span>
                    <span role="cell" className="number">{vm.cpus}</span>
                    <span role="cell" className="number">{bytes(Number(vm.memory))}</span>
                    <span role="cell" className="labels"><bdi>{Object.entries(vm.labels ?? {}).map(([k, v]) => (v ? `${k}=${v}` : k)).join(" ")}</bdi></span>
                  </div>
                );
              })}
            </div>
          </div>
        </div>
      )}
    </section>
  );
}
