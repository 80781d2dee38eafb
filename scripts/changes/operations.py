"""Operations on a guest's time, one after the other, and what must hold after each."""

import random
import time

from changes.host import CLOCK
from changes.storage import Storage
from daemon import Trouble, until

# How often each is done, of a hundred.
OFTEN = {"snapshot": 27, "revert": 14, "branch": 8, "delete": 19, "suspend": 14, "instant": 9, "pause": 9}
# More snapshots than that are not kept: one goes.
MOST = 8


class Operations:
    def __init__(self, host, work, chance: random.Random):
        self.host, self.storage, self.chance = host, Storage(host, work), chance
        # What was acknowledged when a snapshot was made, and what its kernel had complained of; its mark is its name.
        self.nodes, self.complaints = {}, []
        self.told, self.took, self.clocks, self.late = "the beginning", {}, [], 0

    def go(self, count):
        self.complaints = self.host.look("a")["complaints"]
        for n in range(count):
            self.one(n)
        self.end()
        counts = ", ".join(f"{what} {len(took)} (at most {max(took):.1f} s)" for what, took in sorted(self.took.items()))
        off = f"clocks right after {max(when for when, _ in self.clocks):.2f} s, off by {max(off for _, off in self.clocks) * 1000:.0f} ms" if self.clocks else "no clock stood still"
        late = f"; {self.late} clones were themselves only at the second try" if self.late else ""
        print(f"{count} operations: {counts}; {off} at most{late}", flush=True)

    def one(self, n):
        (what,) = self.chance.choices(list(OFTEN), list(OFTEN.values()))
        if len(self.nodes) >= MOST:
            what = "delete"
        elif not self.nodes and what in ("revert", "branch", "delete"):
            what = "snapshot"
        self.told = f"operation {n}: {what}"
        getattr(self, what)(f"n{n}")
        if wrong := self.storage.leftovers():
            raise Trouble("; ".join(wrong))

    def timed(self, *words):
        """Has something done that is written down with its time; what it was called is told if there is trouble."""
        self.told += f" [{' '.join(words)}]"
        begun = time.monotonic()
        self.host.run(*words)
        self.took.setdefault(" ".join(word for word in words[1:3] if word != "a"), []).append(time.monotonic() - begun)

    def holds(self, guest, least, mark, echoed=None):
        """What must hold in a guest: it bears a mark, its ledger has what was acknowledged, and where memory went on its connection did, too."""
        seen = self.host.look(guest)
        if seen["mark"] != mark or seen["ledger"] < least:
            raise Trouble(f"{guest} bears the mark {seen['mark']} and its ledger ends at {seen['ledger']}: it must bear {mark}, and {least} was acknowledged")
        if new := [line for line in seen["complaints"] if line not in self.complaints]:
            raise Trouble(f"the kernel of {guest} complains: {new}")
        if echoed is not None:
            if seen["echoed"] < echoed:
                raise Trouble(f"{guest}: number {echoed} had come back on its connection, now it is at {seen['echoed']}")
            until(f"{guest}: numbers come back on its connection", 20, lambda: int(self.host.inside(guest, "cat /run/load/echoed")) > seen["echoed"])
        return seen

    def clock_is_right(self, guest):
        """A guest that went on has its clock set soon."""
        begun, seen = time.monotonic(), []

        def is_right():
            seen.append(abs(self.host.clock(guest)))
            return seen[-1] <= CLOCK

        try:
            until(f"{guest}: its clock is right", 30, is_right)
        except Trouble as trouble:
            off = ", ".join(f"{off:.3f}" for off in [*seen[:3], *seen[3:][-1:]])
            looked = self.host.tried("vm", "exec", guest, "--", "sh", "-c", "uptime; ip addr; ip route; ps axo stat,time,args | grep -v '\\['").stdout
            raise Trouble(f"{trouble}: it was off by {off or 'nobody knows how much'}, s\n{looked}") from trouble
        self.clocks.append((time.monotonic() - begun, seen[-1]))

    def beside(self, mark):
        """Where the guest is now: what an operation that has nothing stand still must not change."""
        return self.host.mark("a", mark), self.host.look("a"), self.host.clock("a")

    def goes_on(self, mark, before):
        acknowledged, seen, off = before
        self.holds("a", acknowledged, mark, seen["echoed"])
        if abs(now := self.host.clock("a")) > CLOCK and abs(now - off) > CLOCK:
            raise Trouble(f"its clock was off by {off:.3f} s and is by {now:.3f} s")

    def node(self):
        """One of the snapshots; those without memory less often, for a boot takes as long as many other operations."""
        (name,) = self.chance.choices(list(self.nodes), [4 if memory else 1 for _, _, memory in self.nodes.values()])
        return name

    def snapshot(self, name):
        before = self.beside(name)
        kept = self.chance.choice([[], ["--quiesce"], ["--memory"], ["--memory"]])
        self.timed("vm", "snapshot", "create", "a", name, *kept)
        self.nodes[name] = (before[0], before[1]["echoed"], "--memory" in kept)
        self.goes_on(name, before)

    def revert(self, _):
        name = self.node()
        acknowledged, echoed, memory = self.nodes[name]
        self.timed("vm", "snapshot", "revert", "a", name, "--force")
        if memory:
            self.clock_is_right("a")
            self.holds("a", acknowledged, name, echoed)
        else:
            self.timed("vm", "start", "a")
            self.host.booted("a")
            self.holds("a", acknowledged, name)

    def branch(self, _):
        """Another guest begins at a snapshot, in its memory where there is one."""
        name = self.node()
        acknowledged, echoed, memory = self.nodes[name]
        before = self.beside("beside")
        if memory:
            self.timed("vm", "create", "b", "--from-saved", f"a/{name}")
        else:
            self.timed("vm", "clone", "a", "b", "--snapshot", name)
            self.timed("vm", "start", "b")
            self.host.booted("b")
        self.another(acknowledged, name, echoed if memory else None)
        self.goes_on("beside", before)

    def instant(self, name):
        before = self.beside(name)
        self.timed("vm", "clone", "a", "b", "--instant", "--start")
        self.another(before[0], name, before[1]["echoed"])
        self.goes_on(name, before)

    def another(self, acknowledged, mark, echoed):
        """The other guest is what it is to be, and goes."""
        if echoed is not None:
            self.is_itself("b")
            self.clock_is_right("b")
        self.holds("b", acknowledged, mark, echoed)
        self.host.mark("b", "other")
        self.timed("vm", "delete", "b", "--force")

    def is_itself(self, guest):
        """A guest in another one's memory becomes one of its own: within a minute, or else when it goes on the next time."""
        id = self.host.guests()[guest]["id"]

        def told(kind):
            return len([event for event in self.host.json("event", "ls", "-f", f"kind={kind},name={guest}") if id in event["target"]])

        for tries in range(5):
            until(f"{guest} is one of its own, or not", 120, lambda: told("vm.identity") or told("vm.no-identity") > tries, 0.2)
            if told("vm.identity"):
                self.late += tries > 0
                return
            self.host.run("vm", "pause", guest)
            self.host.run("vm", "resume", guest)
        raise Trouble(f"{guest} has not become one of its own")

    def delete(self, _):
        name = self.chance.choice(list(self.nodes))
        before = self.beside("beside")
        self.timed("vm", "snapshot", "delete", "a", name)
        del self.nodes[name]
        self.goes_on("beside", before)

    def suspend(self, name):
        self.stand_still("suspend", name)

    def pause(self, name):
        self.stand_still("pause", name)

    def stand_still(self, how, name):
        acknowledged, seen, _ = self.beside(name)
        self.timed("vm", how, "a")
        time.sleep(self.chance.uniform(0, 3))
        self.timed("vm", "resume", "a")
        self.clock_is_right("a")
        self.holds("a", acknowledged, name, seen["echoed"])

    def end(self):
        """The guest and each of its snapshots are whole on storage; then only the guest is there."""
        self.told = "the end of the operations"
        acknowledged = self.host.mark("a", "end")
        self.timed("vm", "shutdown", "a")
        images = self.storage.check_images()
        guest = self.host.guests()["a"]
        self.storage.must_have(self.storage.image(guest, 1), "end", acknowledged)
        self.storage.raw(self.storage.image(guest, 0))
        for name, snapshot in self.host.snapshots("a").items():
            self.storage.raw(self.storage.layer(guest, 0, snapshot))
            self.storage.must_have(self.storage.layer(guest, 1, snapshot), name, self.nodes[name][0])
        for name in list(self.nodes):
            self.timed("vm", "snapshot", "delete", "a", name)
        until("no layer stays", 30, lambda: not self.storage.layers())
        self.storage.check_images()
        self.storage.must_have(self.storage.image(guest, 1), "end", acknowledged)
        if self.storage.leaked:
            raise Trouble(f"{self.storage.leaked} images have clusters that nobody uses")
        if wrong := self.storage.leftovers():
            raise Trouble("; ".join(wrong))
        print(f"{images} images of {len(self.nodes)} snapshots and the guest are whole, and have what was acknowledged", flush=True)
