// What a guest or the host has used over time: charts of the last hour, day or month, and of any part of them.

import { useMemo, useState } from "react";

import { endOf, farther, type History, latest, moved, nearer, type Range, RANGES, seriesOf, SHORTEST, type Span, times, useHistory } from "../api/history";
import { Card, Loading, Problem } from "../parts/basics";
import Chart, { type Colour, COLOURS, type Line, shown } from "../parts/chart";
import { Icon } from "../parts/icon";
import { Table } from "../parts/table";
import { type Key, period, t } from "../text";

export interface Group {
  title: Key;
  unit: string;
  /** The series in it, the first at the bottom where they are stacked. */
  series: readonly string[];
  stacked?: boolean;
  /** Their colours, if not one after the other. */
  colours?: readonly Colour[];
  most?: number;
}

const NAMES: readonly Range[] = ["hour", "day", "month"];
/** The spans in a chart, where it is broad and where it is narrow. */
const POINTS = { broad: 720, narrow: 360 };
/** From this length on a span has peaks that its mean does not show, s. */
const PEAKS = 60;

export default function Usage({ path, groups }: { path: string; groups: readonly Group[] }) {
  const [range, setRange] = useState<Range>("hour");
  const [chosen, setChosen] = useState<{ span: Span; whole: Span }>();
  const [points] = useState(() => (window.innerWidth < 700 ? POINTS.narrow : POINTS.broad));
  const { history, error, isStale } = useHistory(path, range, points, chosen?.span);
  const now = history && !chosen && !isStale ? endOf(history) : Math.ceil(Date.now() / 1000);
  const whole = chosen?.whole ?? { from: now - RANGES[range], to: now };
  const span = chosen?.span ?? whole;
  const choose = (next: Span | undefined) => setChosen(next && { span: next.to - next.from < SHORTEST ? { from: next.from, to: next.from + SHORTEST } : next, whole });
  const all = useMemo(() => history && { times: times(history), lines: groups.map((group) => linesOf(history, group)) }, [history, groups]);
  return (
    <Card title={t("usage")} actions={<Choice range={range} onRange={(next) => { setRange(next); setChosen(undefined); }} span={span} whole={whole} zoomed={chosen !== undefined} onSpan={choose} />}>
      {error && <Problem error={error} />}
      {!history && !error && <Loading />}
      {history && all && (
        <>
          <div className="charts">
            {groups.map((group, n) => (
              <Chart
                key={group.title} title={t(group.title)} unit={group.unit} stacked={group.stacked} most={group.most} times={all.times} span={span}
                lines={all.lines[n] ?? []} onZoom={choose} onWhole={() => setChosen(undefined)}
              />
            ))}
          </div>
          <p className="hint">{history.series.every((one) => latest(one.avg) === undefined) ? t("usage.nothing") : t("usage.hint")}</p>
          <Figures history={history} groups={groups} span={span} />
        </>
      )}
    </Card>
  );
}

function linesOf(history: History, group: Group): Line[] {
  return group.series.flatMap((name, n) => {
    const series = seriesOf(history, name);
    if (!series) return [];
    const spread = history.step >= PEAKS && !group.stacked ? { min: series.min, max: series.max } : undefined;
    return [{ name, text: t(`series.${name}` as Key), colour: (group.colours ?? COLOURS)[n % COLOURS.length] ?? COLOURS[0], values: series.avg, spread }];
  });
}

interface ChoiceProps {
  range: Range;
  onRange: (range: Range) => void;
  span: Span;
  whole: Span;
  zoomed: boolean;
  onSpan: (span: Span | undefined) => void;
}

function Choice({ range, onRange, span, whole, zoomed, onSpan }: ChoiceProps) {
  return (
    <div className="tools">
      {zoomed && <span className="hint">{period(span.from * 1000, span.to * 1000)}</span>}
      <span className="joined" role="group" aria-label={t("usage.zoom")}>
        <button type="button" className="small" aria-label={t("usage.earlier")} disabled={!zoomed || span.from <= whole.from} onClick={() => onSpan(moved(span, -1, whole))}><Icon name="back" size={14} /></button>
        <button type="button" className="small" aria-label={t("usage.later")} disabled={!zoomed || span.to >= whole.to} onClick={() => onSpan(moved(span, 1, whole))}><Icon name="forth" size={14} /></button>
        <button type="button" className="small" aria-label={t("usage.nearer")} disabled={span.to - span.from <= SHORTEST} onClick={() => onSpan(nearer(span))}><Icon name="add" size={14} /></button>
        <button type="button" className="small" aria-label={t("usage.farther")} disabled={!zoomed} onClick={() => onSpan(farther(span, whole))}><Icon name="less" size={14} /></button>
      </span>
      <span className="joined" role="group" aria-label={t("usage.range")}>
        {NAMES.map((name) => <button key={name} type="button" className="small" aria-pressed={name === range && !zoomed} onClick={() => onRange(name)}>{t(`usage.${name}`)}</button>)}
      </span>
    </div>
  );
}

/** The same in numbers. */
function Figures({ history, groups, span }: { history: History; groups: readonly Group[]; span: Span }) {
  const rows = groups.flatMap((group) => group.series.flatMap((name) => seriesOf(history, name) ?? []));
  const known = (values: readonly (number | null)[]) => values.filter((value) => value !== null);
  const mean = (values: readonly number[]) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : undefined);
  const least = (values: readonly number[]) => (values.length ? values.reduce((a, b) => Math.min(a, b)) : undefined);
  const most = (values: readonly number[]) => (values.length ? values.reduce((a, b) => Math.max(a, b)) : undefined);
  const group = (name: string) => groups.find((one) => one.series.includes(name));
  return (
    <details className="figures">
      <summary>{t("usage.figures")}</summary>
      <Table
        label={`${t("usage.figures")}: ${period(span.from * 1000, span.to * 1000)}`} rows={rows} id={(row) => row.name}
        columns={[
          { name: t("series"), main: true, of: (row) => `${t(group(row.name)?.title ?? "usage")}: ${t(`series.${row.name}` as Key)}` },
          { name: t("series.latest"), number: true, of: (row) => shown(latest(row.avg), row.unit) },
          { name: t("series.mean"), number: true, of: (row) => shown(mean(known(row.avg)), row.unit) },
          { name: t("series.least"), number: true, of: (row) => shown(least(known(row.min)), row.unit) },
          { name: t("series.most"), number: true, of: (row) => shown(most(known(row.max)), row.unit) },
        ]}
      />
    </details>
  );
}
