"""The daemon of scripts/soak-changes, and the guests on it."""

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

from changes.inside import Expected
from daemon import Daemon, Trouble, until

# How far a clock may be off, s.
CLOCK = 0.1


class Host(Daemon):
    def __init__(self, tessera, folder):
        # The guest's id, which its processes bear.
        self.folder, self.id, self.expected = folder, None, Expected()
        super().__init__(tessera, folder, folder.parent / "log")

    def guests(self):
        return {guest["name"]: guest for guest in self.json("vm", "ls")}

    def snapshots(self, guest):
        return {snapshot["name"]: snapshot for snapshot in self.json("vm", "snapshot", "ls", guest)}

    def booted(self, guest):
        """Waits until a guest that was started works, and sets its clock, which is right to the second after a boot."""
        self.answers(guest)
        until(f"the load of {guest} works", 300, lambda: self.tried("vm", "exec", guest, "--", "test", "-e", "/run/load/echoed").returncode == 0, 0.5)

        def is_right():
            if abs(off := self.clock(guest)) < CLOCK / 2:
                return True
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as told:
                told.sendto(f"set {-off:.6f}".encode(), self.address(guest))
            time.sleep(0.3)

        until(f"the clock of {guest} can be set", 30, is_right)

    def mark(self, guest, mark):
        """Has the disk of the load bear a mark; gives the number that was acknowledged after that."""
        return int(self.inside(guest, f"echo {mark} >/srv/mark && sync /srv/mark && cat /run/load/acknowledged"))

    def look(self, guest):
        """What a guest says of its load: the ledger is whole and has what is acknowledged, nothing has failed."""
        said = {}
        for line in self.inside(guest, "exec /usr/local/bin/look", 120).splitlines():
            name, _, value = line.partition("\t")
            said.setdefault(name, []).append(value)
        told = {name: values[0].strip() for name, values in said.items()}
        if told["units"] != "active active":
            raise Trouble(f"{guest}: load and fio are {told['units']}:\n{self.why(guest)}")
        whole, numbers = told["ledger"].split()[0], told["ledger"].split()[-1]
        told["complaints"] = said.get("complaint", [])
        if whole != "ok":
            raise Trouble(f"{guest}: the ledger is damaged: {told['ledger']}")
        count, most, total = map(int, numbers.split("|"))
        if wrong := self.expected.wrong(count, most, total, int(told["acknowledged"])):
            raise Trouble(f"{guest}: the ledger: {wrong}")
        if float(told["back"]) > CLOCK:
            raise Trouble(f"{guest}: its clock went back by {told['back']} s")
        return {**told, "acknowledged": int(told["acknowledged"]), "echoed": int(told["echoed"]), "ledger": most}

    def why(self, guest):
        return self.tried("vm", "exec", guest, "--", "sh", "-c", "journalctl -u load -u verified --no-pager | tail -20; tail -5 /run/fio.log; dmesg | tail -20; mount | grep vd").stdout

    def address(self, guest):
        """Where a guest tells its time."""
        return self.json("vm", "show", guest)["nics"][0]["address"], 37

    def clock(self, guest):
        """How far a guest's clock is from ours, s, to half of the time that an answer takes: the quickest of some counts."""
        address, best = self.address(guest), (1.0, 0.0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.settimeout(0.2)
            for n in range(100):
                begun = time.time()
                asked.sendto(f"{n}".encode(), address)
                with contextlib.suppress(TimeoutError):
                    number, now = None, None
                    # Answers to earlier questions may come late.
                    while number != str(n):
                        number, now = asked.recv(64).decode().split()
                    took = time.time() - begun
                    best = min(best, (took, float(now) - begun - took / 2))
                if best[0] < 0.02 or (n > 20 and best[0] < CLOCK):
                    return best[1]
        raise Trouble(f"{guest} does not tell its time in {CLOCK} s: its quickest answer took {best[0]:.3f} s")

    def processes(self):
        """Those of guests, by the guest's id."""
        found = {}
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = line.read_bytes()
            except OSError:
                continue
            if b"\0vmm\0" in words and (ours := re.search(re.escape(str(self.state)).encode() + rb"/run/([0-9a-f-]+)", words)):
                found.setdefault(ours[1].decode(), []).append(int(line.parent.name))
        return found

    def crash(self):
        """Ends everything at once, so that what there is stays to be looked at."""
        self.kill()
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.state).encode() in line.read_bytes():
                    os.kill(int(line.parent.name), signal.SIGKILL)
