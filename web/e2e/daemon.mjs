// The daemon comes and goes while the page is open.

import assert from "node:assert/strict";

import { open } from "./host.mjs";
import { guest, shows, test } from "./test.mjs";

test("the page says that the daemon is gone, and goes on when it is back", async ({ host, contexts }) => {
  guest(host);
  const { page, context } = await open(contexts, host);
  await page.locator(".link.live").waitFor();
  await host.kill();
  await page.locator(".offline").waitFor();
  await host.again();
  await page.locator(".link.live").waitFor();
  const begun = Date.now();
  host.run("vm", "edit", "web", "--description", "it goes on");
  await page.goto(`${host.url}/guests/web`);
  await shows(page, "it goes on");
  assert.ok(Date.now() - begun < 10_000);
  await context.close();
});
