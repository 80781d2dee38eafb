// Pictures of every screen in docs/screens: light, dark, and as a phone shows them.

import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { browser, Host, open, sleep } from "./host.mjs";

const OUT = join(dirname(fileURLToPath(import.meta.url)), "../../docs/screens");
const SCREENS = { overview: "/", guests: "/guests", guest: "/guests/web-1", console: "/guests/web-1/console", hardware: "/guests/web-1/hardware", definition: "/guests/web-1/definition", create: "/create", images: "/images", storage: "/storage", networks: "/networks", tasks: "/tasks", events: "/events", alarms: "/alarms", access: "/access", audit: "/audit", host: "/host" };
const LOOKS = { light: {}, dark: { colorScheme: "dark" }, phone: { viewport: { width: 390, height: 780 } } };
const GUESTS = [["web-1", "256M", "web"], ["web-2", "256M", "web"], ["web-3", "256M", "web"], ["db-1", "512M", "db"], ["db-2", "512M", "db"], ["cache", "192M", "db"], ["mail", "256M", "mail"], ["build", "384M", "ci"], ["metrics", "192M", "ci"], ["old-web", "256M", "web"]];

mkdirSync(OUT, { recursive: true });
const host = await Host.start();
for (const [name, memory, tier] of GUESTS) {
  const start = name === "old-web" ? [] : ["--start"];
  host.run("vm", "create", name, "--image", "tiny", "--memory", memory, "--net", "none", "--label", `tier=${tier}`, ...start);
}
host.run("vm", "pause", "metrics");
host.user("ann", "operator", "correct horse");
host.user("vera", "viewer", "correct horse");
host.run("token", "create", "backup", "--role", "operator");
host.run("volume", "create", "data", "--size", "2G");
const { contexts, end } = await browser();
for (const [look, options] of Object.entries(LOOKS)) {
  const { page, context } = await open(contexts, host, { ...options, viewport: options.viewport ?? { width: 1360, height: 850 } });
  for (const [name, path] of Object.entries(SCREENS)) {
    await page.goto(host.url + path);
    await page.locator("h1").waitFor();
    await page.locator(".loading").waitFor({ state: "detached" });
    await sleep(name === "overview" || name === "guest" ? 9000 : 700);
    await page.screenshot({ path: join(OUT, `${name}-${look}.png`) });
  }
  await context.close();
}
await end();
await host.end();
