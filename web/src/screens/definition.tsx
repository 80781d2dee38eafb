// A guest's definition as text: changed here, compared before it is applied. Loaded when it is opened.

import { diffLines } from "diff";
import { useMemo, useState } from "react";

import { at, complete, getVersion, Refusal, type Vm, type VmDefinition } from "../api/client";
import { usePowers } from "../api/session";
import { Card, Code, Copy } from "../parts/basics";
import { useSending, Wrong } from "../parts/form";
import { toast } from "../parts/toasts";
import { t } from "../text";
import { definitionOf } from "./guest-dialogs";

function pretty(definition: VmDefinition): string {
  return JSON.stringify(definition, null, 2);
}

/** What makes `after` of `before`, as a merge patch (RFC 7396): what is gone becomes null. */
export function mergePatch(before: unknown, after: unknown): unknown {
  if (!isObject(before) || !isObject(after)) return after;
  const patch: Record<string, unknown> = {};
  for (const key of Object.keys(before)) if (!(key in after)) patch[key] = null;
  for (const [key, value] of Object.entries(after)) if (JSON.stringify(before[key]) !== JSON.stringify(value)) patch[key] = mergePatch(before[key], value);
  return patch;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export default function Definition({ vm }: { vm: Vm }) {
  const { manage } = usePowers();
  const now = useMemo(() => pretty(definitionOf(vm)), [vm]);
  const [text, setText] = useState<string>();
  const [reviewing, setReviewing] = useState(false);
  const { problem, busy, submit } = useSending(async () => {
    const after = parsed(text ?? now);
    const { value, version } = await getVersion<Vm>(at("vms", vm.id));
    if (pretty(definitionOf(value)) !== now) throw new Refusal(412, { detail: t("definition.changed") });
    await complete("PATCH", at("vms", vm.id), { body: mergePatch(definitionOf(vm), after), version });
    toast("good", t("edited", { name: vm.name }));
    setText(undefined);
    setReviewing(false);
  });
  if (!manage) return <Card title={t("tab.definition")} actions={<Copy text={now} />}><pre className="definition" tabIndex={0} aria-label={t("tab.definition")}>{now}</pre></Card>;
  const fault = text === undefined ? undefined : faultOf(text);
  const changed = text !== undefined && text !== now;
  return (
    <form onSubmit={(event) => { if (reviewing) submit(event); else { event.preventDefault(); setReviewing(true); } }}>
      <Card title={t(reviewing ? "definition.review" : "tab.definition")} actions={<Copy text={text ?? now} />}>
        {reviewing ? <Diff before={now} after={text ?? now} /> : (
          <textarea className="definition mono" aria-label={t("tab.definition")} aria-invalid={fault !== undefined} spellCheck={false} rows={Math.min(36, (text ?? now).split("\n").length + 1)} value={text ?? now} onChange={(e) => setText(e.target.value)} />
        )}
        {fault && <p className="error" role="alert">{fault}</p>}
        <Wrong problem={problem} />
        <div className="buttons">
          {changed && <button type="button" onClick={() => { setText(undefined); setReviewing(false); }}>{t("definition.discard")}</button>}
          {reviewing && <button type="button" onClick={() => setReviewing(false)}>{t("back")}</button>}
          <button type="submit" className="primary" disabled={!changed || fault !== undefined || busy} aria-busy={busy}>{t(reviewing ? "definition.apply" : "definition.compare")}</button>
        </div>
      </Card>
      <Code label={t("command")} text={`tessera vm show ${vm.name} -o json`} />
    </form>
  );
}

function parsed(text: string): unknown {
  return JSON.parse(text) as unknown;
}

function faultOf(text: string): string | undefined {
  try {
    return isObject(parsed(text)) ? undefined : t("definition.no-object");
  } catch (error) {
    return t("definition.no-json", { why: error instanceof Error ? error.message : "" });
  }
}

function Diff({ before, after }: { before: string; after: string }) {
  const parts = diffLines(before, after);
  return (
    <pre className="definition diff" tabIndex={0} aria-label={t("definition.review")}>
      {parts.map((part, n) => {
        const sign = part.added ? "+" : part.removed ? "−" : " ";
        const lines = part.value.replace(/\n$/, "").split("\n");
        const shown = part.added || part.removed || lines.length <= 8 ? lines : [...lines.slice(0, 3), "…", ...lines.slice(-3)];
        return shown.map((line, m) => <span key={`${String(n)}-${String(m)}`} className={part.added ? "added" : part.removed ? "removed" : ""}>{`${sign} ${line}\n`}</span>);
      })}
    </pre>
  );
}
