// Pictures of every screen in docs/screens: light, dark, and as a phone shows them.

import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { browser, Host, inNetwork, networked, open, sleep } from "./host.mjs";
import { shell } from "./test.mjs";

inNetwork(import.meta.url);

const OUT = join(dirname(fileURLToPath(import.meta.url)), "../../docs/screens");
const LOOKS = { light: {}, dark: { colorScheme: "dark" }, phone: { viewport: { width: 390, height: 780 } } };
const GUESTS = [["web-1", "256M", "web"], ["web-2", "256M", "web"], ["db-1", "512M", "db"], ["db-2", "512M", "db"], ["web-3", "256M", "web"], ["cache", "192M", "db"], ["mail", "256M", "mail"], ["build", "384M", "ci"], ["metrics", "192M", "ci"], ["old-web", "256M", "web"]];

/** Whose consoles are looked at. */
const SPEAK = ["web-1", "web-2", "db-1", "db-2"];

const dialog = (page) => page.getByRole("dialog");
const choose = async (page, name) => {
  await page.getByRole("button", { name: "More", exact: true }).first().click();
  await page.getByRole("menuitem", { name }).click();
  await dialog(page).waitFor();
};

/** Each screen's address, and what is done there before the picture. */
const SCREENS = {
  overview: ["/", () => sleep(5000)],
  guests: ["/guests", () => sleep(4500)],
  chosen: ["/guests", async (page) => {
    for (const name of ["db-1", "db-2", "web-1"]) await page.getByLabel(`Select ${name}`, { exact: true }).check();
    await sleep(4500);
  }],
  guest: ["/guests/web-1", () => sleep(5000)],
  console: ["/guests/web-1/console"],
  consoles: ["/consoles?of=web-1,web-2,db-1,db-2"],
  hardware: ["/guests/web-1/hardware"],
  disk: ["/guests/web-1/hardware", async (page) => {
    await page.getByRole("button", { name: "Add disk" }).click();
    await dialog(page).getByLabel("Kind").selectOption("volume");
  }],
  snapshots: ["/guests/db-1/snapshots"],
  backups: ["/guests/db-1/backups"],
  share: ["/guests/web-1/share"],
  history: ["/guests/db-1/events"],
  definition: ["/guests/web-1/definition"],
  delete: ["/guests/old-web", (page) => choose(page, "Delete")],
  create: ["/create", (page) => page.getByLabel("Name", { exact: true }).fill("web-4")],
  palette: ["/", async (page, { phone }) => {
    if (phone) await page.locator(".search-button").click();
    else await page.keyboard.press("Control+k");
    await page.keyboard.type("web");
  }],
  images: ["/images"],
  storage: ["/storage"],
  networks: ["/networks"],
  network: ["/networks/lan"],
  groups: ["/groups"],
  group: ["/groups", async (page) => {
    await page.getByRole("button", { name: "More about shop" }).click();
    await page.getByRole("menuitem", { name: "Edit" }).click();
  }],
  tasks: ["/tasks"],
  events: ["/events"],
  alarms: ["/alarms"],
  alarm: ["/alarms", async (page) => {
    await page.getByRole("button", { name: "More about memory-gone" }).click();
    await page.getByRole("menuitem", { name: "Edit" }).click();
  }],
  access: ["/access"],
  audit: ["/audit"],
  host: ["/host"],
  missing: ["/guests/nobody"],
};

