// How much of something is used: a bar for now, a line for the last minutes.

import { percent } from "../text";

interface MeterProps {
  name: string;
  used: number;
  of: number;
  /** What is promised, where that is another number. */
  promised?: number;
  text: string;
  under?: string;
  /** How it is meant, where a full bar is not a warning by itself. */
  tone?: "" | "warn" | "risk";
}

export function Meter({ name, used, of, promised, text, under, tone: meant }: MeterProps) {
  const part = of > 0 ? Math.min(1, used / of) : 0;
  const tone = meant ?? (part > 0.92 ? "risk" : part > 0.8 ? "warn" : "");
  return (
    <div className="meter">
      <div className="meter-words"><span>{name}</span><strong>{text}</strong></div>
      <svg className={`bar ${tone}`} viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label={`${name}: ${percent(part)}`}>
        <rect className="bar-ground" width="100" height="8" />
        {promised !== undefined && <rect className="bar-promised" width={of > 0 ? Math.min(100, (promised / of) * 100) : 0} height="8" />}
        <rect className="bar-used" width={part * 100} height="8" />
      </svg>
      {under && <p className="hint">{under}</p>}
    </div>
  );
}

/** A line of values; the newest on the right, holes where nothing is known. */
export function Spark({ values, most, label }: { values: readonly (number | null)[]; most?: number; label: string }) {
  const top = Math.max(most ?? 0, ...values.map((value) => value ?? 0), 1e-9);
  const place = (value: number, n: number) => `${String((n / Math.max(1, values.length - 1)) * 100)},${String(30 - (value / top) * 28)}`;
  const parts = runs(values);
  return (
    <svg className="spark" viewBox="0 0 100 31" preserveAspectRatio="none" role="img" aria-label={label}>
      <path className="spark-ground" d="M0 30H100" />
      {parts.map(([first, part]) => {
        const points = part.map((value, n) => place(value, first + n));
        const [begin, end] = [points[0]?.split(",")[0] ?? "0", points.at(-1)?.split(",")[0] ?? "0"];
        return (
          <g key={first}>
            <path className="spark-area" d={`M${begin},30L${points.join("L")}L${end},30Z`} />
            <polyline className="spark-line" points={points.join(" ")} />
          </g>
        );
      })}
    </svg>
  );
}

/** The values that follow each other without a hole, and where each such run begins. */
export function runs(values: readonly (number | null)[]): [number, number[]][] {
  const found: [number, number[]][] = [];
  values.forEach((value, n) => {
    if (value === null) return;
    const last = found.at(-1);
    if (last && last[0] + last[1].length === n) last[1].push(value);
    else found.push([n, [value]]);
  });
  return found;
}
