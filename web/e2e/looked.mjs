// What is wrong with what a page shows, for those who see it otherwise than its makers.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** The Web Content Accessibility Guidelines 2.2, levels A and AA. */
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

/** What of the page, or of a part of it, breaks the guidelines now, in one line each; and whether the page is wider than the window. */
export async function looked(page, where, part = "html") {
  // What moves in or fades has no colours of its own yet.
  await page.evaluate(() => Promise.allSettled(document.getAnimations().filter((one) => one.effect?.getTiming().iterations !== Infinity).map((one) => one.finished)));
  await page.evaluate(axe);
  const found = await page.evaluate(([part, rules]) => window.axe.run(part, { runOnly: rules }), [part, RULES]);
  const wrong = found.violations.map((one) => `${where}: ${one.id}: ${one.nodes.slice(0, 3).map((node) => `${node.target} (${node.any[0]?.message ?? node.failureSummary})`).join("; ")}`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth + 1);
  return wide ? [...wrong, `${where}: wider than the window`] : wrong;
}
