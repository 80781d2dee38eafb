// A server that speaks the API's lists and its stream for any number of guests, each like one that a real daemon has told of, and serves
// the page as it was built. It is for measuring what the page does with more guests than a machine for tests has room for.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const DIST = join(dirname(fileURLToPath(import.meta.url)), "../dist");
const TYPES = { ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html" };
const EVERY = 2000;

/** What a real daemon says of itself, of a guest that runs, and of what is used. */
export async function model(url, cookie) {
  const ask = async (path) => (await fetch(`${url}/api/v1${path}`, { headers: { cookie } })).json();
  const hour = new Date(Date.now() - 3_600_000).toISOString();
  const [vms, host, session, history] = [await ask("/vms"), await ask("/host"), await ask("/session"), await ask(`/host/history?from=${hour}&points=360`)];
  const response = await fetch(`${url}/api/v1/watch?stats=1&sums=true`, { headers: { cookie, accept: "text/event-stream" } });
  let said = "";
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    said += part;
    const whole = said.split("\n\n").slice(0, -1).find((event) => /^event: ?stats$/m.test(event));
    const stats = whole && JSON.parse(/^data: ?(.*)$/m.exec(whole)[1]);
    if (stats?.sums?.length > 0) return { vm: vms.items.find((vm) => vm.status.state === "running"), host, session, history, stats };
  }
  throw new Error("the daemon tells nothing of what is used");
}

export class Simulated {
  watchers = new Set();
  turn = 0;

  /** Of `count` guests, all of which run. */
  static async start(model, count) {
    const server = new Simulated();
    server.model = model;
    // As they come to be in life: in no order. 7919 is a prime.
    server.vms = Array.from({ length: count }, (_, n) => server.vm((n * 7919) % count));
    server.http = createServer((request, response) => server.answer(request, response));
    await new Promise((resolve) => server.http.listen(0, "127.0.0.1", resolve));
    server.url = `http://127.0.0.1:${server.http.address().port}`;
    server.timer = setInterval(() => server.tell("stats", server.stats()), EVERY);
    return server;
  }

  vm(n, labels = { tier: `t${n % 20}` }) {
    const digits = n.toString(16).padStart(12, "0");
    const memory = (1 + (n % 7)) * 256 * 2 ** 20;
    return { ...this.model.vm, id: `01a20000-0000-7000-8000-${digits}`, name: `guest-${String(n).padStart(5, "0")}`, memory, labels };
  }

  /** What all guests have used until now: each does something else, and something else each time. */
  stats() {
    this.turn += 1;
    const { sums: [first], ...host } = this.model.stats;
    const time = new Date().toISOString();
    const used = (n) => first.process_time_ns + this.turn * EVERY * 1e6 * (0.5 + 0.5 * Math.sin(n));
    const one = ({ id }, n) => ({ ...first, id, time, process_time_ns: Math.round(used(n) + (this.turn % 5) * 1e8) });
    return { ...host, time, sums: this.vms.map(one) };
  }

  /** Tells all who watch that a guest has these labels now. */
  change(n, labels) {
    this.vms[n] = this.vm(n, labels);
    this.tell("vm", this.vms[n]);
  }

  tell(kind, data) {
    const said = `event: ${kind}\ndata: ${JSON.stringify(data)}\n\n`;
    for (const watcher of this.watchers) watcher.write(said);
  }

  answer(request, response) {
    const { pathname: path, searchParams: query } = new URL(request.url, this.url);
    const json = (value) => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
    if (path === "/api/v1/watch") return this.watch(request, response);
    if (path === "/api/v1/session") return json(this.model.session);
    if (path === "/api/v1/host") return json(this.model.host);
    if (path.endsWith("/history") && query.has("step")) return json({ from: query.get("from"), step: Number(query.get("step")), points: 0, series: [] });
    if (path.endsWith("/history")) return json({ ...this.model.history, from: query.get("from") });
    if (path.startsWith("/api/")) return json({ items: [] });
    const file = path.startsWith("/assets/") || path === "/icon.svg" ? path : "/index.html";
    response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "text/html" }).end(readFileSync(join(DIST, file)));
  }

  watch(request, response) {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(this.vms.map((vm) => `event: vm\ndata: ${JSON.stringify(vm)}\n\n`).join(""));
    response.write("event: ready\ndata: {}\n\n");
    response.write(`event: stats\ndata: ${JSON.stringify(this.stats())}\n\n`);
    this.watchers.add(response);
    request.on("close", () => this.watchers.delete(response));
  }

  end() {
    clearInterval(this.timer);
    this.http.closeAllConnections();
    this.http.close();
  }
}
