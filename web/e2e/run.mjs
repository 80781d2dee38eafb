// The page from a person's side: a real daemon, real guests, a real browser.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { browser, Host, open, sleep } from "./host.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SCREENS = ["/", "/guests", "/guests/web", "/guests/web/hardware", "/guests/web/snapshots", "/guests/web/share", "/guests/web/events", "/guests/web/definition", "/create", "/images", "/storage", "/networks", "/tasks", "/events", "/alarms", "/access", "/audit", "/host"];

const tests = [];
const test = (name, body) => tests.push({ name, body });

/** A guest that runs, if it is not there yet. */
function web(host) {
  if (host.run("vm", "ls", "-o", "name").includes("web")) return;
  host.run("vm", "create", "web", "--image", "tiny", "--memory", "128M", "--net", "none", "--start");
}

/** Waits until the page shows these words. */
async function shows(page, words) {
  await page.getByText(words).first().waitFor();
}

async function state(page, words) {
  await page.locator(".under .state", { hasText: words }).waitFor({ timeout: 60_000 });
}

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
  await page.locator(".console .link.live").waitFor({ timeout: 30_000 });
  await page.locator(".xterm-helper-textarea").focus();
  await eventually("the guest has a shell", () => host.run("vm", "log", "web").includes("# "));
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

test("a viewer is offered nothing that changes something", async ({ host, contexts }) => {
  web(host);
  host.user("vera", "viewer", "correct horse");
  const { page, context } = await open(contexts, host, { link: false });
  await page.goto(`${host.url}/guests`);
  await page.getByLabel("User").fill("vera");
  await page.getByLabel("Password").fill("wrong horse");
  await page.getByRole("button", { name: "Log in" }).click();
  await shows(page, /password is wrong/);
  await page.getByLabel("Password").fill("correct horse");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.locator(".row", { hasText: "web" }).waitFor();
  assert.equal(await page.getByRole("link", { name: "New guest" }).count(), 0);
  assert.equal(await page.getByRole("link", { name: "Users and tokens" }).count(), 0);
  await page.getByLabel("Select web").check();
  assert.equal(await page.locator(".bulk").getByRole("button", { name: /Start|Pull|Delete/ }).count(), 0);
  await page.goto(`${host.url}/guests/web`);
  await state(page, "Running");
  assert.equal(await page.getByRole("button", { name: /Shut down|Pull plug/ }).count(), 0);
  await page.locator(".person").click();
  await page.getByRole("menuitem", { name: "Log out" }).click();
  await page.getByRole("button", { name: "Log in" }).waitFor();
  await context.close();
});

test("the page says that the daemon is gone, and goes on when it is back", async ({ host, contexts }) => {
  web(host);
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

test("a disk comes while the guest runs, and what the guest was is kept and gone back to", async ({ host, contexts }) => {
  web(host);
  const { page, context, complaints } = await open(contexts, host);
  await eventually("the guest has a shell", () => host.run("vm", "log", "web").includes("# "));
  const dialog = page.getByRole("dialog");
  await page.goto(`${host.url}/guests/web/hardware`);
  await page.getByRole("button", { name: "Add disk" }).click();
  await dialog.getByLabel("Size").fill("16MiB");
  await dialog.getByRole("button", { name: "Add disk" }).click();
  await page.locator("tr", { hasText: "tessera-1" }).waitFor();
  assert.equal(JSON.parse(host.run("vm", "show", "web", "-o", "json")).status.pending_restart, false);

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
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await shows(page, "No snapshot yet");
  host.run("vm", "disk", "remove", "web", "1");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("an alarm rings the bell, is acknowledged, and is made and changed", async ({ host, contexts }) => {
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

test("hostile names and words are shown, and never run", async ({ host, contexts }) => {
  const evil = "<img src=x onerror=alert(1)>\u202e<script>alert(2)</script>" + "x".repeat(3000);
  web(host);
  host.run("vm", "edit", "web", "--description", evil);
  const { page, context, complaints } = await open(contexts, host);
  page.on("dialog", () => complaints.push("a dialog opened"));
  for (const path of ["/guests/web", "/guests", "/guests/web/definition", "/guests/%3Cscript%3Ealert(1)%3C%2Fscript%3E"]) {
    await page.goto(host.url + path);
    await page.locator("h1").waitFor();
    await sleep(200);
    assert.equal(await page.locator("img[src=x]").count(), 0, path);
  }
  host.run("vm", "edit", "web", "--description", "");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("what a guest used is drawn, grows by itself, and is looked at from nearer", async ({ host, contexts }) => {
  web(host);
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

for (const [name, options] of [["light", {}], ["dark", { colorScheme: "dark" }], ["a narrow phone", { viewport: { width: 360, height: 740 } }], ["Chinese", { locale: "zh-CN" }]]) {
  test(`every screen is in order for everybody: ${name}`, async ({ host, contexts }) => {
    web(host);
    const { page, context, complaints } = await open(contexts, host, options);
    const wrong = [];
    for (const path of SCREENS) {
      await page.goto(host.url + path);
      await page.locator("h1").waitFor();
      await page.locator(".loading").waitFor({ state: "detached" });
      await page.evaluate(axe);
      const found = await page.evaluate(() => window.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] }));
      for (const one of found.violations) wrong.push(`${path}: ${one.id}: ${one.nodes.slice(0, 3).map((node) => `${node.target} (${node.any[0]?.message ?? node.failureSummary})`).join("; ")}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth + 1);
      if (wide) wrong.push(`${path}: wider than the window`);
      if (name === "Chinese" && !/[\u4e00-\u9fff]/.test(await page.locator("nav").first().innerText().catch(() => "中"))) wrong.push(`${path}: not in Chinese`);
    }
    assert.deepEqual(wrong, []);
    assert.deepEqual(complaints, []);
    await context.close();
  });
}

test("the first load is at most 300 KB", async ({ host, contexts }) => {
  const { page, context } = await open(contexts, host);
  const client = await context.newCDPSession(page);
  await client.send("Network.enable");
  await client.send("Network.setCacheDisabled", { cacheDisabled: true });
  let bytes = 0;
  client.on("Network.loadingFinished", (event) => { bytes += event.encodedDataLength; });
  await page.goto(host.url);
  await page.locator(".link.live").waitFor();
  assert.ok(bytes > 1000 && bytes < 300_000, String(bytes));
  await context.close();
});

async function eventually(what, happened) {
  for (let n = 0; n < 600; n++) {
    if (happened()) return;
    await sleep(100);
  }
  throw new Error(`not so: ${what}`);
}

const only = process.argv[2];
const host = await Host.start();
const { contexts, end } = await browser();
let [passed, failed] = [0, 0];
for (const { name, body } of tests.filter((one) => !only || one.name.includes(only))) {
  const begun = Date.now();
  try {
    await body({ host, contexts });
    passed += 1;
    console.log(`PASS ${((Date.now() - begun) / 1000).toFixed(1)}s ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.stack ?? error}`);
  }
}
await end();
await host.end();
console.log(`page: ${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
