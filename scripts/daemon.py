"""What soaks and benchmarks have in common: a daemon of their own, and the guests on it."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path


class Trouble(Exception):
    """What must hold does not."""


def until(what, seconds, holds, every=0.05):
    """Waits for something; gives what it is."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > end:
            raise Trouble(f"not so after {seconds} s: {what}")
        time.sleep(every)
    return found


def end_when_told():
    """Has SIGTERM end the program in order, once: what is to be taken away then takes some seconds, in which it may be told again."""

    def end(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit("ended from outside")

    signal.signal(signal.SIGTERM, end)


def spinning():
    """A kernel that always wants more: an ELF file with a PVH entry (Xen, public/elfnote.h) whose code jumps to itself."""
    entry, code = 0x200000, b"\xeb\xfe"
    headers, note = 64 + 2 * 56, 20
    image = b"\x7fELF\x02\x01\x01" + bytes(9)
    image += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    for kind, flags, at, to, length in [(4, 4, headers, 0, note), (1, 5, headers + note, entry, len(code))]:
        image += struct.pack("<IIQQQQQQ", kind, flags, at, to, to, length, length, 4)
    return image + struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", entry) + code


class Daemon:
    """`tessera host` with its state below `folder`, which guests' processes have to be let into; what it says is in `log`."""

    def __init__(self, tessera, folder, log, *options):
        self.tessera, self.state, self.log, self.options = tessera, folder / "state", log, options
        self.environment = {**os.environ, "TESSERA_HOST": str(self.state / "host.sock")}
        self.process = None
        folder.chmod(0o711)
        self.start()

    def start(self):
        argv = [self.tessera, "host", "--listen", "none", "--state-dir", str(self.state), *self.options]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(argv, stderr=log)
        until("the daemon answers", 60, lambda: self.tried("host", "info").returncode == 0)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def used(self):
        """Its processor time, s (proc(5), stat)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def begin(self, *words):
        return subprocess.Popen([self.tessera, *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def tried(self, *words):
        return subprocess.run([self.tessera, *words], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def run(self, *words):
        done = self.tried(*words)
        if done.returncode != 0:
            raise Trouble(f"tessera {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *words):
        return json.loads(self.run(*words, "-o", "json"))

    def state_of(self, guest):
        return self.json("vm", "show", guest)["status"]["state"]

    def inside(self, guest, script, seconds=300):
        return self.run("vm", "exec", guest, "--timeout", str(seconds), "--", "sh", "-c", script).strip()

    def answers(self, guest, seconds=300):
        until(f"the agent of {guest} answers", seconds, lambda: self.tried("vm", "agent", guest).returncode == 0, 0.2)

    def end(self):
        if names := self.run("vm", "ls", "-o", "name").split():
            self.run("vm", "delete", "--force", *names)
        if networks := self.run("network", "ls", "-o", "name").split():
            self.run("network", "delete", *networks)
        self.process.terminate()
        self.process.wait()
