import "./style.css";

import { createRootRoute, createRoute, createRouter, RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { watch } from "./api/guests";
import { Frame } from "./frame";
import { Guest } from "./screens/guest";
import { GuestList } from "./screens/guests";
import { language } from "./text";

const root = createRootRoute({ component: Frame, notFoundComponent: GuestList });
const routes = [
  createRoute({ getParentRoute: () => root, path: "/", component: GuestList }),
  createRoute({ getParentRoute: () => root, path: "/guests", component: GuestList }),
  createRoute({ getParentRoute: () => root, path: "/guests/$name", component: Guest }),
];
const router = createRouter({ routeTree: root.addChildren(routes) });

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}

document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
watch();
const place = document.getElementById("root");
if (place)
  createRoot(place).render(
    <StrictMode>
      <RouterProvider router={router} />
    </StrictMode>,
  );
