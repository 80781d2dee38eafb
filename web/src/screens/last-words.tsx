// What a guest said last on its console, as text.

import { useEffect, useState } from "react";

import { at, text, type Vm } from "../api/client";
import { Copy, Problem } from "../parts/basics";
import { t } from "../text";

/** The most that is shown. */
const MOST = 50_000;

/** Terminals colour and move what they show by sequences of control characters (ECMA-48, 5.4 and 5.6): text has no use for them. */
export function plain(said: string): string {
  // eslint-disable-next-line no-control-regex
  return said.replace(/\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-B]|\x1b[=>78]|[\x00-\x08\x0b-\x1f\x7f]/g, "");
}

export default function LastWords({ vm, why }: { vm: Vm; why: string }) {
  const [said, setSaid] = useState("");
  const [problem, setProblem] = useState<unknown>();
  useEffect(() => {
    let here = true;
    text(at("vms", vm.id, "console", "log")).then((log) => { if (here) setSaid(plain(log.slice(-MOST))); }, (error: unknown) => { if (here) setProblem(error); });
    return () => { here = false; };
  }, [vm.id, vm.status.state]);
  return (
    <div className="console">
      <div className="console-bar"><span>{why}</span><span className="grow" />{said && <Copy text={said} />}</div>
      <Problem error={problem} />
      <pre tabIndex={0} className="last-words" aria-label={t("console")}>{said || t("console.silent")}</pre>
    </div>
  );
}
