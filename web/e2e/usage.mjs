// What was used, in charts.

import assert from "node:assert/strict";
import { availableParallelism } from "node:os";

import { open } from "./host.mjs";
import { eventually, guest, shows, test } from "./test.mjs";

test("what a guest used is drawn, grows by itself, and is looked at from nearer", async ({ host, contexts }) => {
  guest(host);
  const { page, context, complaints } = await open(contexts, host);
  const asked = [];
  page.on("request", (request) => { if (request.url().includes("/history?")) asked.push(new URL(request.url()).searchParams); });
  await page.goto(`${host.url}/guests/web`);
  await page.locator(".charts canvas").nth(4).waitFor();
  // A second at least was measured; an hour was asked for once, and only its end since.
  await page.locator(".chart", { hasText: "Processors" }).getByRole("button", { name: /^Running \d/ }).waitFor();
  await eventually("what has come is asked for", () => asked.length >= 3);
  assert.equal(asked.filter((query) => query.has("points")).length, 1);
  const drawn = () => page.locator(".charts canvas").first().evaluate((canvas) => canvas.toDataURL());
  const before = await drawn();
  await page.getByRole("button", { name: /^Nothing to do/ }).click();
  assert.notEqual(await drawn(), before, "a line that is switched off is not drawn");
  await page.getByRole("button", { name: /^Nothing to do/ }).click();

  const place = await page.locator(".chart-place .u-over").first().boundingBox();
  const middle = place.y + place.height / 2;
  await page.mouse.move(place.x + place.width * 0.8, middle);
  await page.locator(".chart-time", { hasText: ":" }).first().waitFor();
  await page.mouse.down();
  await page.mouse.move(place.x + place.width * 0.99, middle, { steps: 5 });
  await page.mouse.up();
  const zoomed = () => asked.filter((query) => query.has("to")).at(-1);
  await eventually("the part is asked for", () => zoomed());
  const seconds = (query) => (Date.parse(query.get("to")) - Date.parse(query.get("from"))) / 1000;
  assert.ok(Math.abs(seconds(zoomed()) - 684) < 30, String(seconds(zoomed())));
  // The same with the keyboard.
  await page.getByRole("button", { name: "Zoom in" }).press("Enter");
  await eventually("half of it is asked for", () => Math.abs(seconds(zoomed()) - 342) < 20);
  await page.getByRole("button", { name: "Earlier" }).press("Enter");
  await page.mouse.dblclick(place.x + place.width / 2, middle);
  await page.getByRole("group", { name: "Time shown" }).getByRole("button", { name: "1 hour", pressed: true }).waitFor();
  for (const range of ["1 day", "30 days"]) {
    await page.getByRole("button", { name: range }).click();
    await page.getByRole("button", { name: range, pressed: true }).waitFor();
  }
  await page.getByText("In numbers").click();
  await page.getByRole("row", { name: /Memory: Used \d.* MiB/ }).waitFor();
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a guest is put into a group and promised memory, and what it has of both is shown", async ({ host, contexts }) => {
  guest(host);
  if (!host.run("share", "group", "ls", "-o", "name").includes("eng")) host.run("share", "group", "create", "eng", "--cpu-weight", "2000");
  const { page, context, complaints } = await open(contexts, host);
  const dialog = page.getByRole("dialog");
  await page.goto(`${host.url}/guests/web/share`);
  await page.getByRole("button", { name: "Edit", exact: true }).click();
  await dialog.getByLabel("Group").selectOption("eng");
  await dialog.getByRole("button", { name: "Save" }).click();
  // What became of what it is promised is measured while it runs.
  await page.getByRole("img", { name: /^Asked for, due and delivered: Delivered [0-9.]+/ }).waitFor({ timeout: 30_000 });
  await shows(page, /was kept in \d+ of \d+ spans of 10 s/);
  await shows(page, /eng: reserve 0, weight 2,000, no limit; got [0-9.]+ in 10 s/);
  await page.getByRole("button", { name: "Edit memory" }).click();
  await dialog.getByLabel("Reserve").fill("1TiB");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.locator(".field.wrong", { hasText: "at most" }).waitFor();
  await dialog.getByLabel("Reserve").fill("64MiB");
  await dialog.getByLabel("Weight").fill("3000");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.locator(".card", { hasText: "Promised of memory" }).getByText("64 MiB", { exact: true }).waitFor();
  // What it uses its system says once its balloon is there.
  await page.locator(".meter", { hasText: "Memory in use" }).waitFor({ timeout: 60_000 });
  assert.deepEqual(JSON.parse(host.run("vm", "show", "web", "-o", "json")).memory_share, { reserve: 64 << 20, weight: 3000 });
  assert.deepEqual(complaints, []);
  await context.close();
  host.run("vm", "edit", "web", "--share-group", "none", "--memory-reserve", "0", "--memory-weight", "1000");
  host.run("share", "group", "delete", "eng");
});

test("a guest is given a dedicated processor, and shares them with others again", async ({ host, contexts }) => {
  if (availableParallelism() < 2) return;
  guest(host);
  const { page, context, complaints } = await open(contexts, host);
  const dialog = page.getByRole("dialog");
  const save = async (own) => {
    await page.getByRole("button", { name: "Edit", exact: true }).click();
    await dialog.getByLabel("Dedicated processors").setChecked(own);
    assert.equal(await dialog.getByLabel("Reserve").count(), own ? 0 : 1, "there is nothing else to say");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.waitFor({ state: "detached" });
  };
  await page.goto(`${host.url}/guests/web/share`);
  await save(true);
  await shows(page, /Number \d+ of the host's, which no other guest runs on/);
  assert.equal(JSON.parse(host.run("vm", "show", "web", "-o", "json")).cpu_share.dedicated, true);
  await save(false);
  await page.locator(".card", { hasText: "Promised" }).getByText("1,000", { exact: true }).first().waitFor();
  assert.equal(JSON.parse(host.run("vm", "show", "web", "-o", "json")).cpu_share?.dedicated ?? false, false);
  assert.deepEqual(complaints, []);
  await context.close();
});
