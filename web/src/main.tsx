import "./style/index.css";

import { QueryClientProvider } from "@tanstack/react-query";
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { begin } from "./api/live";
import { invalidateByEvents, queries } from "./api/queries";
import { Frame } from "./frame";
import { apply } from "./parts/theme";
import { GuestList } from "./screens/guests";
import { Missing } from "./screens/missing";
import { Overview } from "./screens/overview";
import { language } from "./text";

const root = createRootRoute({ component: Frame, notFoundComponent: Missing });
const at = <P extends string>(path: P) => ({ getParentRoute: () => root, path });
// What is not seen first is loaded when it is opened.
const routes = [
  createRoute({ ...at("/"), component: Overview }),
  createRoute({ ...at("/guests"), component: GuestList, validateSearch: (found: Record<string, unknown>): { search?: string } => (typeof found["search"] === "string" ? { search: found["search"] } : {}) }),
  createRoute({ ...at("/guests/$name"), component: lazyRouteComponent(() => import("./screens/guest"), "Guest") }),
  createRoute({ ...at("/guests/$name/$tab"), component: lazyRouteComponent(() => import("./screens/guest"), "Guest") }),
  createRoute({ ...at("/create"), component: lazyRouteComponent(() => import("./screens/create"), "Create") }),
  createRoute({ ...at("/consoles"), component: lazyRouteComponent(() => import("./screens/consoles"), "Consoles"), validateSearch: (found: Record<string, unknown>): { of: string } => ({ of: typeof found["of"] === "string" ? found["of"] : "" }) }),
  createRoute({ ...at("/images"), component: lazyRouteComponent(() => import("./screens/images"), "Images") }),
  createRoute({ ...at("/storage"), component: lazyRouteComponent(() => import("./screens/storage"), "Storage") }),
  createRoute({ ...at("/networks"), component: lazyRouteComponent(() => import("./screens/networks"), "Networks") }),
  createRoute({ ...at("/networks/$name"), component: lazyRouteComponent(() => import("./screens/network"), "Network") }),
  createRoute({ ...at("/groups"), component: lazyRouteComponent(() => import("./screens/groups"), "Groups") }),
  createRoute({ ...at("/tasks"), component: lazyRouteComponent(() => import("./screens/tasks"), "Tasks") }),
  createRoute({ ...at("/events"), component: lazyRouteComponent(() => import("./screens/events"), "Events") }),
  createRoute({ ...at("/alarms"), component: lazyRouteComponent(() => import("./screens/alarms"), "Alarms") }),
  createRoute({ ...at("/access"), component: lazyRouteComponent(() => import("./screens/access"), "Access") }),
  createRoute({ ...at("/audit"), component: lazyRouteComponent(() => import("./screens/audit"), "Audit") }),
  createRoute({ ...at("/host"), component: lazyRouteComponent(() => import("./screens/host"), "Host") }),
];
const router = createRouter({ routeTree: root.addChildren(routes), defaultPreload: "intent" });

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}

apply();
document.documentElement.lang = language;
invalidateByEvents();
begin();
const place = document.getElementById("root");
if (place)
  createRoot(place).render(
    <StrictMode>
      <QueryClientProvider client={queries}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </StrictMode>,
  );
