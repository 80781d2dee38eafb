import { expect, test, vi } from "vitest";

vi.stubGlobal("navigator", { language: "en" });
vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined });
const { plain } = await import("./last-words");

test("commands for terminals are left out of what a guest said", () => {
  const said = "\x1b[1;31mred\x1b[0m \x1b]0;a title\x07\x1b]8;;http://x/\x1b\\link\x1b(B\x1bPq...\x1b\\ \x07end\n";
  expect(plain(said)).toBe("red link end\n");
});
