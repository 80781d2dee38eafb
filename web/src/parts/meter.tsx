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
}

export function Meter({ name, used, of, promised, text, under }: MeterProps) {
  const part = of > 0 ? Math.min(1, used / of) : 0;
  const tone = part > 0.92 ? "risk" : part > 0.8 ? "warn" : "";
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

/** A line of the latest values; the newest on the right. */
export function Spark({ values, most, label, span = 60 }: { values: readonly number[]; most?: number; label: string; span?: number }) {
  const shown = values.slice(-span);
  const top = Math.max(most ?? 0, ...shown, 1e-9);
  const points = shown.map((value, n) => `${String(((span - shown.length + n) / (span - 1)) * 100)},${String(30 - (value / top) * 28)}`);
  const first = ((span - shown.length) / (span - 1)) * 100;
  return (
    <svg className="spark" viewBox="0 0 100 31" preserveAspectRatio="none" role="img" aria-label={label}>
      <path className="spark-ground" d="M0 30H100" />
      {shown.length > 1 && <path className="spark-area" d={`M${String(first)},30L${points.join("L")}L100,30Z`} />}
      {shown.length > 1 && <polyline className="spark-line" points={points.join(" ")} />}
    </svg>
  );
}
