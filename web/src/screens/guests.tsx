// The list of guests: ten thousand of them as quick as ten, since only the rows in sight exist.

import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, memo, type MouseEvent, type ReactNode, useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "react";

import type { Vm, VmState } from "../api/client";
import { selectLink, selectLoads, selectVms, useLive } from "../api/live";
import type { Load } from "../api/load";
import { usePowers } from "../api/session";
import { Code, Empty, Loading, Screen } from "../parts/basics";
import { matcher, withWord, wordOf } from "../parts/filter";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { Verbs } from "../parts/verbs";
import { number, t } from "../text";
import { CELLS, type Cells, COLUMNS, type ColumnName, kept, keep, sorted, WIDTHS } from "./guest-columns";

const ROW = 40;
const OVERSCAN = 8;
const STATES: readonly VmState[] = ["running", "stopped", "paused", "suspended", "crashed"];

export function GuestList() {
  const vms = useLive(selectVms);
  const link = useLive(selectLink);
  const { manage } = usePowers();
  const { search = "" } = useSearch({ strict: false });
  const navigate = useNavigate();
  const setSearch = (next: string) => void navigate({ to: "/guests", search: next ? { search: next } : {}, replace: true });
  const create = manage && <Link to="/create" className="button primary"><Icon name="add" />{t("create.title")}</Link>;

  return (
    <Screen title={t("guests")} name={t("guests")} actions={create} full>
      {vms.length === 0 && link === "connecting" && <Loading />}
      {vms.length === 0 && link !== "connecting" && (
        <Empty icon="guests" title={t("guests.none")}>
          <p>{t(manage ? "guests.none.teach" : "guests.none.wait")}</p>
          {manage && <><p>{create}</p><Code label={t("command")} text="tessera vm create web --image debian:13 --net user --start" /></>}
        </Empty>
      )}
      {vms.length > 0 && <List vms={vms} search={search} setSearch={setSearch} />}
    </Screen>
  );
}

function List({ vms, search, setSearch }: { vms: readonly Vm[]; search: string; setSearch: (search: string) => void }) {
  const loads = useLive(selectLoads);
  const [columns, setColumns] = useState<readonly ColumnName[]>(kept);
  const [order, setOrder] = useState<{ by: ColumnName | "name"; down: boolean }>({ by: "name", down: false });
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const field = useRef<HTMLInputElement>(null);

  const found = useMemo(() => vms.filter(matcher(search)), [vms, search]);
  // Who is not sorted by what changes all the time need not be sorted all the time.
  const moving = order.by === "cpu" || order.by === "used" ? loads : undefined;
  const before = useRef<readonly Vm[]>([]);
  const shown = useMemo(() => sorted(found, order.by, order.down, moving ?? new Map(), before.current), [found, order, moving]);
  before.current = shown;
  // What the search hides is not acted on.
  const selected = useMemo(() => (chosen.size === 0 ? [] : shown.filter((vm) => chosen.has(vm.id))), [shown, chosen]);

  useEffect(() => {
    const slash = (event: globalThis.KeyboardEvent) => {
      if (event.key !== "/" || event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement) return;
      event.preventDefault();
      field.current?.focus();
    };
    window.addEventListener("keydown", slash);
    return () => window.removeEventListener("keydown", slash);
  }, []);

  const toggleColumn = (name: ColumnName) => {
    const next = columns.includes(name) ? columns.filter((one) => one !== name) : COLUMNS.filter((one) => one === name || columns.includes(one));
    setColumns(next);
    keep(next);
  };
  const cells: Cells = { columns, loads };
  return (
    <>
      <div className="tools">
        <div className="search-field">
          <Icon name="search" />
          <input ref={field} type="search" value={search} placeholder={t("guests.search")} aria-label={t("guests.search")} onChange={(e) => setSearch(e.target.value)} />
        </div>
        <States vms={vms} search={search} setSearch={setSearch} />
        <LabelFilter vms={vms} search={search} setSearch={setSearch} />
        <Menu label={t("columns")} items={COLUMNS.map((name) => ({ text: t(`column.${name}`), ...(columns.includes(name) && { icon: "check" as const }), do: () => toggleColumn(name) }))}>
          <Icon name="columns" />{t("columns")}
        </Menu>
      </div>
      <Bulk shown={shown.length} all={vms.length} selected={selected} clear={() => setChosen(new Set())} />
      {shown.length === 0
        ? <Empty icon="search" title={t("guests.no-match")}><p><button type="button" onClick={() => setSearch("")}>{t("search.clear")}</button></p></Empty>
        : <Grid shown={shown} cells={cells} order={order} setOrder={setOrder} chosen={chosen} setChosen={setChosen} allChosen={selected.length === shown.length} />}
    </>
  );
}

