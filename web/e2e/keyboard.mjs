// All of it without a mouse.

import assert from "node:assert/strict";

import { open } from "./host.mjs";
import { eventually, state, test } from "./test.mjs";

/** What has the focus: its name for those who hear the page, and whether one sees that it has it. */
function focused() {
  const here = document.activeElement;
  if (!here || here === document.body) return { name: "", seen: true };
  const labels = [...(here.labels ?? [])].map((label) => label.innerText).join(" ");
  const by = (here.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.innerText ?? "").join(" ");
  const name = (here.getAttribute("aria-label") ?? (labels || by.trim() || here.innerText || "")).trim();
  const style = getComputedStyle(here);
  const file = here.parentElement ? getComputedStyle(here.parentElement) : style;
  const rings = [style, file].some((one) => (one.outlineStyle !== "none" && parseFloat(one.outlineWidth) >= 1) || one.boxShadow !== "none");
  const box = here.getBoundingClientRect();
  // A terminal shows its cursor, a menu its item in another colour.
  const seen = rings || here.closest(".xterm, [role=menu]") !== null;
  return { name, seen, there: box.bottom > 0 && box.top < innerHeight && box.right > 0 };
}

class Keys {
  constructor(page) {
    this.page = page;
    this.unseen = [];
  }

  async press(...keys) {
    for (const key of keys) await this.page.keyboard.press(key);
  }

  type(words) {
    return this.page.keyboard.type(words);
  }

  /** Goes on with Tab until what is called so has the focus. */
  async to(name, key = "Tab") {
    const passed = [];
    for (let n = 0; n < 60; n++) {
      const here = await this.page.evaluate(focused);
      if (here.name && (!here.seen || !here.there)) this.unseen.push(here.name);
      if (name instanceof RegExp ? name.test(here.name) : here.name === name) return;
      passed.push(here.name);
      await this.page.keyboard.press(key);
    }
    throw new Error(`Tab does not lead to ${name}: ${passed.join(" | ")}`);
  }

  async at(name) {
    let here;
    const is = async () => {
      here = await this.page.evaluate(focused);
      return name instanceof RegExp ? name.test(here.name) : here.name === name;
    };
    await eventually(`${name} has the focus`, is, 100).catch((error) => { throw new Error(`${error.message}, but ${here.name || "nothing"}`); });
    assert.ok(here.seen, `one sees that ${name} has the focus`);
  }
}

test("a guest is made, used, stopped and deleted without a mouse, and the focus is always seen", async ({ host, contexts }) => {
  const { page, context, complaints } = await open(contexts, host);
  const keys = new Keys(page);
  await keys.press("Tab");
  await keys.at("Skip to content");
  await keys.press("Enter", "Control+k");
  await keys.at("Search and do");
  await keys.type("new guest");
  await keys.press("Enter");
  await keys.at("Name");
  await keys.type("keys");
  await keys.press("Enter");
  await keys.to("Memory");
  await keys.press("Control+a");
  await keys.type("128MiB");
  await keys.to("Network");
  await keys.type("None");
  await keys.to("Create with defaults");
  await keys.press("Enter");
  await page.waitForURL(/\/guests\/keys\/console/);
  await state(page, "Running");
  await page.locator(".console .link.live").waitFor({ timeout: 30_000 });
  await eventually("the guest has a shell", () => host.run("vm", "log", "keys").includes("# "));

  // Into the console and out of it again: Tab is the guest's there.
  await keys.to("Terminal input");
  await keys.type("echo ke$((40+2))ys\n");
  await eventually("the shell answers", () => host.run("vm", "log", "keys").includes("ke42ys"));
  await keys.press("Tab");
  await keys.at("Terminal input");
  await keys.press("Control+]");
  await keys.at("Clear");

  // A dialog takes the focus, keeps it, and gives it back to where it was.
  await keys.to("More", "Shift+Tab");
  await keys.press("Enter");
  await keys.at("Edit");
  await keys.press("Escape");
  await keys.at("More");
  await keys.press("Enter", "Enter");
  await page.getByRole("dialog").waitFor();
  for (let n = 0; n < 15; n++) {
    await keys.press("Tab");
    const inside = await page.evaluate(() => document.activeElement === document.body || document.activeElement?.closest("dialog") !== null);
    assert.ok(inside, "Tab stays in the dialog");
  }
  await keys.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await keys.at("More");
  await keys.press("Control+k");
  await keys.at("Search and do");
  await keys.press("Escape");
  await keys.at("More");

  // In the list: by arrows to the guest, chosen with the space bar, then stopped and deleted.
  await keys.press("Control+k");
  await keys.at("Search and do");
  await keys.type("guests");
  await keys.press("Enter");
  await page.waitForURL(/\/guests$/);
  await keys.press("/");
  await keys.at(/^Search: name/);
  await keys.type("keys");
  await page.locator(".row", { hasText: "keys" }).waitFor();
  await keys.to("Guests");
  await keys.press("Home", " ");
  await page.locator(".bulk.active").waitFor();
  await keys.to("Pull plug", "Shift+Tab");
  await keys.press("Enter");
  await keys.to("Pull plug");
  await keys.press("Enter");
  await page.locator(".row .state.stopped").waitFor();
  await keys.to("Delete", "Shift+Tab");
  await keys.press("Enter");
  await keys.at("Type keys to go on");
  await keys.type("keys");
  await keys.press("Enter");
  await page.locator(".row", { hasText: "keys" }).waitFor({ state: "detached" });
  await eventually("it is gone", () => !host.run("vm", "ls", "-o", "name").split("\n").includes("keys"));
  assert.deepEqual(keys.unseen, []);
  assert.deepEqual(complaints, []);
  await context.close();
});
