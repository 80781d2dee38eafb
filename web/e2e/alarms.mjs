// Alarms: the bell, who knows of them, how they are made.

import assert from "node:assert/strict";

import { open } from "./host.mjs";
import { shows, test } from "./test.mjs";

test("an alarm rings the bell, is acknowledged, and is made and changed", async ({ host, contexts }) => {
  // Those that every host has would be raised where this machine itself is short of something.
  for (const name of host.run("alarm", "ls", "-o", "name").split("\n").filter(Boolean)) host.run("alarm", "edit", name, "--disable");
  const { page, context, complaints } = await open(contexts, host);
  await page.locator(".link.live").waitFor();
  host.run("alarm", "create", "any-memory", "--metric", "host.memory", "--above", "0", "--severity", "critical");
  await page.locator(".bell-count", { hasText: "1" }).waitFor();
  await page.locator(".bell").click();
  await page.getByRole("button", { name: /Acknowledge any-memory/ }).click();
  await shows(page, "root knows");
  await page.locator(".bell-count").waitFor({ state: "detached" });
  assert.equal(JSON.parse(host.run("alarm", "show", "any-memory", "-o", "json")).status.state, "acknowledged");

  await page.getByRole("button", { name: "New alarm" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill("mine");
  await dialog.getByLabel("Raised above").fill("50");
  await dialog.getByLabel("Cleared at").fill("60");
  await dialog.getByRole("button", { name: "Run a program" }).click();
  await dialog.getByLabel("Program and arguments").fill("/bin/echo\nit is full");
  await dialog.getByRole("button", { name: "New alarm" }).click();
  await dialog.locator(".field.wrong", { hasText: "Cleared at" }).waitFor();
  await dialog.getByLabel("Cleared at").fill("40");
  await dialog.getByRole("button", { name: "New alarm" }).click();
  await page.locator("tr", { hasText: "mine" }).waitFor();
  const made = JSON.parse(host.run("alarm", "show", "mine", "-o", "json"));
  assert.deepEqual(made.trigger, { metric: { of: "pool.used", above: 50, clear: 40, for: 60 } });
  assert.deepEqual(made.actions, [{ command: ["/bin/echo", "it is full"], timeout: 30 }]);
  await page.getByRole("button", { name: "More about mine" }).click();
  await page.getByRole("menuitem", { name: "Edit" }).click();
  await dialog.getByLabel("Watches").selectOption("event");
  await dialog.getByRole("button", { name: "Save" }).click();
  await page.locator("tr", { hasText: "vm.crashed, 1 times within 1h" }).waitFor();
  await page.getByRole("button", { name: "More about mine" }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await page.locator("tr", { hasText: "mine" }).waitFor({ state: "detached" });
  host.run("alarm", "delete", "any-memory");
  assert.deepEqual(complaints, []);
  await context.close();
});
