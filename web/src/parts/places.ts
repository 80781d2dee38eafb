// The places of the page, as the navigation and the palette show them.

import type { Powers } from "../api/session";
import type { Key } from "../text";
import type { IconName } from "./icon";

type To = "/" | "/guests" | "/images" | "/storage" | "/networks" | "/groups" | "/tasks" | "/events" | "/alarms" | "/access" | "/audit" | "/host";

interface Place {
  to: To;
  name: Key;
  icon: IconName;
  group: "use" | "have" | "know";
  may: (powers: Powers) => boolean;
}

const anybody = () => true;
/** Those who are bound to labels may not see these. */
const whole = (powers: Powers) => Object.keys(powers.session?.labels ?? {}).length === 0;

export const PLACES: readonly Place[] = [
  { to: "/", name: "overview", icon: "overview", group: "use", may: anybody },
  { to: "/guests", name: "guests", icon: "guests", group: "use", may: anybody },
  { to: "/images", name: "images", icon: "images", group: "have", may: anybody },
  { to: "/storage", name: "storage", icon: "storage", group: "have", may: whole },
  { to: "/networks", name: "networks", icon: "networks", group: "have", may: anybody },
  { to: "/groups", name: "groups", icon: "groups", group: "have", may: whole },
  { to: "/tasks", name: "tasks", icon: "tasks", group: "know", may: anybody },
  { to: "/events", name: "events", icon: "events", group: "know", may: anybody },
  { to: "/alarms", name: "alarms", icon: "bell", group: "know", may: anybody },
  { to: "/access", name: "access", icon: "access", group: "know", may: (powers) => powers.own },
  { to: "/audit", name: "audit", icon: "audit", group: "know", may: (powers) => powers.own },
  { to: "/host", name: "host", icon: "host", group: "know", may: anybody },
];
