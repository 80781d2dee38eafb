// The page from a person's side: a real daemon, real guests, a real browser. `node e2e/run.mjs WORDS` runs the tests with these words in
// their names.

import { browser, Host, inNetwork } from "./host.mjs";
import { tests } from "./test.mjs";

inNetwork(import.meta.url);
for (const story of ["guests", "consoles", "resources", "people", "keyboard", "daemon", "alarms", "hostile", "groups", "usage", "everybody", "dialogs"]) await import(`./${story}.mjs`);

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
await host.end();
await end();
console.log(`page: ${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