function States({ vms, search, setSearch }: { vms: readonly Vm[]; search: string; setSearch: (search: string) => void }) {
  const counts = useMemo(() => {
    const all = new Map<VmState, number>();
    for (const vm of vms) all.set(vm.status.state, (all.get(vm.status.state) ?? 0) + 1);
    return all;
  }, [vms]);
  const now = wordOf(search, "state:");
  return (
    <div className="segments" role="group" aria-label={t("state")}>
      <button type="button" aria-pressed={now === ""} onClick={() => setSearch(withWord(search, "state:", ""))}>{t("all")}</button>
      {STATES.filter((state) => counts.has(state) || state === now).map((state) => (
        <button key={state} type="button" aria-pressed={now === state} onClick={() => setSearch(withWord(search, "state:", state))}>
          {t(`state.${state}`)} <span className="count">{number(counts.get(state) ?? 0)}</span>
        </button>
      ))}
    </div>
  );
}

function LabelFilter({ vms, search, setSearch }: { vms: readonly Vm[]; search: string; setSearch: (search: string) => void }) {
  const labels = useMemo(() => {
    const all = new Set<string>();
    for (const vm of vms) for (const [key, value] of Object.entries(vm.labels ?? {})) all.add(value ? `${key}=${value}` : key);
    return [...all].sort().slice(0, 100);
  }, [vms]);
  const now = wordOf(search, "label:");
  if (labels.length === 0) return null;
  return (
    <select className="label-filter" aria-label={t("labels")} value={labels.find((one) => one.toLowerCase() === now.toLowerCase()) ?? ""} onChange={(e) => setSearch(withWord(search, "label:", e.target.value))}>
      <option value="">{t("labels.any")}</option>
      {labels.map((one) => <option key={one} value={one}>{one}</option>)}
    </select>
  );
}

function Bulk({ shown, all, selected, clear }: { shown: number; all: number; selected: readonly Vm[]; clear: () => void }) {
  const navigate = useNavigate();
  const { operate } = usePowers();
  const running = selected.filter((vm) => vm.status.state === "running");
  const more = operate && running.length > 0 && running.length <= 6
    ? [{ text: t("consoles.open", { n: running.length }), icon: "console" as const, do: () => void navigate({ to: "/consoles", search: { of: running.map((vm) => vm.name).join(",") } }) }]
    : [];
  return (
    <div className={selected.length > 0 ? "bulk active" : "bulk"}>
      <span className="hint" role="status">{selected.length > 0 ? t("guests.selected", { n: selected.length }) : t("guests.shown", { n: shown, all })}</span>
      {selected.length > 0 && <><button type="button" className="plain small" onClick={clear}>{t("select.none")}</button><Verbs vms={selected} more={more} all /></>}
    </div>
  );
}

interface GridProps {
  shown: readonly Vm[];
  cells: Cells;
  order: { by: ColumnName | "name"; down: boolean };
  setOrder: (order: { by: ColumnName | "name"; down: boolean }) => void;
  chosen: ReadonlySet<string>;
  setChosen: (chosen: ReadonlySet<string>) => void;
  allChosen: boolean;
}

