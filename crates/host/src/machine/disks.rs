//! Disks, and what they are used for (Documentation/ABI/stable/sysfs-block, proc_pid_mountinfo(5)).

use std::fs;
use std::path::Path;

use api::{HostDisk, HostMount, Size};

use super::{SYS, text};

/// What the kernel makes of memory and of files.
const NO_DISKS: [&str; 4] = ["loop", "ram", "zram", "nbd"];

/// The machine's disks, by name.
pub fn disks() -> Vec<HostDisk> {
    let used = Used { mounts: text("/proc/self/mountinfo"), swaps: text("/proc/swaps") };
    find(Path::new(SYS), &used)
}

/// What the kernel says of file systems and of swap.
struct Used {
    mounts: String,
    swaps: String,
}

fn find(sys: &Path, used: &Used) -> Vec<HostDisk> {
    let entries = fs::read_dir(sys.join("block")).into_iter().flatten().flatten();
    let disk = |entry: fs::DirEntry| {
        let (name, folder) = (entry.file_name().into_string().ok()?, entry.path());
        // What lies on other disks is told of with them.
        let stacked = fs::read_dir(folder.join("slaves")).is_ok_and(|mut below| below.next().is_some());
        let size = Size(text(folder.join("size")).parse::<u64>().unwrap_or(0) * 512);
        if stacked || size == Size(0) || NO_DISKS.iter().any(|kind| name.starts_with(kind)) {
            return None;
        }
        let is = |file: &str| text(folder.join(file)) == "1";
        let mut mounts = Vec::new();
        used.look(sys, &name, &mut mounts);
        let model = text(folder.join("device/model"));
        let (rotational, read_only, removable) = (is("queue/rotational"), is("ro"), is("removable"));
        Some(HostDisk { name, size, model, rotational, read_only, removable, mounts })
    };
    let mut disks: Vec<_> = entries.filter_map(disk).collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

impl Used {
    /// Adds what a device, its parts and what lies on them are used for.
    fn look(&self, sys: &Path, name: &str, mounts: &mut Vec<HostMount>) {
        let folder = sys.join("class/block").join(name);
        let number = text(folder.join("dev"));
        if mounts.iter().any(|mount| mount.device == name) {
            return;
        }
        mounts.extend(self.mounted(name, &number));
        if self.swaps.lines().any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}"))) {
            let (device, path) = (name.to_owned(), "swap".to_owned());
            mounts.push(HostMount { device, path, file_system: String::new() });
        }
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let mut names: Vec<_> =
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort();
            names
        };
        let parts = names(&folder).into_iter().filter(|part| folder.join(part).join("partition").exists());
        for other in parts.chain(names(&folder.join("holders"))) {
            self.look(sys, &other, mounts);
        }
    }

    /// Where a device is mounted as a whole; or if nowhere, one place where a part of its tree is.
    fn mounted(&self, name: &str, number: &str) -> Vec<HostMount> {
        let mount = |line: &str| {
            let (first, last) = line.split_once(" - ")?;
            let fields: Vec<&str> = first.split(' ').collect();
            let mut kind = last.split(' ');
            let (file_system, source) = (kind.next()?, kind.next()?);
            // Some file systems have numbers of their own, and say by name what they are on.
            if *fields.get(2)? != number && source != format!("/dev/{name}") {
                return None;
            }
            let path = unescaped(fields.get(4)?);
            let mount = HostMount { device: name.into(), path, file_system: file_system.into() };
            Some((*fields.get(3)? == "/", mount))
        };
        let all: Vec<(bool, HostMount)> = self.mounts.lines().filter_map(mount).collect();
        let whole: Vec<_> = all.iter().filter(|(whole, _)| *whole).map(|(_, mount)| mount.clone()).collect();
        let mut found =
            if whole.is_empty() { all.into_iter().map(|(_, mount)| mount).take(1).collect() } else { whole };
        found.dedup();
        found
    }
}

/// A path as it is: spaces and the like are octal there.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A device as sysfs has it; `of` is the disk that it is a part of.
    fn device(sys: &Path, name: &str, of: Option<&str>, number: &str, sectors: u64) {
        let folder = match of {
            Some(disk) => sys.join("devices").join(disk).join(name),
            None => sys.join("devices").join(name),
        };
        for below in ["slaves", "holders", "queue", "device"] {
            fs::create_dir_all(folder.join(below)).unwrap();
        }
        fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
        fs::write(folder.join("size"), format!("{sectors}\n")).unwrap();
        fs::create_dir_all(sys.join("class/block")).unwrap();
        fs::create_dir_all(sys.join("block")).unwrap();
        symlink(&folder, sys.join("class/block").join(name)).unwrap();
        match of {
            Some(_) => fs::write(folder.join("partition"), "1\n").unwrap(),
            None => symlink(&folder, sys.join("block").join(name)).unwrap(),
        }
    }

    #[test]
    fn disks_are_told_with_all_that_lies_on_them() {
        let sys = tempfile::tempdir().unwrap();
        let sys = sys.path();
        device(sys, "sda", None, "8:0", 2 << 21);
        device(sys, "sda1", Some("sda"), "8:1", 1 << 21);
        device(sys, "sda2", Some("sda"), "8:2", 1 << 20);
        device(sys, "sda3", Some("sda"), "8:3", 1 << 20);
        device(sys, "dm-0", None, "253:0", 1 << 20);
        device(sys, "nvme0n1", None, "259:0", 4 << 21);
        device(sys, "sr0", None, "11:0", 0);
        device(sys, "loop0", None, "7:0", 8);
        fs::write(sys.join("devices/sda/queue/rotational"), "1\n").unwrap();
        fs::write(sys.join("devices/sda/device/model"), "Spinning Rust   \n").unwrap();
        fs::write(sys.join("devices/nvme0n1/queue/rotational"), "0\n").unwrap();
        // A volume of LVM lies on the third part.
        symlink(sys.join("class/block/dm-0"), sys.join("devices/sda/sda3/holders/dm-0")).unwrap();
        symlink(sys.join("class/block/sda3"), sys.join("devices/dm-0/slaves/sda3")).unwrap();
        let used = Used {
            mounts: "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     31 30 8:1 /etc/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n\
                     32 30 253:0 / /srv/my\\040disks rw - xfs /dev/mapper/vg-lv rw\n\
                     33 30 0:40 / /data rw shared:1 - btrfs /dev/nvme0n1 rw\n"
                .into(),
            swaps: "Filename Type Size Used Priority\n/dev/sda2 partition 524284 0 -2\n".into(),
        };
        let disks = find(sys, &used);
        let names: Vec<_> =
            disks.iter().map(|disk| (disk.name.as_str(), disk.size, disk.rotational)).collect();
        assert_eq!(names, [("nvme0n1", Size(4 << 30), false), ("sda", Size(2 << 30), true)]);
        assert_eq!(disks[1].model, "Spinning Rust");
        let mounts = |disk: &HostDisk| {
            let told = |mount: &HostMount| format!("{} {} {}", mount.device, mount.path, mount.file_system);
            disk.mounts.iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(mounts(&disks[0]), ["nvme0n1 /data btrfs"]);
        assert_eq!(mounts(&disks[1]), ["sda1 / ext4", "sda2 swap ", "dm-0 /srv/my disks xfs"]);
    }

    #[test]
    fn this_machine_is_told_of_without_trouble() {
        let names: Vec<_> = disks().into_iter().map(|disk| disk.name).collect();
        assert!(names.iter().all(|name| !name.starts_with("loop")), "{names:?}");
    }
}
