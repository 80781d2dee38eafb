// Lists that the stream does not carry. An event that says that one has changed has it read again: nothing polls.

import { QueryClient, queryOptions, useQuery } from "@tanstack/react-query";

import { at, get, Refusal, type Schemas } from "./client";
import { onEvent, onTaskEnd } from "./live";

export const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // The browser may have no network but this machine's own, and says that it is offline then.
      networkMode: "always",
      staleTime: 30_000,
      refetchOnWindowFocus: false,
      retry: (count, error) => count < 2 && !(error instanceof Refusal && error.status >= 400 && error.status < 500),
    },
  },
});

/** Lists by the first word of the events and tasks that concern them. */
const CONCERNED: Record<string, readonly string[]> = {
  vm: ["host", "networks", "leases", "volumes", "snapshots", "backups", "schedules"],
  backup: ["backups", "pools"],
  image: ["images", "host"],
  template: ["templates"],
  network: ["networks", "leases"],
  pool: ["pools", "volumes"],
  volume: ["pools", "volumes"],
  user: ["users"],
  token: ["tokens"],
  alarm: ["alarms"],
  "share-group": ["share-groups"],
};

function concern(kind: string): void {
  for (const list of CONCERNED[kind.split(".")[0] ?? ""] ?? []) void queries.invalidateQueries({ queryKey: [list] });
}

export function invalidateByEvents(): void {
  onEvent((event) => concern(event.kind));
  onTaskEnd((task) => concern(task.action));
}

interface List<T> {
  items: T[];
  next?: string | null;
}

/** A whole list, however many pages it has. */
async function all<T>(path: string, most = 10_000): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | undefined;
  do {
    const page: List<T> = await get(path, { limit: 1000, cursor });
    items.push(...page.items);
    cursor = page.next ?? undefined;
  } while (cursor && items.length < most);
  return items;
}

function list<T>(name: string) {
  return (enabled = true) => useQuery({ queryKey: [name], queryFn: () => all<T>(at(name)), enabled });
}

export type Image = Schemas["ImageInfo"];
export type Template = Schemas["Template"];
export type NetworkInfo = Schemas["NetworkInfo"];
export type Pool = Schemas["PoolInfo"];
export type Volume = Schemas["Volume"];
export type Lease = Schemas["Lease"];
export type Account = Schemas["Account"];
export type Token = Schemas["Token"];
export type Snapshot = Schemas["Snapshot"];
export type Backup = Schemas["Backup"];
export type Schedule = Schemas["Schedule"];
export type Alarm = Schemas["Alarm"];
export type ActiveAlarm = Schemas["ActiveAlarm"];
export type AuditEntry = Schemas["AuditEntry"];
export type HostInfo = Schemas["HostInfo"];

/** The snapshots of a guest, the oldest first. */
export function useSnapshots(vm: string) {
  return useQuery({ queryKey: ["snapshots", vm], queryFn: () => all<Snapshot>(at("vms", vm, "snapshots")) });
}

/** The backups of a guest, in all pools. */
export function useBackups(vm: string) {
  return useQuery({ queryKey: ["backups", vm], queryFn: () => all<Backup>(at("vms", vm, "backups")) });
}

/** What the host makes of a guest again and again. */
export function useSchedules(vm: string) {
  return useQuery({ queryKey: ["schedules", vm], queryFn: () => all<Schedule>(at("vms", vm, "schedules")) });
}

export const useImages = list<Image>("images");
export const useTemplates = list<Template>("templates");
export const useNetworks = list<NetworkInfo>("networks");
export const usePools = list<Pool>("pools");
export const useUsers = list<Account>("users");
export const useAlarms = list<Alarm>("alarms");
export const useTokens = list<Token>("tokens");
export const shareGroups = queryOptions({ queryKey: ["share-groups"], queryFn: () => all<Schemas["ShareGroupInfo"]>(at("share-groups")) });
export const useShareGroups = () => useQuery(shareGroups);

export function useHost() {
  return useQuery({ queryKey: ["host"], queryFn: () => get<HostInfo>(at("host")) });
}

export function useVolumes(pool: string | undefined) {
  return useQuery({
    queryKey: ["volumes", pool],
    queryFn: () => all<Volume>(at("pools", pool ?? "", "volumes")),
    enabled: pool !== undefined,
  });
}

export function useLeases(network: string) {
  return useQuery({ queryKey: ["leases", network], queryFn: () => all<Lease>(at("networks", network, "leases")), staleTime: 0 });
}

/** The latest of who did what. */
export function useAudit() {
  return useQuery({ queryKey: ["audit"], queryFn: () => get<List<AuditEntry>>(at("audit"), { limit: 500 }), staleTime: 0 });
}

/** What a guest is promised, wants and gets; looked at again all the time. */
export function useShare(id: string) {
  return useQuery({ queryKey: ["share", id], queryFn: () => get<Schemas["ShareReport"]>(at("vms", id, "share")), refetchInterval: 1000, staleTime: 0 });
}

/** What all guests have of the host's pool of memory; looked at again all the time if there is one. */
export function useMemoryPool() {
  return useQuery({
    queryKey: ["memory"],
    queryFn: () => get<Schemas["MemoryPool"]>(at("memory")),
    refetchInterval: ({ state }) => (state.data && state.data.size == null ? false : 2000),
    staleTime: 0,
  });
}

/** What became of what a guest is promised in the last hour. */
export function useReceipts(id: string) {
  return useQuery({ queryKey: ["receipts", id], queryFn: () => get<Schemas["Receipts"]>(at("vms", id, "receipts"), { points: 360 }), refetchInterval: 10_000, staleTime: 0 });
}

export function useAgent(id: string, enabled: boolean) {
  return useQuery({
    queryKey: ["agent", id],
    queryFn: () => get<Schemas["AgentInfo"]>(at("vms", id, "agent")),
    enabled,
    retry: false,
  });
}