function Grid({ shown, cells, order, setOrder, chosen, setChosen, allChosen }: GridProps) {
  const scroller = useRef<HTMLDivElement>(null);
  const navigate = useNavigate();
  const [active, setActive] = useState(-1);
  const from = useRef(-1);
  const grid = useId();
  const rows = useVirtualizer({ count: shown.length, getScrollElement: () => scroller.current, estimateSize: () => ROW, overscan: OVERSCAN, useFlushSync: false });
  const drawn = rows.getVirtualItems();
  // Rows that have left are those that come, with other words in them: to make one anew takes longer than a frame has.
  const places = useRef(0);
  places.current = Math.max(places.current, drawn.length + OVERSCAN);

  const toggle = (n: number, through: boolean) => {
    const next = new Set(chosen);
    const id = shown[n]?.id ?? "";
    const on = !next.has(id);
    const [low, high] = through && from.current >= 0 ? [Math.min(n, from.current), Math.max(n, from.current)] : [n, n];
    for (const vm of shown.slice(low, high + 1)) {
      if (on) next.add(vm.id);
      else next.delete(vm.id);
    }
    from.current = n;
    setChosen(next);
  };
  // Rows are given what never changes, so that they need not be drawn again for it.
  const latest = useRef(toggle);
  latest.current = toggle;
  const toggleRow = useCallback((n: number, through: boolean) => latest.current(n, through), []);
  const open = useCallback((event: MouseEvent, name: string) => {
    if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    void navigate({ to: "/guests/$name", params: { name } });
  }, [navigate]);
  // Most who are here open one of them next.
  useEffect(() => void import("./guest"), []);
  const measured = cells.columns.includes("cpu") || cells.columns.includes("used");
  const move = (n: number) => {
    const to = Math.max(0, Math.min(shown.length - 1, n));
    setActive(to);
    rows.scrollToIndex(to);
  };
  const keys = (event: KeyboardEvent) => {
    if (event.target !== event.currentTarget) return;
    const page = Math.floor((scroller.current?.clientHeight ?? 400) / ROW) - 1;
    const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: shown.length - 1 }[event.key];
    const vm = shown[active];
    if (to !== undefined) move(to);
    else if (event.key === " " && vm) toggle(active, event.shiftKey);
    else if (event.key === "Enter" && vm) void navigate({ to: "/guests/$name", params: { name: vm.name } });
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) setChosen(new Set(shown.map((one) => one.id)));
    else if (event.key === "Escape") setChosen(new Set());
    else return;
    event.preventDefault();
  };
  const template = `40px minmax(150px, 2fr) 120px ${cells.columns.map((name) => WIDTHS[name]).join(" ")}`;
  const heading = (by: ColumnName | "name", text: string, kind = "") => (
    <span role="columnheader" className={kind} aria-sort={order.by === by ? (order.down ? "descending" : "ascending") : "none"}>
      <button type="button" className="plain sort" onClick={() => setOrder({ by, down: order.by === by && !order.down })}>
        {text}{order.by === by && <Icon name={order.down ? "down" : "up"} size={10} />}
      </button>
    </span>
  );
  return (
    <div
      className="grid" role="grid" tabIndex={0} aria-label={t("guests")} aria-rowcount={shown.length + 1} aria-multiselectable="true" onKeyDown={keys}
      aria-activedescendant={active >= 0 ? `${grid}-${String(active)}` : undefined} onFocus={(e) => { if (e.target === e.currentTarget && active < 0) setActive(0); }}
    >
      <div role="rowgroup">
        <div className="row head" role="row" aria-rowindex={1} style={{ gridTemplateColumns: template }}>
          <span role="columnheader"><input type="checkbox" aria-label={t("select.all")} checked={allChosen} onChange={() => setChosen(allChosen ? new Set() : new Set(shown.map((vm) => vm.id)))} /></span>
          {heading("name", t("name"))}
          <span role="columnheader">{t("state")}</span>
          {cells.columns.map((name) => <HeadCell key={name} name={name} heading={heading} />)}
        </div>
      </div>
      <div className="scroller" ref={scroller} role="presentation">
        <div role="rowgroup" style={{ height: rows.getTotalSize(), position: "relative" }}>
          {drawn.map((item) => {
            const vm = shown[item.index];
            if (!vm) return null;
            return (
              <Row
                key={item.index % places.current} vm={vm} load={measured ? cells.loads.get(vm.id) : undefined} columns={cells.columns} template={template} id={`${grid}-${String(item.index)}`}
                n={item.index} start={item.start} on={chosen.has(vm.id)} active={item.index === active} toggle={toggleRow} open={open}
              />
            );
          })}
        </div>
      </div>
    </div>
  );
}

function HeadCell({ name, heading }: { name: ColumnName; heading: (by: ColumnName, text: string, kind?: string) => ReactNode }) {
  return heading(name, t(`column.${name}`), `cell-${name}`);
}

interface RowProps {
  vm: Vm;
  load: Load | undefined;
  columns: readonly ColumnName[];
  template: string;
  id: string;
  n: number;
  /** How far down it is, px. */
  start: number;
  on: boolean;
  active: boolean;
  toggle: (n: number, through: boolean) => void;
  open: (event: MouseEvent, name: string) => void;
}

/** Drawn again only if something of it has changed: in a frame there is no time to draw all of them while they scroll. */
const Row = memo(function Row({ vm, load, columns, template, id, n, start, on, active, toggle, open }: RowProps) {
  const { state, pending_restart: pending, no_room: short } = vm.status;
  const place = useRef<HTMLDivElement>(null);
  // Whoever was in one guest's row is in no other's when that has left.
  useLayoutEffect(() => () => {
    const focused = document.activeElement;
    if (focused instanceof HTMLElement && place.current?.contains(focused)) focused.closest<HTMLElement>(".grid")?.focus();
  }, [vm.id]);
  return (
    <div
      ref={place} id={id} className={["row", on ? "on" : "", active ? "active" : ""].join(" ")} role="row" aria-rowindex={n + 2} aria-selected={on}
      style={{ gridTemplateColumns: template, transform: `translateY(${String(start)}px)` }}
    >
      <span role="gridcell"><input type="checkbox" tabIndex={-1} aria-label={t("select", { name: vm.name })} checked={on} onChange={(e) => toggle(n, (e.nativeEvent as globalThis.MouseEvent).shiftKey)} /></span>
      <span role="gridcell" className="cell-name"><a href={`/guests/${encodeURIComponent(vm.name)}`} tabIndex={-1} onClick={(e) => open(e, vm.name)}><bdi>{vm.name}</bdi></a></span>
      <span role="gridcell"><span className={`state ${state}`}>{t(`state.${state}`)}</span>{short && <span className="pending" title={t("room")}><Icon name="warning" size={12} /></span>}{pending && <span className="pending" title={t("pending")}><Icon name="info" size={12} /></span>}</span>
      {columns.map((name) => <span key={name} role="gridcell" className={`cell-${name}`}>{CELLS[name](vm, load)}</span>)}
    </div>
  );
});
