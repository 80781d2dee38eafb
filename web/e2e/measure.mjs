// How quick the page is: with 1,000 guests that a real daemon has, and with thousands that a server of this folder tells of.
// `make bench-page` prints it beside what is wanted; traces for the browser's own tools go to build/page.

import { mkdirSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { cpus, loadavg } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { browser, counted, Host, inNetwork, open, sleep } from "./host.mjs";
import { model, Simulated } from "./simulated.mjs";
import { shell } from "./test.mjs";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
const TRACES = join(ROOT, "build/page");
const [DEFINED, SIMULATED, TILES] = [1000, 10_000, 5000];
/** How long a frame is at 60 frames/s, ms. */
const FRAME = 1000 / 60;

inNetwork(import.meta.url);
mkdirSync(TRACES, { recursive: true });

function show(what, value, unit, wanted) {
  console.log(`${what.padEnd(66)} ${String(value).padStart(8)} ${unit.padEnd(8)} wanted: ${wanted}`);
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

/** Asks the daemon by its socket. */
function ask(host, method, path, body) {
  host.agent ??= new Agent({ keepAlive: true });
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: join(host.state, "host.sock"), agent: host.agent, method, path: `/api/v1${path}`, headers: { "content-type": "application/json" } }, (answer) => {
      let said = "";
      answer.on("data", (part) => { said += part; });
      answer.on("end", () => (answer.statusCode < 300 ? resolve(said && JSON.parse(said)) : reject(new Error(`${method} ${path}: ${answer.statusCode} ${said}`))));
    });
    asked.on("error", reject).end(body && JSON.stringify(body));
  });
}

async function define(host, count) {
  const boot = { kernel: join(ROOT, "build/tiny/vmlinuz") };
  const waiting = Array.from({ length: count }, (_, n) => n);
  const worker = async () => {
    for (let n = waiting.shift(); n !== undefined; n = waiting.shift()) {
      await ask(host, "POST", "/vms?wait=30s", { name: `guest-${String(n).padStart(5, "0")}`, memory: "64MiB", boot, labels: { tier: `t${n % 20}` } });
    }
  };
  await Promise.all(Array.from({ length: 8 }, worker));
}

/** From nothing in the cache to a page that is live and has no long task any more: bytes over the line, ms. */
async function firstLoad(contexts, host) {
  const { page, context } = await open(contexts, host);
  const line = await counted(page);
  await page.addInitScript(() => {
    window.long = [];
    new PerformanceObserver((list) => { for (const one of list.getEntries()) window.long.push(one.startTime + one.duration); }).observe({ type: "longtask", buffered: true });
    new MutationObserver((_, observer) => {
      if (!document.querySelector(".link.live")) return;
      observer.disconnect();
      requestAnimationFrame(() => setTimeout(() => { window.live = performance.now(); }));
    }).observe(document, { subtree: true, childList: true, attributes: true });
  });
  await page.goto(host.url);
  await page.waitForFunction(() => window.live);
  await sleep(1500);
  const interactive = await page.evaluate(() => Math.max(window.live, ...window.long.filter((end) => end < window.live + 1000)));
  await context.close();
  return { bytes: line.bytes, interactive };
}

