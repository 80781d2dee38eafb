//! What the kernel says of itself and of virtualization (proc(5), sysfs(5)). What is not there is left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::fs::Access;

/// Files that are told whole, and none of which is long.
const FILES: [&str; 16] = [
    "/etc/os-release",
    "/proc/cmdline",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/self/cgroup",
    "/proc/self/limits",
    "/proc/swaps",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/vm/overcommit_memory",
    "/proc/version",
    "/sys/fs/cgroup/cgroup.controllers",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/security/lsm",
];

/// Folders of which each file is told.
const FOLDERS: [&str; 4] = [
    "/sys/devices/system/cpu/vulnerabilities",
    "/sys/module/kvm/parameters",
    "/sys/module/kvm_amd/parameters",
    "/sys/module/kvm_intel/parameters",
];

/// Devices without which guests are slow or have no network.
const DEVICES: [&str; 3] = ["/dev/kvm", "/dev/net/tun", "/dev/vhost-net"];

/// What it says, by the path of where it says it.
pub fn facts() -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut tell = |path: &Path| {
        if let Ok(text) = fs::read_to_string(path) {
            facts.insert(path.display().to_string(), text.trim_end().to_owned());
        }
    };
    for file in FILES {
        tell(Path::new(file));
    }
    for folder in FOLDERS {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            tell(&entry.path());
        }
    }
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // The first processor speaks for all.
    facts.insert("/proc/cpuinfo".into(), info.split("\n\n").next().unwrap_or_default().to_owned());
    for device in DEVICES {
        // It is not opened: that may load a module.
        let may = rustix::fs::access(device, Access::READ_OK | Access::WRITE_OK);
        facts.insert(device.into(), may.map_or_else(|error| error.to_string(), |()| "is there".into()));
    }
    facts
}
