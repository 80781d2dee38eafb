//! The machine under the daemon, as the kernel tells of it (proc(5), sysfs(5)).

use std::fs;
use std::path::Path;

use api::Size;

fn text(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The start of the machine that this is: another after every start.
pub fn boot_id() -> String {
    text("/proc/sys/kernel/random/boot_id")
}

/// The machine's host name.
pub fn host_name() -> String {
    text("/proc/sys/kernel/hostname")
}

/// Version of its kernel.
pub fn kernel() -> String {
    text("/proc/sys/kernel/osrelease")
}

/// Its processor's name.
pub fn processor() -> String {
    let info = text("/proc/cpuinfo");
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned()).unwrap_or_default()
}

/// Processors that are online.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// What all processors together have done since the machine started, ns (proc_stat(5)).
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// They ran something.
    pub busy: u64,
    /// They had nothing to do.
    pub idle: u64,
    /// A machine below this one gave the time to others.
    pub stolen: u64,
}

/// What they have done by now.
pub fn times() -> Times {
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let text = text("/proc/stat");
    let first = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> =
        first.split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or(0) * tick).collect();
    let field = |number: usize| fields.get(number).copied().unwrap_or(0);
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already.
    let busy = [0, 1, 2, 5, 6].map(field).iter().sum();
    Times { busy, idle: field(3) + field(4), stolen: field(7) }
}

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
pub fn disks() -> Disks {
    let real = |name: &str| Path::new("/sys/block").join(name).join("device").exists();
    done(&text("/proc/diskstats"), real)
}

/// What the disks in a table of them (Documentation/admin-guide/iostats.rst) have done that `counts` is true for.
fn done(table: &str, counts: impl Fn(&str) -> bool) -> Disks {
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

/// NUMA nodes.
pub fn nodes() -> u32 {
    let list = fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let node = |name: &str| name.strip_prefix("node").is_some_and(|rest| rest.parse::<u32>().is_ok());
    (list.filter(|entry| node(&entry.file_name().to_string_lossy())).count() as u32).max(1)
}

/// Memory it has, and memory that could be given out now.
pub fn memory() -> (Size, Size) {
    let info = text("/proc/meminfo");
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let size = |name: &str| Size(field(name).unwrap_or(0) << 10);
    (size("MemTotal:"), size("MemAvailable:"))
}

/// Room on the file system of `path`, and what of it is free.
pub fn storage(path: &Path) -> (Size, Size) {
    match rustix::fs::statvfs(path) {
        Ok(stat) => (Size(stat.f_blocks * stat.f_frsize), Size(stat.f_bavail * stat.f_frsize)),
        Err(_) => (Size(0), Size(0)),
    }
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
        assert_eq!(done(table, |name| ["vda", "sda"].contains(&name)), Disks { read: 1536, written: 1536 });
    }
}
