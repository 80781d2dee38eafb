//! The machine under the daemon, as the kernel tells of it (proc(5), sysfs(5)).

mod disks;
mod done;
mod nics;
mod nodes;

use std::fs;
use std::path::Path;

use api::Size;

pub use disks::disks;
pub use done::{Disks, Traffic, done, traffic};
pub use nics::nics;
pub use nodes::nodes;

/// Where the kernel tells of hardware (sysfs(5)).
const SYS: &str = "/sys";

fn text(path: impl AsRef<Path>) -> String {
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
