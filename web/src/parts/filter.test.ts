import { expect, test } from "vitest";

import type { Vm } from "../api/client";
import { matcher, withWord, wordOf } from "./filter";

const vm = { name: "Web-1", labels: { tier: "Front" }, nics: [{ address: "10.1.0.7" }], status: { state: "running" } } as unknown as Vm;

test.each([
  ["", true],
  ["web", true],
  ["state:running web", true],
  ["state:stopped", false],
  ["state:stopped,running", true],
  ["label:tier", true],
  ["label:tier=front", true],
  ["label:tier=back", false],
  ["db", false],
  ["-db", true],
  ["-label:tier=front", false],
  ["10.1.0", true],
])("%j matches: %s", (search, expected) => {
  expect(matcher(search)(vm)).toBe(expected);
});

test("a filter that is chosen becomes a word of the search, and goes again", () => {
  const search = withWord("web state:stopped", "state:", "running");
  expect([search, wordOf(search, "state:"), withWord(search, "state:", "")]).toEqual(["web state:running", "running", "web"]);
});
