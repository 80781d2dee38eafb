// What the stories about the page are made of: tests by name, and what most of them do.

import { sleep } from "./host.mjs";

export const tests = [];

/** A test: a sentence that says what must hold, and what shows it, with a host and a browser. */
export function test(name, body) {
  tests.push({ name, body });
}

/** A guest that runs, if it is not there yet. */
export function guest(host, name = "web", ...words) {
  const there = host.run("vm", "ls", "-o", "name").split("\n").includes(name);
  if (!there) host.run("vm", "create", name, "--image", "tiny", "--memory", "128M", ...(words.length ? words : ["--net", "none"]), "--start");
}

/** Waits until a guest has a shell on its console. */
export async function shell(host, name = "web") {
  await eventually("the guest has a shell", () => host.run("vm", "log", name).includes("# "), 3000);
}

/** Waits until a guest's console is connected, and types into it from then on. */
export async function typesIntoConsole(page, patience) {
  await page.locator(".console .link.live").waitFor(patience);
  await page.locator(".xterm-helper-textarea").focus();
}

/** Waits until the page shows these words. */
export async function shows(page, words) {
  await page.getByText(words).first().waitFor();
}

/** Waits until the guest's screen says that it is in this state. */
export async function state(page, words) {
  await page.locator(".under .state", { hasText: words }).waitFor({ timeout: 60_000 });
}

/** Waits until something is so, at most so many tenths of a second. */
export async function eventually(what, happened, most = 600) {
  for (let n = 0; n < most; n++) {
    if (await happened()) return;
    await sleep(100);
  }
  throw new Error(`not so: ${what}`);
}