/** A host with some of everything, as a small firm may have it. */
async function furnish(host) {
  if (networked) {
    host.run("network", "create", "lan", "--subnet", "10.20.0.0/24");
    host.run("network", "create", "backstage", "--kind", "isolated", "--subnet", "10.30.0.0/24");
  }
  host.run("share", "group", "create", "shop", "--cpu-reserve", "0.5", "--cpu-weight", "4000");
  host.run("share", "group", "create", "tills", "--within", "shop", "--cpu-limit", "0.2", "--description", "what may wait");
  host.run("share", "group", "create", "lab", "--cpu-limit", "0.5", "--cpu-soft", "--memory-reserve", "256M", "--network-weight", "500");
  for (const [name, memory, tier] of GUESTS) {
    const nics = networked ? ["--net", "network=lan", ...(tier === "db" ? ["--net", "network=backstage"] : [])] : ["--net", "none"];
    host.run("vm", "create", name, "--image", "tiny", "--memory", memory, ...nics, "--label", `tier=${tier}`, ...(tier === "web" ? ["--share-group", "shop"] : []), ...(name === "old-web" ? [] : ["--start"]));
    // Not all of them begin at once: that would take minutes on a small machine.
    if (name === SPEAK.at(-1)) for (const one of SPEAK) await shell(host, one);
  }
  host.run("vm", "edit", "web-1", "--description", "serves the shop");
  host.run("vm", "pause", "metrics");
  host.user("ann", "operator", "correct horse");
  host.user("vera", "viewer", "correct horse");
  host.run("token", "create", "backup", "--role", "operator");
  host.run("volume", "create", "data", "--size", "2G");
  host.run("volume", "create", "archive", "--size", "8G");
  host.run("template", "create", "small-web", "--from", "web-2");
  for (const name of SPEAK) {
    host.run("vm", "send-key", name, "text:uname -a; free; ip link | grep eth; head -1 /proc/loadavg", "enter");
  }
  await shell(host, "build");
  host.run("vm", "send-key", "build", "text:while true; do md5sum /bin/busybox; done >/dev/null", "enter");
  for (const words of [["installed"], ["configured"], ["before-upgrade", "--memory"]]) host.run("vm", "snapshot", "create", "db-1", ...words);
  host.run("vm", "snapshot", "revert", "db-1", "configured", "--force");
  host.run("vm", "snapshot", "create", "db-1", "tuned");
  host.run("vm", "start", "db-1");
  await shell(host, "db-1");
  for (const name of ["monday", "tuesday"]) host.run("backup", "create", "db-1", name, "--pool", "default");
  host.run("schedule", "create", "db-1", "nightly", "--every", "1d", "--offset", "2h", "--keep-daily", "7", "--keep-weekly", "4", "--backup", "--pool", "default");
  host.run("schedule", "create", "db-1", "hourly", "--every", "1h", "--keep", "24");
  host.run("vm", "edit", "web-1", "--cpu-reserve", "0.2", "--cpu-weight", "2000", "--memory-reserve", "64M");
  host.run("alarm", "create", "memory-gone", "--metric", "host.memory", "--above", "1", "--severity", "critical", "--description", "Nobody has memory left");
  host.run("alarm", "create", "crashes", "--event", "vm.crashed", "--severity", "warning");
}

const only = process.argv[2];
if (!only) rmSync(OUT, { recursive: true, force: true });
mkdirSync(OUT, { recursive: true });

const host = await Host.start();
const { contexts, end } = await browser();
try {
  await furnish(host);
  for (const [look, options] of Object.entries(LOOKS)) {
    const { page, context } = await open(contexts, host, { ...options, viewport: options.viewport ?? { width: 1360, height: 850 } });
    for (const [name, [path, act = () => sleep(700)]] of Object.entries(SCREENS)) {
      if (only && only !== name) continue;
      await page.goto(host.url + path);
      await page.locator("h1").waitFor();
      await page.locator(".loading").waitFor({ state: "detached" });
      await act(page, { phone: look === "phone" });
      await sleep(300);
      await page.screenshot({ path: join(OUT, `${name}-${look}.png`) });
    }
    await context.close();
  }
  const { page, context } = await open(contexts, host, { link: false });
  await page.goto(host.url);
  await page.getByLabel("User").waitFor();
  await page.screenshot({ path: join(OUT, "login-light.png") });
  await context.close();
  console.log(`${readdirSync(OUT).length} pictures in docs/screens`);
} finally {
  await end();
  await host.end();
}
process.exit(0);
