//! What the machine's disks and network cards have done since it started.

use std::path::Path;

use super::text;

/// What the machine's cards have carried since it started, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What came.
    pub received: u64,
    /// What went.
    pub sent: u64,
}

/// What they have carried by now.
pub fn traffic() -> Traffic {
    let table = text("/proc/net/dev");
    let has = |name: &str, what: &str| Path::new("/sys/class/net").join(name).join(what).exists();
    let real = carried(&table, |name| has(name, "device"));
    if real != Traffic::default() {
        return real;
    }
    // A container has no card of the machine, but something in its place.
    carried(&table, |name| {
        name != "lo" && !["bridge", "tun_flags", "bonding"].iter().any(|what| has(name, what))
    })
}

/// What the cards in a table of them (proc_pid_net(5)) have carried that `counts` is true for.
fn carried(table: &str, counts: impl Fn(&str) -> bool) -> Traffic {
    let mut all = Traffic::default();
    for line in table.lines() {
        let Some((name, figures)) = line.split_once(':') else { continue };
        let mut figures = figures.split_whitespace().map(|figure| figure.parse::<u64>().unwrap_or(0));
        let (received, sent) = (figures.next(), figures.nth(7));
        if let (Some(received), Some(sent), true) = (received, sent, counts(name.trim())) {
            all = Traffic { received: all.received + received, sent: all.sent + sent };
        }
    }
    all
}

/// What the machine's own disks have done since it started, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disks {
    /// What was read.
    pub read: u64,
    /// What was written.
    pub written: u64,
}

/// What they have done by now. What lies on top of them (partitions, volumes, loops) would count twice and does not count.
pub fn done() -> Disks {
    let real = |name: &str| Path::new("/sys/block").join(name).join("device").exists();
    added_up(&text("/proc/diskstats"), real)
}

/// What the disks in a table of them (Documentation/admin-guide/iostats.rst) have done that `counts` is true for.
fn added_up(table: &str, counts: impl Fn(&str) -> bool) -> Disks {
    /// What the kernel counts in, whatever a disk's sectors are, bytes.
    const SECTOR: u64 = 512;
    let mut all = Disks::default();
    for line in table.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let sectors = |n: usize| words.get(n).and_then(|word| word.parse::<u64>().ok());
        let (Some(name), Some(read), Some(written)) = (words.get(2), sectors(5), sectors(9)) else {
            continue;
        };
        // Most that are listed have never been used.
        if read + written > 0 && counts(name) {
            all = Disks { read: all.read + read * SECTOR, written: all.written + written * SECTOR };
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cards_that_count_have_carried_is_added_up() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n    \
             lo: 116063778   24647    0    0    0     0          0         0 116063778   24647    0    0    0     0\n  \
             eth0:    7       2    0    0    0     0          0         0       30       4    0    0    0     0\n  \
             eth1:  100       1    0    0    0     0          0         0        5       1    0    0    0     0\n";
        assert_eq!(carried(table, |name| name.starts_with("eth")), Traffic { received: 107, sent: 35 });
        assert_eq!(carried(table, |_| false), Traffic::default());
    }

    #[test]
    fn what_the_disks_that_count_have_done_is_added_up() {
        let table = "   7       0 loop0 11 0 4 5 6 0 8 0 0 0 0 0 0 0 0 0 0\n \
             254       0 vda 100 5 2 30 7 9 3 40 0 50 60 0 0 0 0 0 0\n \
             254       1 vda1 100 5 2 30 7 9 3 40 0 50 60 0 0 0 0 0 0\n \
               8       0 sda 1 0 1 1 0 0 0 0 0 1 1\n";
        assert_eq!(
            added_up(table, |name| ["vda", "sda"].contains(&name)),
            Disks { read: 1536, written: 1536 }
        );
    }
}
