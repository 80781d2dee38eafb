"""What scripts/soak-changes finds on storage, without a guest or a daemon that would mend it."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
from datetime import datetime

from daemon import Trouble, until


def tool(*argv, fine=(0,)):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode not in fine:
        raise Trouble(f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


class Storage:
    def __init__(self, host, work):
        self.host, self.work, self.pool, self.leaked = host, work, host.state / "pools/default", 0

    def layers(self):
        return [json.loads(about.read_text()) for about in self.pool.glob(".layer-*/layer.json")]

    def check_images(self):
        """QEMU finds each image whole; clusters that nobody uses, which a process that was killed leaves, are counted. No guest may run."""
        self.rest()
        images = self.images()
        for image in images:
            self.leaked += tool("qemu-img", "check", "-q", image, fine=(0, 3)).returncode == 3
        return len(images)

    def images(self):
        return [*self.pool.glob("*/disk.qcow2"), *self.pool.glob(".layer-*/*.qcow2")]

    def rest(self):
        """Waits until the daemon has merged what it merges when guests have ended."""

        def seen():
            with contextlib.suppress(FileNotFoundError):
                return [(image, image.stat().st_ino, image.stat().st_mtime_ns) for image in self.images()]

        def unchanged():
            before = seen()
            time.sleep(0.5)
            return before is not None and before == seen()

        until("layers are merged", 60, unchanged)

    def volume(self, guest, disk):
        """The folder of a guest's own disk, and its definition."""
        folder = self.pool / f"vm-{guest['id']}-{disk}"
        return folder, json.loads((folder / "volume.json").read_text())

    def image(self, guest, disk):
        folder, about = self.volume(guest, disk)
        return folder / f"disk.{about['format']}"

    def layer(self, guest, disk, snapshot):
        """The file of what a disk was at a snapshot: the first layer that was made for it then or later."""
        _, about = self.volume(guest, disk)
        made = sorted((moment(layer["created"]), layer["id"], layer["format"]) for layer in self.layers() if layer["volume"] == about["id"])
        later = [found for found in made if found[0] >= moment(snapshot["created"])]
        if not later:
            raise Trouble(f"the snapshot {snapshot['name']} has no layer of disk {disk}")
        _, layer, form = later[0]
        return self.pool / f".layer-{layer}" / f"{layer}.{form}"

    def raw(self, image):
        """A copy of what a guest would read of an image, its journal replayed and its file system without a fault."""
        copy = self.work / "copy.raw"
        tool("qemu-img", "convert", "-O", "raw", image, copy)
        tool("e2fsck", "-p", copy, fine=(0, 1))
        tool("e2fsck", "-fn", copy)
        return copy

    def ledger(self, image):
        """The mark that an image bears, and how far its ledger goes, which is whole."""
        copy, folder = self.raw(image), self.work / "dumped"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ["ledger.db", "ledger.db-wal", "mark"]:
            tool("debugfs", "-R", f"dump /{name} {folder / name}", copy)
        ledger = sqlite3.connect(folder / "ledger.db")
        try:
            (whole,) = ledger.execute("PRAGMA integrity_check").fetchone()
            count, most, total = ledger.execute("SELECT count(*), max(n), sum(hash) FROM ledger").fetchone()
        except sqlite3.DatabaseError as error:
            raise Trouble(f"{image}: the ledger cannot be read: {error}") from error
        finally:
            ledger.close()
        os.unlink(copy)
        wrong = whole if whole != "ok" else self.host.expected.wrong(count, most, total, 0)
        if wrong:
            raise Trouble(f"{image}: the ledger: {wrong}")
        return (folder / "mark").read_text().strip(), most

    def must_have(self, image, mark, least):
        found, most = self.ledger(image)
        if found != mark or most < least:
            raise Trouble(f"{image} bears the mark {found} and its ledger ends at {most}: it must bear {mark}, and {least} was acknowledged")

    def leftovers(self):
        """What belongs to nothing that the daemon knows, or is not there and should be."""
        guests, found = self.host.guests(), []
        ids = {guest["id"]: name for name, guest in guests.items()}
        for folder in [*self.host.state.glob("vms/*"), *self.host.state.glob("run/*")]:
            if folder.name not in ids:
                found.append(f"{folder} is of no guest")
        for name, guest in guests.items():
            found += self.leftovers_of(name, guest)
        for entry in self.pool.iterdir():
            if entry.name.startswith((".draft", ".gone")):
                found.append(f"{entry} is a draft")
            elif entry.name.startswith("vm-") and entry.name[3:].rsplit("-", 1)[0] not in ids:
                found.append(f"{entry} is of no guest")
        for id, pids in self.host.processes().items():
            if id not in ids or len(pids) != 1:
                found.append(f"processes {pids} of {ids.get(id, 'no guest')}")
        return found

    def leftovers_of(self, name, guest):
        folder, found = self.host.state / "vms" / guest["id"], []
        with_memory = {snapshot["id"] for snapshot in self.host.snapshots(name).values() if snapshot.get("memory")}
        saved = {entry.name for entry in folder.glob("snapshots/*")}
        if saved != with_memory:
            found.append(f"{name} has memory of {sorted(saved)}, and snapshots with memory are {sorted(with_memory)}")
        suspended = {entry.name for entry in folder.glob("suspended*")}
        if suspended != ({"suspended"} if guest["status"]["state"] == "suspended" else set()):
            found.append(f"{name} is {guest['status']['state']}, and has {sorted(suspended)}")
        if guest["status"]["state"] in ("stopped", "crashed", "suspended") and (self.host.state / "run" / guest["id"]).exists():
            found.append(f"{name} is {guest['status']['state']}, and has sockets")
        return found


def moment(text):
    """A time as the API has it, by the nanosecond: they can be compared."""
    date, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(date), fraction.ljust(9, "0")
