// The serial console in the browser: what is pasted, copied, scrolled back to, and what becomes of it when the daemon dies.

import assert from "node:assert/strict";

import { open } from "./host.mjs";
import { eventually, guest, shell, test, typesIntoConsole } from "./test.mjs";

test("a console takes what is pasted, gives what is copied, keeps what has gone by, and fits its window", async ({ host, contexts }) => {
  guest(host);
  await shell(host);
  const { page, context, complaints } = await open(contexts, host, { permissions: ["clipboard-read", "clipboard-write"] });
  await page.goto(`${host.url}/guests/web/console`);
  await typesIntoConsole(page);
  // Two lines, with letters that are more than a byte each.
  await page.evaluate(() => navigator.clipboard.writeText("echo pas$((40+2))ted\necho 你好-$((6*7))"));
  await page.keyboard.press("Control+Shift+V");
  await page.keyboard.press("Enter");
  await eventually("both lines that were pasted are answered", () => /pas42ted[^]*你好-42/.test(host.run("vm", "log", "web")));

  await page.keyboard.type("clear; for n in $(seq 1001 1300); do echo line-$n-line; done\n");
  await eventually("it has all gone by", () => host.run("vm", "log", "web").includes("line-1300-line"));
  const screen = await page.locator(".xterm-screen").boundingBox();
  const word = async () => {
    await page.mouse.dblclick(screen.x + 20, screen.y + screen.height / 2);
    await page.keyboard.press("Control+Shift+C");
    return Number(/^line-(\d+)-line$/.exec(await page.evaluate(() => navigator.clipboard.readText()))?.[1]);
  };
  let now;
  await eventually("a word is copied", async () => (now = await word()) > 1200);
  await page.keyboard.press("Shift+PageUp");
  await page.keyboard.press("Shift+PageUp");
  let before;
  await eventually("what has gone by is copied", async () => (before = await word()) < now);
  assert.ok(before > 1000, String(before));
  // Who types is where they type.
  await page.keyboard.type("echo he$((0+7))re\n");
  await eventually("it goes on", () => host.run("vm", "log", "web").includes("he7re"));

  await page.setViewportSize({ width: 700, height: 620 });
  await eventually("it is no wider than its window", async () => {
    const box = await page.locator(".xterm-screen").boundingBox();
    return box.width < 700 && box.x + box.width <= 700 && box.y + box.height <= 620;
  });
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a console connects again by itself after the daemon's death", async ({ host, contexts }) => {
  guest(host);
  await shell(host);
  const { page, context, complaints } = await open(contexts, host);
  await page.goto(`${host.url}/guests/web/console`);
  await typesIntoConsole(page);
  await host.kill();
  await page.locator(".console .link.lost").waitFor();
  await host.again();
  await page.locator(".console .link.live").waitFor();
  await page.keyboard.type("echo ba$((40+2))ck\n");
  await eventually("the same guest answers", () => host.run("vm", "log", "web").includes("ba42ck"));
  assert.deepEqual(complaints, []);
  await context.close();
});
