// Words in the reader's language, and numbers and times as they are written there.

import { en } from "./en";
import { zh } from "./zh";

export type Key = keyof typeof en;
export type Language = "en" | "zh-CN";

const catalogues: Record<Language, Readonly<Record<Key, string>>> = { en, "zh-CN": zh };

function stored(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export const language: Language = (stored("language") ?? navigator.language).startsWith("zh") ? "zh-CN" : "en";

export function chooseLanguage(next: Language): void {
  localStorage.setItem("language", next);
  location.reload();
}

export type Values = Record<string, string | number>;

/** The text of a key; `{name}` in it stands for a value, and `{n|one|many}` for one word or another. */
export function t(key: Key, values: Values = {}): string {
  return fill(catalogues[language][key], values);
}

/** `pattern` with `values` in it; what stands in a value is not looked at again. */
export function fill(pattern: string, values: Values): string {
  const chosen = pattern.replace(/\{(\w+)\|((?:[^|{}]|\{\w+\})*)\|((?:[^|{}]|\{\w+\})*)\}/g, (_, name: string, one: string, many: string) => (values[name] === 1 ? one : many));
  return chosen.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? number(value) : value;
  });
}

/** The text of a key that is made of words of the daemon; `other` where the catalogue does not know it. */
export function told(prefix: string, word: string, other: string, values: Values = {}): string {
  const key = `${prefix}.${word}`;
  return key in en ? t(key as Key, values) : other;
}

/** Formats by how they write: to make one takes longer than to use it a hundred times, and lists scroll. */
const formats = new Map<string, Intl.NumberFormat>();

function format(style: "decimal" | "percent", digits: number): Intl.NumberFormat {
  const key = style + String(digits);
  const known = formats.get(key) ?? new Intl.NumberFormat(language, { style, maximumFractionDigits: digits });
  formats.set(key, known);
  return known;
}

export function number(n: number, digits = 0): string {
  return format("decimal", digits).format(n);
}

export function percent(part: number): string {
  return format("percent", part < 0.1 ? 1 : 0).format(part);
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(of: number | string | null | undefined): string {
  const n = Number(of ?? 0);
  const step = n < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(n) / 10));
  const scaled = n / 1024 ** step;
  return `${number(scaled, scaled < 10 && step > 0 ? 1 : 0)} ${UNITS[step] ?? ""}`;
}

export function rate(n: number): string {
  return `${bytes(n)}/s`;
}

export function clock(time: string | number): string {
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" }).format(new Date(time));
}

/** From when until when, in as few words as say it. */
export function period(from: number, to: number): string {
  return new Intl.DateTimeFormat(language, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: to - from < 600_000 ? "2-digit" : undefined, hourCycle: "h23" }).formatRange(from, to);
}

export function duration(ms: number): string {
  const seconds = Math.max(0, ms / 1000);
  const unit = (n: number, unit: string) =>
    new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "narrow", maximumFractionDigits: n < 10 && unit === "second" ? 1 : 0 }).format(n);
  if (seconds < 60) return unit(seconds, "second");
  if (seconds < 3600) return unit(Math.floor(seconds / 60), "minute");
  if (seconds < 86400 * 2) return unit(Math.floor(seconds / 3600), "hour");
  return unit(Math.floor(seconds / 86400), "day");
}

export function ago(time: string | number, now = Date.now()): string {
  const seconds = (new Date(time).getTime() - now) / 1000;
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
  const size = Math.abs(seconds);
  if (size < 45) return relative.format(0, "second");
  if (size < 3600) return relative.format(Math.round(seconds / 60), "minute");
  if (size < 86400) return relative.format(Math.round(seconds / 3600), "hour");
  return relative.format(Math.round(seconds / 86400), "day");
}
