import { expect, test, vi } from "vitest";

vi.stubGlobal("navigator", { language: "en" });
vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined });
const { fill } = await import("./index");
const { en } = await import("./en");
const { zh } = await import("./zh");

const files: Record<string, string> = import.meta.glob(["../**/*.ts", "../**/*.tsx"], { query: "?raw", import: "default", eager: true });

function sources(): string[] {
  return Object.entries(files).filter(([file]) => !/\.test\.|schema|\/(en|zh|index)\.ts$/.test(file)).map(([, text]) => text);
}

function values(text: string): string[] {
  return [...new Set([...text.matchAll(/\{(\w+)/g)].map((found) => found[1] ?? ""))].sort();
}

test("each text is there in both languages, with the same values in it", () => {
  expect(Object.keys(zh).sort()).toEqual(Object.keys(en).sort());
  for (const [key, text] of Object.entries(en)) {
    const other = zh[key as keyof typeof en];
    expect(other.trim(), key).not.toBe("");
    // Where English has a word for one and another for many, Chinese may need neither.
    expect(values(other).every((value) => values(text).includes(value)), key).toBe(true);
    expect(values(text).filter((value) => value !== "n").every((value) => values(other).includes(value)), key).toBe(true);
  }
});

test("each text that the page asks for is there, and each that is there is asked for", () => {
  const all = sources().join("\n");
  const asked = [...all.matchAll(/\bt\(\s*"([^"]+)"/g)].map((found) => found[1] ?? "");
  expect(asked.filter((key) => !(key in en))).toEqual([]);
  const made = [...all.matchAll(/`([\w.-]*)\$\{[^`]*\}([\w.-]*)`/g)].map((found) => [found[1] ?? "", found[2] ?? ""] as const).filter(([start, end]) => start.endsWith(".") || end.startsWith("."));
  const told = [...all.matchAll(/\btold\(\s*"([^"]+)"/g)].map((found) => `${found[1] ?? ""}.`);
  const isAsked = (key: string) =>
    all.includes(`"${key}"`) || told.some((start) => key.startsWith(start)) || made.some(([start, end]) => key.startsWith(start) && key.endsWith(end));
  expect(Object.keys(en).filter((key) => !isAsked(key))).toEqual([]);
});

test("no words stand in the page itself", () => {
  const loose = sources().flatMap((source) => [...source.matchAll(/>\s*([A-Z][a-z]+ [a-z]+[^<{]*)</g)].map((found) => found[1]));
  expect(loose).toEqual([]);
});

test("a text has its values, and the word that fits how many there are", () => {
  expect(fill("{n|one guest|{n} guests}", { n: 1 })).toBe("one guest");
  expect(fill("{n|one guest|{n} guests}", { n: 3 })).toBe("3 guests");
  expect(fill("{name} has {n} disks", { name: "{n}", n: 2 })).toBe("{n} has 2 disks");
});

test("each deed and each event of the host has words", () => {
  const host = Object.entries(import.meta.glob("../../../crates/host/src/**/*.rs", { query: "?raw", import: "default", eager: true })).map(([, text]) => String(text).split("#[cfg(test)]")[0] ?? "");
  const asked = [...host.join("\n").matchAll(/\b(new_task|NewTask::new|Happening::new|happening)\(\s*"([a-z]+\.[a-z-]+)"/g)].map((found) => [found[1] ?? "", found[2] ?? ""] as const);
  expect(asked.length).toBeGreaterThan(20);
  const words = asked.map(([by, what]) => (by.endsWith("ask::new") || by === "new_task" ? `action.${what}` : `event.${what}`));
  expect([...new Set(words)].filter((key) => !(key in en))).toEqual([]);
});
