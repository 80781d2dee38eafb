"""Operations on a guest's time that are cut off somewhere, and what there is then."""

import errno
import os
import random
import signal
import subprocess
import time

from changes.storage import Storage
from daemon import Trouble, until

ACTS = ["snapshot", "quiesce", "memory", "revert", "delete", "suspend", "resume", "instant", "branch"]
WAYS = ["the daemon is killed", "the guest's process is killed", "the file system is full"]
DAEMON, PROCESS, FULL = WAYS
SETTLED = ("running", "paused", "stopped", "crashed", "suspended")
# The guest has gone back to the last, which has its memory; its disk bears their names as marks, and then "now".
TREE = {"one": None, "two": "one", "base": "two"}
# Where one in the midst is to be deleted there are two more.
MORE = {"three": "base", "four": "three"}


class Kills:
    def __init__(self, host, work, chance: random.Random):
        self.host, self.storage, self.chance = host, Storage(host, work), chance
        self.told, self.took, self.restarts, self.layers = "the beginning", {}, [], 0
        # What was acknowledged when a mark was written.
        self.acknowledged, self.target, self.before = {}, None, None
        self.outcomes, self.saw, self.swept = {}, {}, 0

    def go(self, count):
        if self.host.state_of("a") == "stopped":
            self.host.run("vm", "start", "a")
            self.host.booted("a")
        for name in TREE:
            self.keep(name, *(["--memory"] if name == "base" else []))
        self.layers = len(self.storage.layers())
        for what in ACTS:
            self.one(f"{what} as a whole", what, None)
        for n in range(count):
            what, way = self.chance.choice(ACTS), self.chance.choice(WAYS)
            self.one(f"kill {n}: {what}, {way}", what, way)
        counts = "; ".join(f"{way} {done} of {all} times it had happened" for way, (done, all) in sorted(self.outcomes.items()))
        saw = ", ".join(f"{what} {times} times" for what, times in sorted(self.saw.items())) or "nothing"
        longest = f"a daemon was there again after {max(self.restarts):.1f} s at most, " if self.restarts else ""
        print(f"{count} times cut off: {counts}; {longest}{self.swept} times the next daemon removed something, {self.storage.leaked} images with clusters that nobody uses", flush=True)
        print(f"on a full file system the guest saw: {saw}", flush=True)

    def one(self, told, what, way):
        self.told = told
        words = self.prepare(what)
        moment = self.chance.uniform(0, 1.1 * self.took[what]) if way else None
        self.told += f" {words}" + (f" after {moment:.3f} s" if way else "")
        done, said = self.cut_off(what, words, way, moment)
        self.told += f", which {'succeeded' if done else 'said: ' + said.strip()}"
        happened = self.settled(what, way, done)
        if way:
            counted = self.outcomes.setdefault(way, [0, 0])
            counted[0], counted[1] = counted[0] + happened, counted[1] + 1
        self.whole(what, way, happened)
        self.back(way)

    def prepare(self, what):
        """Gives the words of what is to be cut off, and has all be there for it."""
        self.before, self.target = dict(TREE), self.chance.choice(list(TREE))
        if what == "delete":
            for name in MORE:
                self.keep(name)
            self.before |= MORE
        self.acknowledged["now"] = self.host.mark("a", "now")
        if what == "resume":
            self.host.run("vm", "suspend", "a")
        return {
            "snapshot": ["vm", "snapshot", "create", "a", "new"],
            "quiesce": ["vm", "snapshot", "create", "a", "new", "--quiesce"],
            "memory": ["vm", "snapshot", "create", "a", "new", "--memory"],
            "revert": ["vm", "snapshot", "revert", "a", self.target, "--force"],
            "delete": ["vm", "snapshot", "delete", "a", "three"],
            "suspend": ["vm", "suspend", "a"],
            "resume": ["vm", "resume", "a"],
            "instant": ["vm", "clone", "a", "b", "--instant"],
            "branch": ["vm", "clone", "a", "b", "--snapshot", self.target],
        }[what]

    def keep(self, name, *words):
        self.acknowledged[name] = self.host.mark("a", name)
        self.host.run("vm", "snapshot", "create", "a", name, *words)

    def cut_off(self, what, words, way, moment):
        """Begins it and has something go wrong; gives whether it said that it was done, and what it said."""
        begun, child, self.killed = time.monotonic(), self.host.begin(*words), []
        if way:
            time.sleep(moment)
        if way == DAEMON:
            self.host.kill()
        elif way == PROCESS:
            self.killed = self.host.processes().get(self.host.id, [])
            for pid in self.killed:
                os.kill(pid, signal.SIGKILL)
        elif way == FULL:
            self.fill()
        try:
            _, said = child.communicate(timeout=120)
        except subprocess.TimeoutExpired as error:
            raise Trouble("it has not ended after two minutes") from error
        finally:
            (self.host.folder / "filler").unlink(missing_ok=True)
        if not way:
            self.took[what] = time.monotonic() - begun
        if way == DAEMON:
            begun = time.monotonic()
            self.host.start()
            self.restarts.append(time.monotonic() - begun)
        return child.returncode == 0, said

    def fill(self):
        """Takes the last block of the file system."""
        room = os.statvfs(self.host.folder)
        part, at = room.f_bfree * room.f_frsize, 0
        with open(self.host.folder / "filler", "wb") as file:
            while part >= room.f_frsize:
                try:
                    os.posix_fallocate(file.fileno(), at, part)
                    at += part
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    part //= 2

    def tree(self):
        all = self.host.snapshots("a")
        names = {snapshot["id"]: name for name, snapshot in all.items()}
        current = [name for name, snapshot in all.items() if snapshot["current"]]
        return {name: names.get(snapshot.get("parent")) for name, snapshot in all.items()}, current

    def settled(self, what, way, done):
        """Waits until nothing is under way; gives whether it has happened. What is there is what was before or what is to be, and not something between."""

        def is_settled(status):
            # On a busy machine a process takes a while to be gone.
            return status["state"] in SETTLED and status.get("pid") not in self.killed

        until("nothing is under way", 60, lambda: all(is_settled(guest["status"]) for guest in self.host.guests().values()))
        guests, (tree, current) = self.host.guests(), self.tree()
        state = guests["a"]["status"]["state"]
        there = (sorted(guests), tree, current)
        before, after = (["a"], self.before, list(self.before)[-1:]), self.after(what)
        if there not in (before, after):
            raise Trouble(f"guests, snapshots and where it goes on from are {there}: they were {before} and should be {after}")
        happened = there == after
        if before == after:
            happened = {"suspend": state == "suspended", "resume": state == "running"}.get(what, done)
        if done and not happened and way != PROCESS:
            raise Trouble(f"it said that it was done, and {there} is as before; the guest is {state}")
        fine = {"revert": ["running", "stopped", "suspended"], "suspend": ["running", "suspended"], "resume": ["running", "suspended"]}.get(what, ["running"])
        if way == PROCESS:
            fine = ["running", "stopped", "suspended", "crashed"]
        if state not in fine:
            raise Trouble(f"the guest is {state}, not {' or '.join(fine)}")
        self.clean(way)
        return happened

    def after(self, what):
        guests, tree, current = ["a"], dict(self.before), list(self.before)[-1]
        if what in ("snapshot", "quiesce", "memory"):
            tree["new"], current = "base", "new"
        elif what == "revert":
            current = self.target
        elif what == "delete":
            del tree["three"]
            tree["four"] = "base"
        elif what in ("instant", "branch"):
            guests = ["a", "b"]
        return guests, tree, [current]

    def clean(self, way):
        """Nothing is left over; where the daemon was not killed the next one may have to remove it."""
        try:
            until("nothing is left over", 5, lambda: not self.storage.leftovers())
        except Trouble as trouble:
            found = self.storage.leftovers()
            if way == DAEMON or not found:
                raise Trouble(f"left over: {found}") from trouble
            self.another_daemon()
            if still := self.storage.leftovers():
                raise Trouble(f"the next daemon leaves {still}") from trouble

    def whole(self, what, way, happened):
        """What was acknowledged is in the guest if it goes on, and on storage."""
        marks = {"now"} if what != "revert" or not happened else {self.target}
        if what == "revert" and self.target == "base":
            # It goes on from there before and after.
            marks = {"now", "base"}
        least = self.inside(way, marks)
        if "b" in self.host.guests():
            self.other(what, way)
        guest, snapshots = self.host.guests()["a"], self.host.snapshots("a")
        self.storage.rest()
        # What was there before is looked at by turns.
        for name in {*(set(snapshots) - set(TREE)), self.chance.choice(list(TREE))}:
            mark = "now" if name == "new" else name
            self.storage.must_have(self.storage.layer(guest, 1, snapshots[name]), mark, self.acknowledged[mark])
        mark, most = self.storage.ledger(self.storage.image(guest, 1))
        if mark not in marks or most < max(least, self.acknowledged[mark]):
            raise Trouble(f"the disk bears the mark {mark} and its ledger ends at {most}: it must bear {marks}, {least or self.acknowledged[mark]} was acknowledged")
        if guest["status"]["state"] == "crashed":
            # What a process that was killed left undone in its images is done when they are opened to be written.
            self.host.run("vm", "start", "a")
            self.host.run("vm", "stop", "a")
        self.storage.check_images()

    def inside(self, way, marks):
        """Looks into the guest if it goes on, and stops it; gives what it has acknowledged."""
        if self.host.state_of("a") == "suspended":
            self.host.run("vm", "resume", "a")
        least = 0
        if self.host.state_of("a") == "running":
            try:
                self.host.answers("a", 60)
                seen = self.host.look("a")
                least = seen["acknowledged"]
                if seen["mark"] not in marks:
                    raise Trouble(f"the guest bears the mark {seen['mark']}, not {marks}")
            except Trouble as trouble:
                if way != FULL:
                    raise
                saw = str(trouble).splitlines()[0]
                self.saw[saw] = self.saw.get(saw, 0) + 1
        if self.host.state_of("a") in ("running", "paused"):
            self.host.run("vm", "stop", "a")
        return least

    def other(self, what, way):
        """The other guest has what was acknowledged, and goes."""
        mark = "now" if what == "instant" else self.target
        if what == "instant":
            self.host.run("vm", "start", "b")
            self.host.answers("b", 60)
            if (seen := self.host.look("b"))["mark"] != mark or seen["ledger"] < self.acknowledged[mark]:
                raise Trouble(f"the clone has {seen}: it must bear {mark}, and {self.acknowledged[mark]} was acknowledged")
            self.host.run("vm", "stop", "b")
        self.storage.must_have(self.storage.image(self.host.guests()["b"], 1), mark, self.acknowledged[mark])
        self.host.run("vm", "delete", "b", "--force")

    def another_daemon(self):
        """The next daemon removes what stayed because there was no room to remove it."""
        self.swept += 1
        self.host.process.terminate()
        self.host.process.wait()
        self.host.start()

    def back(self, way):
        """Only the snapshots that were there first are, and the guest goes on from the last of them."""
        for name in self.host.snapshots("a"):
            if name not in TREE:
                self.host.run("vm", "snapshot", "delete", "a", name)
        self.host.run("vm", "snapshot", "revert", "a", "base", "--force")
        try:
            until("only the layers of these snapshots stay", 30, lambda: len(self.storage.layers()) == self.layers)
        except Trouble:
            if way != FULL:
                raise
            self.another_daemon()
            until("only the layers of these snapshots stay under the next daemon", 30, lambda: len(self.storage.layers()) == self.layers)
        self.host.answers("a", 60)
        if (mark := self.host.inside("a", "cat /srv/mark")) != "base":
            raise Trouble(f"back at the snapshot base it bears the mark {mark}")
