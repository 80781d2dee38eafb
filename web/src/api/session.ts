// Who looks at the page, and what they may do. What they may not do is not offered; the daemon refuses it all the same.

import { useQuery } from "@tanstack/react-query";

import { at, change, get, type Schemas } from "./client";
import { forget, watch } from "./live";
import { queries } from "./queries";

export type Session = Schemas["Session"];
export type Role = Schemas["Role"];

export const ROLES: readonly Role[] = ["viewer", "operator", "admin"];

export interface Powers {
  session: Session | undefined;
  /** Start, stop and use guests. */
  operate: boolean;
  /** Make, change and remove guests. */
  manage: boolean;
  /** The same with what is the host's: images, pools, networks, users. */
  own: boolean;
}

export function usePowers(): Powers {
  const { data: session } = useQuery({ queryKey: ["session"], queryFn: () => get<Session>(at("session")) });
  const level = session ? ROLES.indexOf(session.role) : -1;
  const bound = Object.keys(session?.labels ?? {}).length > 0;
  return { session, operate: level >= 1, manage: level >= 2, own: level >= 2 && !bound };
}

export async function logIn(user: string, password: string): Promise<void> {
  const session = await change<Session>("POST", at("session"), { body: { user, password } });
  queries.clear();
  queries.setQueryData(["session"], session);
  watch();
}

export async function logOut(): Promise<void> {
  await change("DELETE", at("session"));
  queries.clear();
  forget();
}
