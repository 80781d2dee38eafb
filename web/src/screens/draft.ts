// A guest that is being thought of: as a definition, as a command, and as a request.

import type { VmDefinition } from "../api/client";
import { labelsOf } from "./guest-dialogs";

export interface Draft {
  name: string;
  /** `image:NAME` or `template:NAME`. */
  source: string;
  cpus: string;
  memory: string;
  grow: string;
  /** `user`, `none`, `named:NAME`, or nothing where a template says it. */
  network: string;
  user: string;
  keys: string;
  labels: string;
  description: string;
  start: boolean;
  autostart: boolean;
}

export const blank: Draft = {
  name: "", source: "", cpus: "", memory: "", grow: "", network: "user", user: "", keys: "", labels: "", description: "", start: true, autostart: false,
};

function lines(text: string): string[] {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

/** What is said of it; the rest is as usual or as its template says. */
export function definitionOf(draft: Draft): Partial<VmDefinition> & { name: string } {
  const [kind = "", ...rest] = draft.source.split(":");
  const source = rest.join(":");
  const labels = labelsOf(draft.labels);
  return {
    name: draft.name,
    ...(draft.description && { description: draft.description }),
    ...(draft.cpus && { cpus: Number(draft.cpus) }),
    ...(draft.memory && { memory: draft.memory }),
    ...(kind === "image" && { disks: [{ image: source, ...(draft.grow && { grow: draft.grow }) }] }),
    ...(draft.network === "user" && { nics: [{ network: "user" as const }] }),
    ...(draft.network === "none" && { nics: [] }),
    ...(draft.network.startsWith("named:") && { nics: [{ network: { named: draft.network.slice(6) } }] }),
    ...(Object.keys(labels).length > 0 && { labels }),
    ...(draft.autostart && { autostart: { enabled: true } }),
    ...(draft.user && { cloud_init: { user: { name: draft.user, ssh_keys: lines(draft.keys) } } }),
  };
}

/** A word as a shell takes it. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** The same on the command line. */
export function commandOf(draft: Draft): string {
  const [kind = "image", ...rest] = draft.source.split(":");
  const words = ["tessera", "vm", "create", draft.name || "NAME", `--${kind}`, rest.join(":")];
  const option = (name: string, value: string) => { if (value) words.push(name, value); };
  option("--cpus", draft.cpus);
  option("--memory", draft.memory);
  if (kind === "image") option("--grow", draft.grow);
  option("--net", draft.network.startsWith("named:") ? `network=${draft.network.slice(6)}` : draft.network);
  option("--user", draft.user);
  if (draft.user) for (const key of lines(draft.keys)) option("--ssh-key", key);
  for (const [key, value] of Object.entries(labelsOf(draft.labels))) option("--label", `${key}=${value}`);
  option("--description", draft.description);
  if (draft.autostart) words.push("--autostart");
  if (draft.start) words.push("--start");
  return words.map(quoted).join(" ");
}

/** The same as a request. */
export function requestOf(draft: Draft) {
  const [kind = "", ...rest] = draft.source.split(":");
  const query = { start: draft.start, ...(kind === "template" && { template: rest.join(":") }) };
  const words = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)])).toString();
  const text = (origin: string) =>
    `curl -H "Authorization: Bearer $TOKEN" --json ${quoted(JSON.stringify(definitionOf(draft)))} '${origin}/api/v1/vms?${words}'`;
  return { query, text };
}
