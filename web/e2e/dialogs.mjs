// Every dialog and menu for everybody: light and dark, large and small. What one opens is closed again, and nothing is done.

import assert from "node:assert/strict";

import { open } from "./host.mjs";
import { looked } from "./looked.mjs";
import { guest, test } from "./test.mjs";

/** Where dialogs are, and what opens them: a button, and what is chosen in the menu that it opens. */
const DIALOGS = [
  ["/guests/web", "More", "Edit"], ["/guests/web", "More", "Clone"], ["/guests/web", "More", "Save as template"], ["/guests/web", "More", "As command"],
  ["/guests/web", "More", "Reset"], ["/guests/web", "More", "Delete"], ["/guests/web", "Pull plug"],
  ["/guests/web/hardware", "Add disk"], ["/guests/web/hardware", "Add card"], ["/guests/web/hardware", "More about Disk 0", "Grow"],
  ["/guests/web/hardware", "More about Disk 0", "Delete disk"],
  ["/guests/web/snapshots", "Take a snapshot"], ["/guests/web/snapshots", "More about before", "Go back"],
  ["/guests/web/snapshots", "More about before", "Make a guest of it"], ["/guests/web/snapshots", "More about before", "Edit"], ["/guests/web/snapshots", "More about before", "Delete"],
  ["/guests/web/backups", "Back up"], ["/guests/web/backups", "More about saved", "Make a guest of it"], ["/guests/web/backups", "More about saved", "Delete"],
  ["/guests/web/backups", "New schedule"], ["/guests/web/backups", "More about nightly", "Delete"],
  ["/guests/web/share", "Edit"], ["/guests/web/share", "Edit memory"],
  ["/images", "Build image"], ["/images", "More about tiny", "Delete"],
  ["/storage", "Add pool"], ["/storage", "New volume"], ["/storage", "More about data", "Resize"], ["/storage", "More about data", "Wipe"], ["/storage", "More about data", "Delete"],
  ["/networks", "New network"], ["/networks/lab", "Forward a port"], ["/networks/lab", "Delete"],
  ["/groups", "New group"], ["/groups", "More about team", "Edit"], ["/groups", "More about team", "Delete"],
  ["/alarms", "New alarm"], ["/alarms", "More about pool-full", "Edit"],
  ["/access", "Add user"], ["/access", "More about ann", "Edit"], ["/access", "More about ann", "Delete"], ["/access", "Make token"],
];

function things(host) {
  guest(host);
  const has = (kind, name) => host.run(kind, "ls", "-o", "name").split("\n").includes(name);
  if (!has("network", "lab")) host.run("network", "create", "lab");
  if (!has("volume", "data")) host.run("volume", "create", "data", "--size", "1M");
  if (!host.run("share", "group", "ls", "-o", "name").includes("team")) host.run("share", "group", "create", "team", "--cpu-limit", "1");
  if (!has("user", "ann")) host.user("ann", "viewer", "a long password");
  if (!host.run("backup", "ls").includes("saved")) host.run("backup", "create", "web", "saved", "--pool", "default");
  if (!host.run("schedule", "ls", "web").includes("nightly")) host.run("schedule", "create", "web", "nightly", "--every", "1d", "--keep", "3");
  if (!host.run("vm", "snapshot", "ls", "web").includes("before")) host.run("vm", "snapshot", "create", "web", "before");
}

/** What is wrong with what is open, in light and in dark. */
async function seen(page, where, part) {
  const wrong = [];
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    wrong.push(...await looked(page, `${where}, ${colorScheme}`, part));
  }
  return wrong;
}

function fits(dialog) {
  return dialog.evaluate((one) => {
    const { left, right, top, bottom } = one.getBoundingClientRect();
    return left >= 0 && right <= innerWidth && top >= 0 && bottom <= innerHeight && one.scrollWidth <= one.clientWidth;
  });
}

for (const [name, viewport] of [["a laptop", { width: 1360, height: 850 }], ["a narrow phone", { width: 360, height: 740 }]]) {
  test(`every dialog is in order for everybody: ${name}`, async ({ host, contexts }) => {
    things(host);
    const { page, context, complaints } = await open(contexts, host, { viewport });
    const wrong = [];
    let at;
    for (const [path, button, item] of DIALOGS) {
      const where = [path, button, item].filter(Boolean).join(" → ");
      if (at !== path) await page.goto(host.url + path);
      at = path;
      await page.getByRole("button", { name: button, exact: true }).first().click();
      if (item) {
        wrong.push(...await seen(page, `${path} → ${button}`, "[role=menu]"));
        await page.getByRole("menuitem", { name: item, exact: true }).click();
      }
      const dialog = page.getByRole("dialog");
      await dialog.waitFor();
      wrong.push(...await seen(page, where, "dialog"));
      if (!await fits(dialog)) wrong.push(`${where}: does not fit in the window`);
      await page.keyboard.press("Escape");
      await dialog.waitFor({ state: "detached" });
    }
    assert.deepEqual(wrong, []);
    assert.deepEqual(complaints, []);
    await context.close();
  });
}
