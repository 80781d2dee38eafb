// A real `tessera host` in a folder of its own, with the tiny guest as its image, and Debian's browser to look at it.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
const TINY = join(ROOT, "build/tiny");
const BROWSERS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

export const program = process.env.TESSERA ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, "target"), "debug/tessera");

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Whether this process has a network of its own, where the host's networks come and go without a trace. */
export const networked = process.env.TESSERA_PAGE_NETWORK === "own";

/** Runs the program at `url` again in a network namespace of its own and ends with it; only root can make one. */
export function inNetwork(url) {
  if (networked || spawnSync("unshare", ["--net", "true"]).status !== 0) return;
  const words = ["--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', process.execPath, fileURLToPath(url), ...process.argv.slice(2)];
  const done = spawnSync("unshare", words, { stdio: "inherit", env: { ...process.env, TESSERA_PAGE_NETWORK: "own" } });
  process.exit(done.status ?? 1);
}

export class Host {
  folder = mkdtempSync(join(tmpdir(), "tessera-page-"));
  state = join(this.folder, "state");

  static async start() {
    const host = new Host();
    chmodSync(host.folder, 0o711);
    host.port = await freePort();
    host.url = `http://127.0.0.1:${host.port}`;
    const disk = join(host.folder, "disk");
    writeFileSync(disk, "");
    truncateSync(disk, 64 << 20);
    execFileSync(program, ["image", "import", disk, "--name", "tiny", "--kernel", join(TINY, "vmlinuz"), "--initrd", join(TINY, "initramfs"), "--append", "console=ttyS0 quiet do=shell"], {
      env: { ...process.env, TESSERA_HOME: host.state }, stdio: "ignore",
    });
    await host.again();
    return host;
  }

  /** Starts the daemon, and waits until it answers. */
  async again() {
    this.child = spawn(program, ["host", "--listen", `127.0.0.1:${this.port}`, "--state-dir", this.state, "--memory-pool", "50%"], { stdio: ["ignore", "ignore", process.env.VERBOSE ? "inherit" : "ignore"] });
    for (let n = 0; n < 200; n++) {
      if (existsSync(join(this.state, "host.sock")) && await fetch(`${this.url}/readyz`).then((answer) => answer.ok, () => false)) return;
      await sleep(50);
    }
    throw new Error("the daemon does not answer");
  }

  /** Ends the daemon as a machine's failure would; guests go on. */
  kill() {
    return new Promise((resolve) => {
      this.child.once("exit", resolve);
      this.child.kill("SIGKILL");
    });
  }

  /** Runs `tessera` with these words. */
  run(...words) {
    return execFileSync(program, words, { env: { ...process.env, TESSERA_HOST: join(this.state, "host.sock") }, encoding: "utf8" });
  }

  user(name, role, password) {
    const file = join(this.folder, "password");
    writeFileSync(file, `${password}\n`);
    this.run("user", "create", name, "--role", role, "--password-file", file);
  }

  async end() {
    for (const kind of ["vm", "network"]) {
      const names = this.run(kind, "ls", "-o", "name").split("\n").filter(Boolean);
      if (names.length) this.run(kind, "delete", ...(kind === "vm" ? ["--force"] : []), ...names);
    }
    await new Promise((resolve) => {
      this.child.once("exit", resolve);
      this.child.kill("SIGTERM");
    });
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A browser of somebody whom the host does not know by where they are: as root only of another user of the machine. */
export async function browser() {
  const executable = BROWSERS.find((path) => existsSync(path));
  if (!executable) throw new Error("there is no Chromium: make setup-page installs it");
  const folder = mkdtempSync(join(tmpdir(), "tessera-browser-"));
  chmodSync(folder, 0o777);
  const other = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  const child = spawn(executable, ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0", `--user-data-dir=${folder}/data`, "about:blank"], {
    ...other, cwd: "/", env: { PATH: process.env.PATH, HOME: folder, TMPDIR: folder, LANG: "en_US.UTF-8" }, stdio: ["ignore", "ignore", "pipe"],
  });
  const address = await new Promise((resolve, reject) => {
    let said = "";
    child.stderr.on("data", (data) => {
      said += data;
      const found = /DevTools listening on (ws:\S+)/.exec(said);
      if (found) resolve(found[1]);
    });
    child.once("exit", () => reject(new Error(`the browser has ended: ${said}`)));
  });
  const connected = await chromium.connectOverCDP(address);
  const end = async () => {
    await connected.close().catch(() => undefined);
    await new Promise((resolve) => {
      child.once("exit", resolve);
      child.kill("SIGTERM");
    });
    // Its last processes may still write there.
    for (let n = 0; existsSync(folder) && n < 50; n++) {
      try {
        rmSync(folder, { recursive: true, force: true });
      } catch {
        await sleep(100);
      }
    }
  };
  return { contexts: connected, end };
}

/** A page in a context of its own, logged in by a link if that is wanted; what it complains of is in `complaints`. */
export async function open(contexts, host, { link = true, ...options } = {}) {
  const context = await contexts.newContext({ viewport: { width: 1360, height: 850 }, locale: "en-US", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const complaints = [];
  page.on("console", (message) => { if (/Content Security Policy|Refused to/.test(message.text())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(error.stack ?? String(error)));
  if (link) {
    const address = host.run("host", "link").trim();
    await page.goto(address);
    await page.waitForSelector(".frame");
  }
  return { context, page, complaints };
}

/** Counts the bytes that come to a page over the line from now on, as if nothing were in its cache. */
export async function counted(page) {
  const client = await page.context().newCDPSession(page);
  await client.send("Network.enable");
  await client.send("Network.setCacheDisabled", { cacheDisabled: true });
  const line = { bytes: 0 };
  client.on("Network.loadingFinished", (event) => { line.bytes += event.encodedDataLength; });
  return line;
}
