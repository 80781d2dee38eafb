// A guest from its making to its end, and what it has.

import assert from "node:assert/strict";

import { open } from "./host.mjs";
import { eventually, guest, shell, shows, state, test, typesIntoConsole } from "./test.mjs";

test("a guest is made after the first visit by a link, used in its console, changed, stopped and deleted", async ({ host, contexts }) => {
  const { page, context, complaints } = await open(contexts, host);
  assert.ok(!page.url().includes("once="), "the secret is not in the address");
  await page.locator(".screen").getByRole("link", { name: "New guest" }).first().click();
  await page.getByLabel("Name", { exact: true }).fill("Not A Name");
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByLabel("CPUs").fill("1");
  await page.getByLabel("Memory").fill("128MiB");
  await page.getByLabel("Network").selectOption("none");
  await page.getByRole("button", { name: "Next" }).click();
  await shows(page, /tessera vm create .* --image tiny --cpus 1 --memory 128MiB --net none --start/);
  await page.getByRole("button", { name: "Create guest" }).click();
  // What is wrong stands beside its field.
  await page.locator(".field.wrong", { hasText: "Name" }).waitFor();
  await page.getByLabel("Name", { exact: true }).fill("web");
  await page.getByRole("button", { name: "Create with defaults" }).click();
  await page.waitForURL(/\/guests\/web\/console/);
  await state(page, "Running");
  await typesIntoConsole(page, { timeout: 30_000 });
  await shell(host);
  await page.keyboard.type("echo so$((40+2))far\n");
  await eventually("the shell answers", () => host.run("vm", "log", "web").includes("so42far"));

  await page.getByRole("button", { name: "More", exact: true }).click();
  await page.getByRole("menuitem", { name: "Edit" }).click();
  await page.getByLabel("Description").fill("serves the web");
  await page.getByRole("button", { name: "Save" }).click();
  await page.locator(".under", { hasText: "serves the web" }).waitFor();

  await page.goto(`${host.url}/guests`);
  await page.getByLabel("Select all").check();
  await page.locator(".bulk").getByRole("button", { name: "Pull plug" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Pull plug" }).click();
  await page.locator(".row .state.stopped").waitFor();
  await page.getByLabel("Select all").waitFor();
  await page.locator(".bulk").getByRole("button", { name: "Delete" }).click();
  const sure = page.getByRole("dialog").getByRole("button", { name: "Delete" });
  assert.ok(await sure.isDisabled(), "its name has to be typed");
  await page.getByRole("dialog").getByLabel(/Type web/).fill("web");
  await sure.click();
  await shows(page, "No guests yet");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a guest is backed up, checked, made anew of it, and on a schedule", async ({ host, contexts }) => {
  guest(host);
  await shell(host);
  const { page, context, complaints } = await open(contexts, host);
  const dialog = page.getByRole("dialog");
  await page.goto(`${host.url}/guests/web/backups`);
  await page.getByText("No backup yet").waitFor();
  const backUp = async (kind) => {
    await page.getByRole("button", { name: "Back up", exact: true }).click();
    await dialog.getByRole("button", { name: "Back up" }).click();
    await dialog.waitFor({ state: "detached" });
    await page.locator("td", { hasText: kind }).waitFor();
  };
  await backUp("Full");
  await backUp("What differs");
  const row = page.locator("tr", { hasText: "What differs" });
  const choose = async (item) => {
    await row.getByRole("button", { name: /^More about/ }).click();
    await page.getByRole("menuitem", { name: item }).click();
  };
  await choose("Check");
  await page.locator(".toast.good", { hasText: "is whole" }).waitFor();
  // What others need stays.
  await page.locator("tr", { hasText: "Full" }).getByRole("button", { name: /^More about/ }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await dialog.locator("[role=alert]").waitFor();
  await page.keyboard.press("Escape");
  await choose("Make a guest of it");
  await dialog.getByLabel("Name").fill("from-backup");
  await dialog.getByRole("button", { name: "Make a guest of it" }).click();
  await page.getByRole("heading", { name: "from-backup" }).waitFor();
  host.run("vm", "delete", "--force", "from-backup");

  await page.goto(`${host.url}/guests/web/backups`);
  await page.getByRole("button", { name: "New schedule", exact: true }).click();
  await dialog.getByLabel("Name").fill("nightly");
  await dialog.getByLabel("Kind").selectOption("backup");
  await dialog.getByRole("button", { name: "New schedule", exact: true }).click();
  const schedule = page.locator("tr", { hasText: "nightly" });
  await schedule.getByText("the last 7").waitFor();
  assert.match(host.run("schedule", "ls", "web"), /nightly/);
  await schedule.getByRole("button", { name: /^More about/ }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await schedule.waitFor({ state: "detached" });
  for (const backup of host.run("backup", "ls", "-o", "name").split("\n").filter(Boolean).reverse()) host.run("backup", "delete", backup);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a disk comes while the guest runs, and what the guest was is kept and gone back to", async ({ host, contexts }) => {
  guest(host);
  const { page, context, complaints } = await open(contexts, host);
  await shell(host);
  const dialog = page.getByRole("dialog");
  await page.goto(`${host.url}/guests/web/hardware`);
  await page.getByRole("button", { name: "Add disk" }).click();
  await dialog.getByLabel("Size").fill("16MiB");
  await dialog.getByRole("button", { name: "Add disk" }).click();
  await page.locator("tr", { hasText: "tessera-1" }).waitFor();
  assert.equal(JSON.parse(host.run("vm", "show", "web", "-o", "json")).status.pending_restart, false);
  const grow = async (size) => {
    await dialog.getByLabel("Size").fill(size);
    await dialog.getByRole("button", { name: "Grow" }).click();
  };
  await page.getByRole("button", { name: "More about Disk 1" }).click();
  await page.getByRole("menuitem", { name: "Grow" }).click();
  await dialog.locator("input[value='16MiB']").waitFor();
  await grow("8MiB");
  await dialog.locator(".field.wrong", { hasText: "Size" }).waitFor();
  await grow("32MiB");
  await dialog.waitFor({ state: "detached" });
  assert.match(host.run("volume", "ls"), /vm-\S+-1 .* 32M /);

  await page.goto(`${host.url}/guests/web/snapshots`);
  await page.getByRole("button", { name: "Take a snapshot" }).click();
  await dialog.getByLabel("Name").fill("Not A Name");
  await dialog.getByRole("button", { name: "Take a snapshot" }).click();
  await dialog.locator(".field.wrong", { hasText: "Name" }).waitFor();
  await dialog.getByLabel("Name").fill("before");
  await dialog.getByLabel(/Keep the memory/).check();
  await dialog.getByRole("button", { name: "Take a snapshot" }).click();
  await page.locator("tr", { hasText: "before" }).getByText("goes on from here").waitFor();
  await page.getByRole("button", { name: "More about before" }).click();
  await page.getByRole("menuitem", { name: "Go back" }).click();
  await shows(page, "its plug is pulled first");
  await dialog.getByRole("button", { name: "Go back" }).click();
  await shows(page, "web is what it was at before");
  await state(page, "Running");
  await page.getByRole("button", { name: "More about before" }).click();
  await page.getByRole("menuitem", { name: "Edit" }).click();
  await dialog.getByLabel("Name").fill("ready");
  await dialog.getByLabel("Description").fill("what others begin with");
  await dialog.getByRole("button", { name: "Save" }).click();
  await page.locator("tr", { hasText: "what others begin with" }).waitFor();
  await page.getByRole("button", { name: "More about ready" }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await shows(page, "No snapshot yet");

  // One that runs is cloned at once, and both run.
  await page.getByRole("button", { name: "More", exact: true }).click();
  await page.getByRole("menuitem", { name: "Clone" }).click();
  await shows(page, "The clone goes on where the guest is now");
  await dialog.getByRole("button", { name: "Clone" }).click();
  await page.waitForURL(/guests\/web-2/);
  await state(page, "Running");
  assert.deepEqual(["web", "web-2"].map((name) => JSON.parse(host.run("vm", "show", name, "-o", "json")).status.state), ["running", "running"]);
  host.run("vm", "delete", "web-2", "--force");
  host.run("vm", "disk", "remove", "web", "1");
  assert.deepEqual(complaints, []);
  await context.close();
});
