// What guests are given: files from the person's own machine, and networks.

import assert from "node:assert/strict";
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";

import { networked, open } from "./host.mjs";
import { eventually, guest, shell, shows, state, test, typesIntoConsole } from "./test.mjs";

/** The first words of a volume descriptor, where an ISO 9660 image has them (ECMA-119, 6.2.1 and 8.1). */
const DESCRIPTOR = { at: 32768, words: "\x01CD001\x01" };

test("an image of a disc is uploaded with a pause, attached, and read in the guest", async ({ host, contexts }) => {
  const iso = join(host.folder, "Rescue 1.iso");
  const file = openSync(iso, "w");
  writeSync(file, DESCRIPTOR.words, DESCRIPTOR.at);
  writeSync(file, "the end", (5 << 20) - 7);
  closeSync(file);
  guest(host);
  await shell(host);
  const { page, context, complaints } = await open(contexts, host);
  const dialog = page.getByRole("dialog");
  await page.goto(`${host.url}/storage`);
  const slow = await context.newCDPSession(page);
  await slow.send("Network.enable");
  await slow.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 1 << 20 });
  await page.getByLabel("Upload").setInputFiles(iso, { timeout: 60_000 });
  const line = page.locator(".lines li", { hasText: "rescue-1" });
  await line.getByRole("button", { name: "Pause" }).click();
  await line.getByText("paused").waitFor();
  await slow.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
  await line.getByRole("button", { name: "Resume" }).click();
  await line.getByText("is there").waitFor({ timeout: 20_000 });
  await page.locator("tr", { hasText: "rescue-1" }).getByText("5 MiB").first().waitFor();

  await page.goto(`${host.url}/guests/web/hardware`);
  await page.getByRole("button", { name: "Add disk" }).click();
  await dialog.getByLabel("Kind").selectOption("volume");
  await dialog.getByLabel("Volume", { exact: true }).selectOption("rescue-1");
  await dialog.getByLabel("Read only").check();
  await dialog.getByRole("button", { name: "Add disk" }).click();
  await page.locator("tr", { hasText: "default/rescue-1" }).getByText("Read only").waitFor();
  await page.goto(`${host.url}/guests/web/console`);
  await typesIntoConsole(page);
  await page.keyboard.type("for d in /dev/vd?; do dd if=$d bs=1 skip=32769 count=5 2>/dev/null | tr C c; done; tail -c 7 /dev/vdb | tr e E\n");
  await eventually("the guest reads the disc from its beginning to its end", () => /cD001[^]*thE End/.test(host.run("vm", "log", "web")));

  await page.goto(`${host.url}/guests/web/hardware`);
  await page.locator("tr", { hasText: "default/rescue-1" }).getByRole("button", { name: /^More about/ }).click();
  await page.getByRole("menuitem", { name: "Detach disk" }).click();
  await dialog.getByRole("button", { name: "Detach disk" }).click();
  await page.locator("tr", { hasText: "default/rescue-1" }).waitFor({ state: "detached" });
  await page.goto(`${host.url}/storage`);
  await page.getByRole("button", { name: "More about rescue-1" }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await dialog.getByLabel(/Type rescue-1/).fill("rescue-1");
  await dialog.getByRole("button", { name: "Delete" }).click();
  await page.getByRole("button", { name: "More about rescue-1" }).waitFor({ state: "detached" });
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a network is made, and guests on it reach each other, from consoles side by side", async ({ host, contexts }) => {
  if (!networked) return console.log("skipped: this user cannot make network namespaces");
  const { page, context, complaints } = await open(contexts, host);
  const dialog = page.getByRole("dialog");
  await page.goto(`${host.url}/networks`);
  await page.getByRole("button", { name: "New network" }).click();
  await dialog.getByLabel("Name").fill("lan");
  await dialog.getByLabel("Subnet").fill("10.77.0.0/33");
  await dialog.getByRole("button", { name: "New network" }).click();
  await dialog.locator(".field.wrong", { hasText: "Subnet" }).waitFor();
  await dialog.getByLabel("Subnet").fill("10.77.0.0/24");
  await dialog.getByRole("button", { name: "New network" }).click();
  await page.locator("tr", { hasText: "lan" }).getByText("In order").waitFor();

  await page.goto(`${host.url}/create`);
  await page.getByLabel("Name", { exact: true }).fill("a");
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByLabel("Memory").fill("128MiB");
  await page.getByLabel("Network").selectOption("named:lan");
  await page.getByRole("button", { name: "Create with defaults" }).click();
  await state(page, "Running");
  guest(host, "b", "--net", "network=lan,ip=10.77.0.50");
  await shell(host, "a");
  await shell(host, "b");

  // Both are chosen in the list, and looked at together.
  await page.goto(`${host.url}/guests`);
  for (const name of ["a", "b"]) await page.getByLabel(`Select ${name}`, { exact: true }).check();
  await page.locator(".bulk").getByRole("button", { name: "More" }).click();
  await page.getByRole("menuitem", { name: "Open 2 consoles" }).click();
  await page.locator(".console .link.live").nth(1).waitFor();
  const type = async (name, words) => {
    await page.getByRole("region", { name, exact: true }).locator(".xterm-helper-textarea").focus();
    await page.keyboard.type(`${words}\n`);
  };
  const take = "ip link set eth0 up; udhcpc -q -n -i eth0 >/dev/null 2>&1";
  await type("b", `${take}; echo b re$((1))dy`);
  await eventually("b has its address", () => host.run("vm", "log", "b").includes("b re1dy"));
  await type("a", `${take}; ping -c 1 -W 5 10.77.0.50 | grep -c "1 packets received" | sed s/^/reached-/`);
  await eventually("a reaches b", () => host.run("vm", "log", "a").includes("reached-1"));
  assert.ok(!host.run("vm", "log", "b").includes("reached"), "what is typed to one goes to that one");

  await page.goto(`${host.url}/networks/lan`);
  await page.locator("tr", { hasText: "10.77.0.50" }).nth(1).waitFor();
  await page.getByRole("link", { name: "a", exact: true }).waitFor();
  host.run("vm", "delete", "--force", "a", "b");
  await shows(page, "No guest is on it.");
  await page.locator(".screen").getByRole("button", { name: "Delete" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await shows(page, "No networks yet");
  assert.deepEqual(complaints, []);
  await context.close();
});
