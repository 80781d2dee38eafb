// A chart of series over time, on a canvas. It is loaded with the screen that shows it.

import "uplot/dist/uPlot.min.css";

import { useEffect, useMemo, useRef, useState } from "react";
import UPlot from "uplot";

import { latest, type Span } from "../api/history";
import { bytes, clock, number, rate } from "../text";
import { levels, ticksOfTime } from "./scale";
import { colours, onTheme } from "./theme";

export interface Line {
  name: string;
  text: string;
  colour: Colour;
  /** One value for each time. */
  values: readonly (number | null)[];
  /** The smallest and the largest that the values stand for, if they are to be seen. */
  spread?: { min: readonly (number | null)[]; max: readonly (number | null)[] } | undefined;
}

interface Props {
  title: string;
  unit: string;
  times: readonly number[];
  lines: readonly Line[];
  /** What is shown: more than there are times for, where nothing is known yet. */
  span: Span;
  /** The lines stand one on the other, the first at the bottom. */
  stacked?: boolean | undefined;
  /** How high the chart is at least. */
  most?: number | undefined;
  /** Somebody has chosen a part of it with the mouse. */
  onZoom: (span: Span) => void;
  /** Somebody wants all of it again. */
  onWhole: () => void;
}

export const COLOURS = ["--chart-1", "--chart-2", "--chart-3", "--chart-4", "--chart-5", "--chart-6"] as const;
export type Colour = (typeof COLOURS)[number];
const GROUND = ["--line", "--faint"] as const;
const HEIGHT = 190;
/** Charts that show the same time under the pointer. */
const TOGETHER = UPlot.sync("usage");

/** A value as people read it. */
export function shown(value: number | null | undefined, unit: string): string {
  if (value === null || value === undefined) return "–";
  switch (unit) {
    case "bytes": return bytes(value);
    case "bytes/s": return rate(value);
    case "1/s": return `${number(value, value < 10 ? 1 : 0)}/s`;
    default: return number(value, 2);
  }
}

export default function Chart(props: Props) {
  const { title, unit, lines, times, span, stacked, most } = props;
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<UPlot>();
  const now = useRef(props);
  const [off, setOff] = useState<ReadonlySet<string>>(new Set());
  const [at, setAt] = useState<number | null>(null);
  const [look, setLook] = useState(0);
  now.current = props;
  const on = useMemo(() => lines.filter((line) => !off.has(line.name)), [lines, off]);
  // What makes it another chart; everything else only brings it new values.
  const kind = [unit, stacked, ...on.map((line) => `${line.name} ${line.spread ? "spread" : ""}`), look].join();

  useEffect(() => onTheme(() => setLook((n) => n + 1)), []);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const made = new UPlot(options(element, () => now.current, on, setAt), data(now.current.times, on, stacked), element);
    chart.current = made;
    const sized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: HEIGHT }));
    sized.observe(element);
    return () => {
      sized.disconnect();
      chart.current = undefined;
      made.destroy();
    };
  }, [kind]);
  useEffect(() => {
    chart.current?.setData(data(times, on, stacked));
  }, [times, on, stacked, span.from, span.to, most]);

  const toggle = (name: string) => setOff((before) => new Set(before.has(name) ? [...before].filter((one) => one !== name) : [...before, name]));
  const n = at !== null && at < times.length ? at : null;
  const value = (line: Line) => (n === null ? latest(line.values) : line.values[n]);
  const time = n === null ? undefined : times[n];
  const words = lines.map((line) => `${line.text} ${shown(value(line), unit)}`).join(", ");
  return (
    <figure className="chart">
      <figcaption>
        <strong>{title}</strong>
        <span className="chart-lines">
          {lines.map((line) => (
            <button key={line.name} type="button" className="plain small" aria-pressed={!off.has(line.name)} onClick={() => toggle(line.name)}>
              <i className={`chart-mark ${line.colour.slice(2)}`} />{line.text} <b>{shown(value(line), unit)}</b>
            </button>
          ))}
        </span>
      </figcaption>
      <div className="chart-body">
        <div ref={place} className="chart-place" role="img" aria-label={`${title}: ${words}`} />
        {time !== undefined && <span className="chart-time">{clock(time * 1000)}</span>}
      </div>
    </figure>
  );
}

/** The times and the values of each line that is drawn; of stacked ones the last first, which stands on all others. */
function data(times: readonly number[], lines: readonly Line[], stacked = false): UPlot.AlignedData {
  if (stacked) return [[...times], ...levels(lines.map((line) => line.values)).reverse()];
  return [[...times], ...lines.flatMap((line) => [line.values, ...(line.spread ? [line.spread.max, line.spread.min] : [])].map((all) => [...all]))];
}

function options(place: HTMLElement, props: () => Props, lines: readonly Line[], setAt: (n: number | null) => void): UPlot.Options {
  const { unit, stacked = false } = props();
  const colour = colours(place, [...COLOURS, ...GROUND]);
  const series: UPlot.Series[] = [];
  const bands: UPlot.Band[] = [];
  for (const line of stacked ? [...lines].reverse() : lines) {
    const stroke = colour[line.colour];
    const alone = lines.length === 1 || (stacked && line === lines[0]);
    series.push({ stroke, width: 1.5, ...(alone && { fill: faint(stroke, stacked ? 0.45 : 0.14) }) });
    if (stacked && !alone) bands.push({ series: [series.length, series.length + 1], fill: faint(stroke, 0.3) });
    if (stacked || !line.spread) continue;
    series.push({ stroke: "transparent", width: 0, points: { show: false } }, { stroke: "transparent", width: 0, points: { show: false } });
    bands.push({ series: [series.length - 1, series.length], fill: faint(stroke, 0.16) });
  }
  const axis = { stroke: colour["--faint"], grid: { stroke: colour["--line"], width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    width: place.clientWidth, height: HEIGHT, legend: { show: false }, padding: [8, 18, 0, 0], bands,
    scales: {
      x: { range: () => [props().span.from, props().span.to] },
      y: { range: (_, __, max) => [0, Math.max(props().most ?? top(max), max ?? 0)] },
    },
    series: [{}, ...series],
    axes: [
      { ...axis, size: 28, space: 76, values: (_, splits, ___, ____, step) => ticksOfTime(splits, step) },
      { ...axis, size: 74, space: 34, values: (_, splits) => splits.map((value) => shown(value, unit)), ...(unit.startsWith("bytes") && { incrs: BINARY }) },
    ],
    cursor: {
      sync: { key: TOGETHER.key, setSeries: false },
      drag: { x: true, y: false, setScale: false },
      points: { show: false }, y: false,
      bind: { dblclick: () => () => { props().onWhole(); return null; } },
    },
    hooks: {
      setCursor: [(chart) => setAt(chart.cursor.idx ?? null)],
      setSelect: [(chart) => {
        const { left, width } = chart.select;
        if (width < 4) return;
        chart.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        props().onZoom({ from: Math.floor(chart.posToVal(left, "x")), to: Math.ceil(chart.posToVal(left + width, "x")) });
      }],
    },
  };
}

/** Steps that are round where 1024 of one unit are one of the next. */
const BINARY = Array.from({ length: 60 }, (_, n) => 2 ** n);

/** The top of a chart whose largest value is `max`; never so low that nothing looks like much. */
function top(max: number | null): number {
  return max && max > 0 ? max * 1.08 : 1;
}

function faint(colour: string, part: number): string {
  return colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${String(part)})`);
}
