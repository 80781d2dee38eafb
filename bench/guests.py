"""What benchmarks have in common: a host of their own with the tiny guest of `make guests` on the software processor, and how they tell."""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from daemon import Daemon, Trouble, end_when_told, spinning, until  # noqa: E402, F401

SUBNET = "10.97.0.0/20"


def asked_for(doc, usual, besides=()):
    """What a benchmark is to measure: the binary, the folder of the tiny guest, and of these functions those that are named, or all usual ones."""
    by_name = {part.__name__: part for part in [*usual, *besides]}

    def binary(path):
        if not os.access(path, os.X_OK):
            raise argparse.ArgumentTypeError(f"'{path}' is no program")
        return os.path.realpath(path)

    def tiny(path):
        if not Path(path, "vmlinuz").exists():
            raise argparse.ArgumentTypeError(f"'{path}' has no tiny guest: `make guests` makes build/tiny")
        return Path(path).resolve()

    def part(name):
        if name not in by_name:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(by_name)}")
        return by_name[name]

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tessera", type=binary)
    parser.add_argument("tiny", type=tiny)
    parser.add_argument("parts", nargs="*", type=part, metavar="part", help=", ".join(by_name))
    asked = parser.parse_args()
    return asked.tessera, asked.tiny, asked.parts or usual


def show(what, value, unit, wanted="-", beside=""):
    print(f"{what:66} {value:10.2f} {unit:4} wanted: {wanted:9} {beside}", flush=True)


def used_by_threads(pid):
    """Processor time of the threads that a process has now, s, by the nanosecond (proc(5), schedstat)."""
    return sum(map(ran, Path(f"/proc/{pid}/task").iterdir()))


def used_by_thread(pid, name):
    """The same of those of its threads that have that name."""
    return sum(ran(thread) for thread in Path(f"/proc/{pid}/task").iterdir() if thread.joinpath("comm").read_text().strip() == name)


def ran(thread):
    return int(thread.joinpath("schedstat").read_text().split()[0]) / 1e9


def in_own_network():
    """Begins the program again in a network of its own, if it is not there."""
    if os.environ.get("TESSERA_BENCH_NETWORK") != "own":
        own = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, *sys.argv]
        sys.exit(subprocess.run(own, env={**os.environ, "TESSERA_BENCH_NETWORK": "own"}).returncode)


def random_disk(path, mib):
    """Makes a disk of so many MiB that nobody can compress, which guests' processes may use."""
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    path.chmod(0o666)


def linux(tiny, folder):
    """The options of guests with Linux and an agent."""
    initrd = folder / "initrd"
    initrd.write_bytes((tiny / "initramfs").read_bytes() + (tiny / "agent").read_bytes())
    return ["--kernel", str(tiny / "vmlinuz"), "--initrd", str(initrd), "--append", "console=ttyS0 quiet do=agent"]


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Host(Daemon):
    """A daemon with a network, and tiny guests on it."""

    def __init__(self, tessera, tiny, folder, *options):
        self.tiny, self.folder = tiny, folder
        super().__init__(tessera, folder, folder / "log", *options)
        self.machine = linux(tiny, folder)
        self.run("network", "create", "lan", "--kind", "nat", "--subnet", SUBNET)

    def twin(self, name, of, snapshot):
        """Makes a guest that goes on in the memory of another one."""
        self.ask("POST", f"/api/v1/vms/{of}/clone?wait=60s", {"name": name, "snapshot": snapshot, "memory": True, "start": True})

    def ask(self, method, path, body=None):
        """Asks for a task and waits for its end."""
        connection = Connection(self.environment["TESSERA_HOST"])
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        connection.close()
        if answer.status >= 300 or told.get("state", "done") != "done":
            raise Trouble(f"{method} {path}: {answer.status} {json.dumps(told)[:400]}")
        return told

    def guest(self, name, memory, *more):
        """Makes a guest that has an address and lets programs be run in it; gives its address."""
        self.run(
            "vm", "create", name, *self.machine, "--memory", memory, "--engine", "soft", "--net", "network=lan", "--no-restart", "--start", *more,
        )
        self.answers(name)
        self.inside(name, "ip link set eth0 up && udhcpc -q -n -i eth0")
        return self.address(name)

    def address(self, name):
        return self.ask("GET", f"/api/v1/vms/{name}")["nics"][0]["address"]

    def delete(self, *names):
        self.run("vm", "delete", "--force", *names)
