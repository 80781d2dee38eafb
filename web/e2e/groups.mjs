// Groups in which guests share.

import assert from "node:assert/strict";

import { open } from "./host.mjs";
import { shows, test } from "./test.mjs";

test("groups are made within one another, promised what fits, changed and removed", async ({ host, contexts }) => {
  const { page, context, complaints } = await open(contexts, host);
  const dialog = page.getByRole("dialog");
  const of = (kind) => dialog.getByRole("group", { name: kind, exact: true });
  const send = async (name) => {
    await dialog.getByRole("button", { name }).click();
    await dialog.waitFor({ state: "detached" });
  };
  const menu = async (group, what) => {
    await page.getByRole("button", { name: `More about ${group}` }).click();
    await page.getByRole("menuitem", { name: what }).click();
  };
  const seen = (group) => JSON.parse(host.run("share", "group", "show", group, "-o", "json"));
  await page.goto(`${host.url}/groups`);
  await page.getByRole("button", { name: "New group" }).click();
  await dialog.getByLabel("Name").fill("shop");
  await of("Processors").getByLabel("Reserve").fill("4000");
  await dialog.getByRole("button", { name: "New group" }).click();
  await of("Processors").locator(".field.wrong", { hasText: /at most|only/ }).waitFor();
  await of("Processors").getByLabel("Reserve").fill("0,2");
  await dialog.getByRole("button", { name: "New group" }).click();
  await dialog.getByRole("alert").filter({ hasText: "0,2" }).waitFor();
  await of("Processors").getByLabel("Reserve").fill("0.2");
  await of("Processors").getByLabel("Weight").fill("2000");
  await of("Memory").getByLabel("Limit").fill("1500MiB");
  await send("New group");
  await page.getByRole("row", { name: /shop.*reserve 0.2, weight 2,000, no limit.*Memory: reserve 0 B, weight 1,000, limit: 1.5 GiB/ }).waitFor();
  await page.getByRole("button", { name: "New group" }).click();
  await dialog.getByLabel("Name").fill("tills");
  await dialog.getByLabel("Within").selectOption("shop");
  await of("Processors").getByLabel("Limit").fill("0.1");
  await of("Networks").getByLabel("Weight").fill("500");
  await send("New group");
  const { within, cpu_share: cpu, network_share: network } = seen("tills");
  assert.deepEqual([within, cpu.limit, network.weight], ["shop", 0.1, 500]);
  // What is in it cannot have it in turn.
  await menu("shop", "Edit");
  assert.deepEqual(await dialog.getByLabel("Within").locator("option").allTextContents(), ["None: the host"]);
  await of("Processors").getByLabel("Limit").fill("0.5");
  await dialog.getByLabel("It may pass the limit").check();
  await send("Save");
  await page.getByRole("row", { name: /shop.*limit: 0.5 processors, more when nobody else wants them/ }).waitFor();
  assert.deepEqual(seen("shop").cpu_share, { reserve: 0.2, weight: 2000, limit: 0.5, soft: true });
  assert.equal(seen("shop").memory_share.limit, 1500 << 20, "what was not changed is as it was");
  await menu("shop", "Delete");
  await dialog.getByRole("button", { name: "Delete" }).click();
  await dialog.getByRole("alert").filter({ hasText: "tills" }).waitFor();
  await page.keyboard.press("Escape");
  for (const name of ["tills", "shop"]) {
    await menu(name, "Delete");
    await send("Delete");
  }
  await shows(page, "No groups yet");
  assert.deepEqual(complaints.filter((one) => !/40[09]|422/.test(one)), []);
  await context.close();
});
