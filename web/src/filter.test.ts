import { expect, test } from "vitest";

import type { Vm } from "./api/client";
import { matcher } from "./filter";

const vm = { name: "Web-1", labels: { tier: "Front" }, status: { state: "running" } } as unknown as Vm;

test.each([
  ["", true],
  ["web", true],
  ["state:running web", true],
  ["state:stopped", false],
  ["label:tier", true],
  ["label:tier=front", true],
  ["label:tier=back", false],
  ["db", false],
])("%j matches: %s", (search, expected) => {
  expect(matcher(search)(vm)).toBe(expected);
});
