"""What the guest of scripts/soak-changes works on, and how it is asked how that goes."""

import hashlib

# Keeps a ledger, a connection within the guest and a clock, each in a thread of its own. If one of them is not what it should be, all of it ends: the unit
# has failed then, and is not started again.
LOAD = r'''#!/usr/bin/env python3
import hashlib, os, socket, sqlite3, threading, time, traceback

TOLD = "/run/load"

def tell(name, value):
    with open(f"{TOLD}/{name}.new", "w") as file:
        file.write(f"{value}\n")
    os.replace(f"{TOLD}/{name}.new", f"{TOLD}/{name}")

def keep_ledger():
    ledger = sqlite3.connect("/srv/ledger.db", isolation_level=None)
    ledger.execute("PRAGMA journal_mode = WAL")
    ledger.execute("PRAGMA synchronous = FULL")
    ledger.execute("PRAGMA wal_autocheckpoint = 20")
    ledger.execute("CREATE TABLE IF NOT EXISTS ledger (n INTEGER PRIMARY KEY, hash INTEGER NOT NULL)")
    n, before = ledger.execute("SELECT n, hash FROM ledger ORDER BY n DESC LIMIT 1").fetchone() or (0, 0)
    while True:
        n += 1
        before = int.from_bytes(hashlib.sha256(f"{before} {n}".encode()).digest()[:5], "big")
        ledger.execute("INSERT INTO ledger VALUES (?, ?)", (n, before))
        tell("acknowledged", n)
        time.sleep(0.2)

def echo(listener):
    connection, _ = listener.accept()
    while data := connection.recv(4096):
        connection.sendall(data)
    raise OSError("the connection was closed")

def converse(port):
    n, connection = 0, socket.create_connection(("127.0.0.1", port))
    connection.settimeout(60)
    while True:
        n += 1
        sent = f"{n:8}".encode()
        connection.sendall(sent)
        got = b""
        while len(got) < len(sent):
            if not (more := connection.recv(len(sent) - len(got))):
                raise OSError("the connection was closed")
            got += more
        assert got == sent, (got, sent)
        tell("echoed", n)
        time.sleep(0.2)

def log_clock():
    most = 0.0
    with open("/srv/clock", "a") as log:
        while True:
            with clock:
                now = time.time()
                most, clock.last = max(most, clock.last - now), now
            log.write(f"{time.monotonic():.6f} {now:.6f}\n")
            log.flush()
            tell("back", f"{most:.6f}")
            time.sleep(0.5)

class Clock:
    def __init__(self):
        self.lock, self.last = threading.Lock(), 0.0

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()

    def serve(self):
        asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asked.bind(("", 37))
        while True:
            data, whom = asked.recvfrom(64)
            if data.startswith(b"set "):
                with self:
                    time.clock_settime(time.CLOCK_REALTIME, time.time() + float(data[4:]))
                    self.last = 0.0
            asked.sendto(data + f" {time.time():.6f}".encode(), whom)

def guarded(work, *arguments):
    try:
        work(*arguments)
    except BaseException:
        traceback.print_exc()
    os._exit(1)

os.makedirs(TOLD, exist_ok=True)
clock = Clock()
listener = socket.create_server(("127.0.0.1", 0))
for thread in [(keep_ledger,), (echo, listener), (converse, listener.getsockname()[1]), (log_clock,), (clock.serve,)]:
    threading.Thread(target=guarded, args=thread).start()
'''

FIO = (
    "while :; do fio --name=verified --directory=/srv --size=2M --bsrange=4k-64k --rw=randwrite --rate=100k --fsync=16 --verify=crc32c --do_verify=1"
    " --verify_fatal=1 --verify_state_save=0 --output=/run/fio.log || exit 1; done"
)

UNIT = """[Unit]
RequiresMountsFor=/srv
After=network.target
[Service]
ExecStart={start}
[Install]
WantedBy=multi-user.target
"""

# Whoever asks reads what is acknowledged before the ledger, which must have it.
LOOK = r'''#!/bin/sh
tell() { printf '%s\t%s\n' "$1" "$2"; }
for name in acknowledged echoed back; do tell $name "$(cat /run/load/$name)"; done
tell mark "$(cat /srv/mark)"
tell units "$(systemctl is-active load verified | tr '\n' ' ')"
tell ledger "$(sqlite3 -cmd '.timeout 20000' /srv/ledger.db 'PRAGMA integrity_check; SELECT count(*), max(n), sum(hash) FROM ledger' | tr '\n' ' ')"
dmesg -l err,crit,alert,emerg | sed 's/^/complaint\t/'
'''

# As a root: makes the second disk the place of the load, and has the load begin now and at each boot.
SETUP = f"""set -e
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vdb
echo '/dev/vdb /srv ext4 defaults,errors=remount-ro 0 2' >>/etc/fstab
mount /srv
echo begin >/srv/mark
cat >/usr/local/bin/load <<'END'
{LOAD}END
cat >/usr/local/bin/look <<'END'
{LOOK}END
cat >/usr/local/bin/verified <<'END'
#!/bin/sh
{FIO}
END
chmod 755 /usr/local/bin/*
cat >/etc/systemd/system/load.service <<'END'
{UNIT.format(start="/usr/local/bin/load")}END
cat >/etc/systemd/system/verified.service <<'END'
{UNIT.format(start="/usr/local/bin/verified")}END
systemctl daemon-reload
systemctl enable --now load verified
sync
"""


class Expected:
    """The sum of the ledger's hashes up to each number: a chain that begins nowhere is the same for whoever makes it."""

    def __init__(self):
        self.sums, self.last = [0], 0

    def sum_to(self, n):
        while len(self.sums) <= n:
            self.last = int.from_bytes(hashlib.sha256(f"{self.last} {len(self.sums)}".encode()).digest()[:5], "big")
            self.sums.append(self.sums[-1] + self.last)
        return self.sums[n]

    def wrong(self, count, most, total, least):
        """What is wrong with a ledger of `count` rows up to number `most` whose hashes are `total`, and that must have number `least`; nothing if it is whole."""
        if most < least:
            return f"number {least} was acknowledged, and it ends at {most}"
        if count != most or total != self.sum_to(most):
            return f"it has {count} rows up to {most}, and their hashes are not those of the chain"
        return None
