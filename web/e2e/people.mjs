// Who may do what: people with a role, programs with a token.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";

import { open } from "./host.mjs";
import { guest, shows, state, test } from "./test.mjs";

test("a viewer is offered nothing that changes something", async ({ host, contexts }) => {
  guest(host);
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

test("a token is made on the page, lets a program in with its role, and is taken back", async ({ host, contexts }) => {
  const { page, context, complaints } = await open(contexts, host);
  const dialog = page.getByRole("dialog");
  await page.goto(`${host.url}/access`);
  await page.getByRole("button", { name: "Make token" }).click();
  await dialog.getByLabel("What it is for").fill("ci");
  await dialog.getByLabel("Role").selectOption("viewer");
  await dialog.getByRole("button", { name: "Make token" }).click();
  const [secret, call] = [await dialog.getByLabel("Secret").innerText(), await dialog.getByLabel("API call").innerText()];
  // The command that the page shows is run as it stands, by somebody whom the host does not know by where they are.
  const curl = (...words) => execFileSync("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", ...words], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  const answer = JSON.parse(curl("sh", "-c", call));
  assert.ok(Array.isArray(answer.items), JSON.stringify(answer));
  const status = (...words) => curl("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", `Authorization: Bearer ${secret}`, ...words);
  assert.equal(status(`${host.url}/api/v1/vms`), "200");
  assert.equal(status("-X", "POST", "--json", '{"name":"no","memory":"64M"}', `${host.url}/api/v1/vms`), "403");
  await dialog.getByRole("button", { name: "Close" }).last().click();
  assert.equal(await page.getByText(secret).count(), 0, "its secret is shown once");
  await page.getByRole("button", { name: "More about ci" }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await page.locator("tr", { hasText: "ci" }).waitFor({ state: "detached" });
  assert.equal(status(`${host.url}/api/v1/vms`), "401");
  assert.deepEqual(complaints, []);
  await context.close();
});