/** Counts the frames that the page draws while something happens, and how many there should have been. */
async function frames(page, happens) {
  await page.evaluate(() => {
    window.drawn = [];
    const tick = (time) => {
      if (!window.drawn) return;
      window.drawn.push(time);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  await happens();
  const drawn = await page.evaluate(() => { const all = window.drawn; window.drawn = undefined; return all; });
  const took = drawn.at(-1) - drawn[0];
  const waits = drawn.slice(1).map((time, n) => time - drawn[n]);
  return { rate: (drawn.length - 1) / took * 1000, of: Math.round(took / FRAME), dropped: waits.reduce((sum, wait) => sum + Math.max(0, Math.round(wait / FRAME) - 1), 0), longest: Math.max(...waits) };
}

/**
 * Records what the browser does meanwhile, for its own tools, and counts as they do: a frame is dropped if nothing new was on the screen, and
 * partial if what scrolls had moved on but the page had not drawn anew in it.
 */
async function traced(contexts, name, happens) {
  const client = await contexts.newBrowserCDPSession();
  const events = [];
  client.on("Tracing.dataCollected", ({ value }) => events.push(...value));
  await client.send("Tracing.start", { traceConfig: { includedCategories: ["devtools.timeline", "disabled-by-default-devtools.timeline.frame", "toplevel"] }, transferMode: "ReportEvents" });
  const result = await happens();
  const complete = new Promise((resolve) => client.once("Tracing.tracingComplete", resolve));
  await client.send("Tracing.end");
  await complete;
  await client.detach();
  // Frames, names of threads, and whatever took half a millisecond: the rest is ten times as much, and says nothing of frames.
  const telling = events.filter(({ ph, cat, dur }) => (ph === "X" ? dur >= 500 : ph === "M" || cat?.includes("frame")));
  writeFileSync(join(TRACES, `${name}.json.gz`), gzipSync(JSON.stringify({ traceEvents: telling })));
  const [partial, lost] = [true, false].map((drawn) => events.filter((event) => event.name === "DroppedFrame" && Boolean(event.args?.hasPartialUpdate) === drawn).length);
  return { ...result, lost, partial };
}

function told({ dropped, of, longest, rate, partial }) {
  const drawn = `the page drew anew in ${of - dropped} of ${of} frames, ${rate.toFixed(0)}/s, with at most ${longest.toFixed(0)} ms between them`;
  return partial === undefined ? `(${drawn})` : `(${drawn}; partial: ${partial})`;
}

/** Scrolls the list as a wheel does. */
async function scroll(contexts, page, name) {
  await page.locator(".scroller .row").first().waitFor({ timeout: 60_000 });
  await sleep(3000);
  const box = await page.locator(".scroller").boundingBox();
  const client = await page.context().newCDPSession(page);
  const wheel = (distance) => client.send("Input.synthesizeScrollGesture", { x: box.x + box.width / 2, y: box.y + box.height / 2, yDistance: distance, speed: 4000, gestureSourceType: "mouse", preventFling: true });
  const result = await traced(contexts, name, () => frames(page, async () => {
    await wheel(-12_000);
    await wheel(12_000);
  }));
  await page.evaluate(() => document.querySelector(".scroller").scrollTo(0, 0));
  return result;
}

/** From a change at the API to the frame that shows it, ms: the worst and the median of `count`. */
async function changes(page, count, change) {
  const [delays, answered] = [[], []];
  await page.evaluate(() => {
    window.seen = {};
    new MutationObserver(() => {
      for (const chip of document.querySelectorAll(".scroller .chip")) {
        const mark = /^mark=(.*)/.exec(chip.textContent)?.[1];
        if (mark && !(mark in window.seen)) {
          window.seen[mark] = 0;
          requestAnimationFrame(() => { window.seen[mark] = performance.timeOrigin + performance.now(); });
        }
      }
    }).observe(document.querySelector(".scroller"), { subtree: true, childList: true, characterData: true });
  });
  for (let n = 0; n < count; n++) {
    const mark = String(n);
    const begun = performance.timeOrigin + performance.now();
    await change(mark);
    answered.push(performance.timeOrigin + performance.now() - begun);
    await page.waitForFunction((mark) => window.seen[mark], mark);
    delays.push(await page.evaluate((mark) => window.seen[mark], mark) - begun);
    await sleep(80 + 37 * n % 200);
  }
  return { median: median(delays), worst: Math.max(...delays), answered: median(answered) };
}


async function measureLoad(contexts, host) {
  const empty = await open(contexts, host);
  await empty.page.goto("about:blank");
  const nothing = await frames(empty.page, () => sleep(4000));
  show("an empty page: frames in which it does not draw anew", nothing.dropped, told(nothing), "-");
  await empty.context.close();
  const loads = [];
  for (let n = 0; n < 5; n++) loads.push(await firstLoad(contexts, host));
  show("the first load, nothing in the cache", (loads[0].bytes / 1000).toFixed(0), "KB", "<= 300");
  show("until it is live and at rest, median of 5", median(loads.map((one) => one.interactive)).toFixed(0), "ms", "<= 1000");
}

function showScroll(which, result) {
  show(`${which}: frames dropped while the list scrolls`, result.lost, told(result), "0");
}

function showChanges(how, { median, worst, answered }) {
  show(`a change, from its ${how} to the frame that shows it: median`, median.toFixed(0), `ms (answered after ${answered.toFixed(0)} ms)`, "<= 100");
  show("the worst of 20", worst.toFixed(0), "ms", "<= 100");
}

/** What a real daemon has; gives what servers of this folder tell of others like it. */
async function measureReal(contexts, host) {
  host.run("vm", "create", "model", "--image", "tiny", "--memory", "128M", "--net", "none", "--start");
  // While it boots it takes a processor for itself.
  await shell(host, "model");
  const { page, context } = await open(contexts, host);
  const cookie = (await context.cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
  const like = await model(host.url, cookie);
  await define(host, DEFINED);
  await page.goto(`${host.url}/guests`);
  showScroll(`${DEFINED} real guests`, await scroll(contexts, page, "scroll-real"));
  showChanges("request", await changes(page, 20, (mark) => ask(host, "PATCH", "/vms/guest-00000?wait=10s", { labels: { mark } })));
  await context.close();
  return like;
}

async function measureList(contexts, host, server) {
  const { page, context } = await open(contexts, host, { link: false });
  await page.goto(`${server.url}/guests`);
  showScroll(`${SIMULATED} simulated guests that all run`, await scroll(contexts, page, "scroll-simulated"));
  showChanges("sending", await changes(page, 20, async (mark) => server.change(0, { mark })));
  await context.close();
}

async function measureMosaic(contexts, host, server) {
  const { page, context } = await open(contexts, host, { link: false });
  await page.goto(`${server.url}/`);
  await page.locator(".mosaic canvas").waitFor();
  await sleep(3000);
  const box = await page.locator(".mosaic canvas").boundingBox();
  const result = await traced(contexts, "mosaic", () => frames(page, async () => {
    // The pointer wanders, so that it is drawn again and again, while what is used comes as ever.
    const end = Date.now() + 6000;
    for (let n = 0; Date.now() < end; n++) await page.mouse.move(box.x + (n * 37) % box.width, box.y + (n * 11) % box.height);
  }));
  show(`the mosaic with ${TILES} guests, the pointer over it`, result.rate.toFixed(0), `frames/s ${told(result)}`, "60");
  await context.close();
}

const host = await Host.start();
const { contexts, end } = await browser();
try {
  console.log(`${cpus().length} processors (${cpus()[0].model}), load ${loadavg()[0].toFixed(1)} at the beginning; Chromium ${contexts.version()}, drawn by the processor`);
  await measureLoad(contexts, host);
  const like = await measureReal(contexts, host);
  for (const [count, measure] of [[SIMULATED, measureList], [TILES, measureMosaic]]) {
    const server = await Simulated.start(like, count);
    await measure(contexts, host, server);
    server.end();
  }
} finally {
  await end();
  await host.end();
}
process.exit(0);
