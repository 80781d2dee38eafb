// What a guest can say that its terminal does not bear: xterm.js believes any count, and loses its place when it is reset twice in a row.

import type { IFunctionIdentifier, Terminal } from "@xterm/xterm";

/** No screen has more lines or columns than this, and none is scrolled, shifted or filled by more with one sequence. */
const MOST = 10_000;

/** The sequences that xterm.js carries out as many times, or with as much memory, as they say (ECMA-48, 8.3). */
const COUNTED: IFunctionIdentifier[] = [
  { final: "@" }, { intermediates: " ", final: "@" }, { intermediates: " ", final: "A" }, { final: "I" }, { final: "L" }, { final: "M" }, { final: "P" },
  { final: "S" }, { final: "T" }, { final: "X" }, { final: "Z" }, { final: "b" }, { intermediates: "'", final: "}" }, { intermediates: "'", final: "~" },
];

/** Keeps an open terminal whole whatever is written to it. What is returned resets it. */
export function guard(terminal: Terminal): () => void {
  for (const sequence of COUNTED) {
    terminal.parser.registerCsiHandler(sequence, (counts) => counts.flat().some((count) => count > MOST));
  }

  // Once it is reset, xterm.js does not know how high a line is until it has drawn, two frames later. It would divide by that
  // to learn where it was scrolled to, and then shows nothing and fails in every frame.
  let resets = 0;
  const begin = () => {
    resets += 1;
    requestAnimationFrame(() => requestAnimationFrame(() => { resets -= 1; }));
  };
  terminal.element?.addEventListener("scroll", (event) => { if (resets > 0) event.stopPropagation(); }, { capture: true });
  terminal.parser.registerEscHandler({ final: "c" }, () => { begin(); return false; });
  return () => { begin(); terminal.reset(); };
}
