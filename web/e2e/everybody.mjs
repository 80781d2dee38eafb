// Every screen for everybody: light and dark, large and small, in both languages, for those who do not see it, on a slow line.

import assert from "node:assert/strict";

import { counted, open } from "./host.mjs";
import { looked } from "./looked.mjs";
import { guest, test } from "./test.mjs";

const SCREENS = ["/", "/guests", "/guests/web", "/guests/web/hardware", "/guests/web/snapshots", "/guests/web/backups", "/guests/web/share", "/guests/web/events", "/guests/web/definition", "/consoles?of=web", "/create", "/images", "/storage", "/networks", "/groups", "/tasks", "/events", "/alarms", "/access", "/audit", "/host"];

for (const [name, options] of [["light", {}], ["dark", { colorScheme: "dark" }], ["a narrow phone", { viewport: { width: 360, height: 740 } }], ["Chinese", { locale: "zh-CN" }]]) {
  test(`every screen is in order for everybody: ${name}`, async ({ host, contexts }) => {
    guest(host);
    if (!host.run("share", "group", "ls", "-o", "name").includes("team")) host.run("share", "group", "create", "team", "--memory-reserve", "16M", "--description", "all of us");
    const { page, context, complaints } = await open(contexts, host, options);
    const wrong = [];
    for (const path of SCREENS) {
      await page.goto(host.url + path);
      await page.locator("h1").waitFor();
      await page.locator(".loading").waitFor({ state: "detached" });
      wrong.push(...await looked(page, path));
      if (name === "Chinese" && !/[\u4e00-\u9fff]/.test(await page.locator("nav").first().innerText().catch(() => "中"))) wrong.push(`${path}: not in Chinese`);
    }
    assert.deepEqual(wrong, []);
    assert.deepEqual(complaints, []);
    await context.close();
  });
}

test("the first load is at most 300 KB", async ({ host, contexts }) => {
  const { page, context } = await open(contexts, host);
  const line = await counted(page);
  await page.goto(host.url);
  await page.locator(".link.live").waitFor();
  assert.ok(line.bytes > 1000 && line.bytes < 300_000, String(line.bytes));
  await context.close();
});
