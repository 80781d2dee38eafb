// Words of guests, people and other machines that are out to do harm.

import assert from "node:assert/strict";

import { open, sleep } from "./host.mjs";
import { eventually, guest, shell, test, typesIntoConsole } from "./test.mjs";

test("hostile names and words are shown, and never run", async ({ host, contexts }) => {
  const evil = "<img src=x onerror=alert(1)>\u202e<script>alert(2)</script>" + "x".repeat(3000);
  guest(host);
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

test("what a guest says on its console does nothing but stand there", async ({ host, contexts }) => {
  guest(host);
  await shell(host);
  const { page, context, complaints } = await open(contexts, host, { permissions: ["clipboard-read", "clipboard-write"] });
  page.on("dialog", () => complaints.push("a dialog opened"));
  context.on("page", () => complaints.push("a window opened"));
  await page.goto(`${host.url}/guests/web/console`);
  await page.locator(".console .link.live").waitFor();
  await page.evaluate(() => navigator.clipboard.writeText("mine"));
  const before = await page.title();
  await page.locator(".xterm-helper-textarea").focus();
  const said = [
    // A title, the clipboard, a link that is a script, questions that a terminal answers, a mode that hides the cursor.
    String.raw`printf '\033]0;EVIL\007\033]52;c;ZXZpbA==\007\033]8;;javascript:alert(1)\007here\033]8;;\007\033[c\033[6n\033[?25l\033[?1003h'`,
    String.raw`printf '<img src=x onerror=alert(1)><script>alert(2)</script>\342\200\256gnirts\n'`,
    // A line of 100,000 characters, and bytes that are no text.
    String.raw`head -c 75000 /dev/zero | tr '\000' 'x'; head -c 25000 /dev/zero | tr '\000' '<'; dd if=/dev/urandom bs=1k count=16 2>/dev/null; printf '\033c'; echo ra$((40+2))ndom`,
    String.raw`printf '\033]0;EVIL\007<img src=x onerror=alert(3)>\n'; echo th$((40+2))rough`,
  ];
  const last = said.pop();
  for (const line of said) await page.keyboard.type(`${line}\n`);
  await eventually("it has said what is no text", () => host.run("vm", "log", "web").includes("ra42ndom"));
  // Some of that may have been questions, which the terminal answers: that is typed, and not to stand in the midst of what follows.
  await sleep(1000);
  await page.keyboard.press("Control+u");
  await page.keyboard.type(`${last}\n`);
  await eventually("all of it has been said", () => host.run("vm", "log", "web").includes("th42rough"));
  const box = await page.locator(".xterm-screen").boundingBox();
  await page.mouse.click(box.x + 30, box.y + 20);
  await page.keyboard.type("echo sti$((40+2))ll\n");
  await eventually("the console still works", () => host.run("vm", "log", "web").includes("sti42ll"));
  assert.equal(await page.title(), before);
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "mine");
  assert.equal(await page.locator("img[src=x]").count(), 0);

  // The same as text, once it is off.
  host.run("vm", "stop", "web");
  await page.locator(".last-words").getByText("<img src=x onerror=alert(3)>").waitFor();
  assert.equal(await page.locator("img[src=x]").count(), 0);
  assert.ok(!/[\x00-\x08\x0b-\x1f\x7f]/.test(await page.locator(".last-words").innerText()), "no control characters are left");
  host.run("vm", "start", "web");
  assert.deepEqual(complaints, []);
  await context.close();
});

test("a guest cannot break the console that shows it", async ({ host, contexts }) => {
  guest(host);
  await shell(host);
  const { page, context, complaints } = await open(contexts, host);
  await page.goto(`${host.url}/guests/web/console`);
  await typesIntoConsole(page);
  // It may be starting: what is typed before its shell is there is lost.
  await eventually("its shell listens", async () => {
    await page.keyboard.type("echo li$((40+2))sten\n");
    await sleep(500);
    return host.run("vm", "log", "web").includes("li42sten");
  });
  // A reset, and another one before the first was drawn.
  await page.keyboard.type(String.raw`for i in $(seq 20); do seq 200; printf '\033c'; usleep 20000; printf '\033c'; done; echo res$((40+2))et` + "\n");
  await eventually("it was reset", () => host.run("vm", "log", "web").includes("res42et"));
  // Characters, lines and columns without end.
  await page.keyboard.type(String.raw`for c in b S T L M @ P I Z ' @' ' A' "'}" "'~"; do printf "x\033[2147483647$c"; done; echo count$((40+2))ed` + "\n");
  await eventually("it has counted", () => host.run("vm", "log", "web").includes("count42ed"));
  await page.keyboard.type("echo sti$((40+3))ll\n");
  await eventually("the console still works", () => host.run("vm", "log", "web").includes("sti43ll"));
  assert.deepEqual(complaints, []);
  await context.close();
});

test("what the daemon refuses is told beside its field, however long and whatever is in it", async ({ host, contexts }) => {
  const evil = "<img src=x onerror=alert(1)>\u202e";
  guest(host);
  const { page, context, complaints } = await open(contexts, host);
  page.on("dialog", () => complaints.push("a dialog opened"));
  const dialog = page.getByRole("dialog");
  await page.goto(`${host.url}/guests/web`);
  await page.getByRole("button", { name: "More", exact: true }).click();
  await page.getByRole("menuitem", { name: "Edit" }).click();
  await dialog.getByLabel("Description").fill(evil + "x".repeat(100_000));
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.locator(".field.wrong", { hasText: "Description" }).getByText(/4096/).waitFor();
  await page.keyboard.press("Escape");

  await page.goto(`${host.url}/create`);
  await page.getByLabel("Name", { exact: true }).fill(evil.repeat(300));
  await page.getByRole("button", { name: "Create with defaults" }).click();
  const wrong = page.locator(".field.wrong .error");
  await wrong.waitFor();
  assert.ok((await wrong.innerText()).length > 0);
  await page.getByLabel("Name", { exact: true }).fill(evil);
  await page.getByRole("button", { name: "Create with defaults" }).click();
  await wrong.getByText("<img src=x onerror=alert(1)>").waitFor();
  assert.equal(await page.locator("img[src=x]").count(), 0);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth + 1);
  assert.ok(!wide, "it is no wider than the window");
  assert.deepEqual(complaints, []);
  await context.close();
});
