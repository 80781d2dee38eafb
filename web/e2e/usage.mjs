// What was used, in charts.

import assert from "node:assert/strict";

import { open } from "./host.mjs";
import { eventually, guest, test } from "./test.mjs";

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
  await page.getByRole("button", { name: /^Idle/ }).click();
  assert.notEqual(await drawn(), before, "a line that is switched off is not drawn");
  await page.getByRole("button", { name: /^Idle/ }).click();

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
