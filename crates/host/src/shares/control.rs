//! The kernel's side: the control groups of guests, in which weights and quotas are set and what they used is read (Linux,
//! admin-guide/cgroup-v2 and admin-guide/cgroup-v1; scheduler/sched-bwc). Files are opened once and written only where something changes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use api::Id;

use super::rule::{loose_quota, quota};
use crate::groups::{self, CONTROL};

/// Which of the kernel's two interfaces it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    One,
    /// One for all.
    Two,
}

/// Where a host's guests have their groups.
#[derive(Debug, Clone)]
pub struct Controls {
    /// The host's own group in the hierarchy that has processors divided.
    pub folder: PathBuf,
    /// The groups above it, the nearest one first, but for the first of all.
    pub above: Vec<PathBuf>,
    /// What that is.
    pub version: Version,
    /// The same where what is used is counted.
    pub account: (PathBuf, Version),
    /// The group that the daemon has to itself while guests have most of the machine, and where it is otherwise.
    pub daemon: Option<(PathBuf, PathBuf)>,
}

/// What a group gets of whom it is beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// As much as any other.
    Usual,
    /// Nearly all of it, as long as it wants that.
    Most,
}

impl Version {
    /// The least and the most weight that we give a guest.
    pub fn weights(self) -> (u64, u64) {
        match self {
            // The most there is, 262144, would leave no room in the kernel's sums.
            Version::One => (2, 65_536),
            Version::Two => (1, 10_000),
        }
    }

    /// The weight of a group of which nothing is said.
    pub fn usual(self) -> u64 {
        match self {
            Version::One => 1024,
            Version::Two => 100,
        }
    }

    /// The most weight that the kernel knows.
    fn most(self) -> u64 {
        match self {
            Version::One => 262_144,
            Version::Two => 10_000,
        }
    }

    fn weight_file(self) -> &'static str {
        match self {
            Version::One => "cpu.shares",
            Version::Two => "cpu.weight",
        }
    }
}

impl Controls {
    /// Gives guests their part beside other processes of the machine: the highest of the groups above theirs that has nothing else in it has the weight, and those below it the usual one.
    /// So a daemon that is begun in there while guests are busy does not have to wait for what they leave. What others have set in groups above stays until then.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_part(&self, part: Part) -> io::Result<()> {
        if part == Part::Most {
            self.shelter()?;
        }
        let (usual, most) = (self.version.usual(), self.version.most());
        let (highest, weight) = match part {
            Part::Most => (self.highest(), most),
            Part::Usual => (&self.folder, usual),
        };
        self.write_weight(highest, weight)?;
        for group in std::iter::once(&self.folder).chain(&self.above).filter(|group| *group != highest) {
            if self.weight(group) == Some(most) {
                self.write_weight(group, usual)?;
            }
        }
        Ok(())
    }

    /// The highest group in which there is nothing but what is ours, of those that are ours to set.
    fn highest(&self) -> &PathBuf {
        let mut highest = &self.folder;
        for group in &self.above {
            let may_set = || File::options().write(true).open(group.join(self.version.weight_file())).is_ok();
            if !self.is_all_of(group, highest) || !may_set() {
                break;
            }
            highest = group;
        }
        highest
    }

    fn weight(&self, group: &Path) -> Option<u64> {
        fs::read_to_string(group.join(self.version.weight_file())).ok()?.trim().parse().ok()
    }

    fn write_weight(&self, group: &Path, weight: u64) -> io::Result<()> {
        fs::write(group.join(self.version.weight_file()), weight.to_string())
    }

    /// Whether there is nothing in a group but one of ours and the daemon.
    fn is_all_of(&self, group: &Path, below: &Path) -> bool {
        let is_ours = |entry: fs::DirEntry| {
            let (path, is_group) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let is_daemon = || self.daemon.as_ref().is_some_and(|(daemon, _)| path == *daemon);
            !is_group || path == below || path.ends_with(CONTROL) || is_daemon()
        };
        let has_none = fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|all| all.is_empty());
        has_none && fs::read_dir(group).is_ok_and(|entries| entries.flatten().all(is_ours))
    }

    /// Sees to it that the daemon itself is not among those who get what guests leave: who would stop a guest then?
    fn shelter(&self) -> io::Result<()> {
        let Some((group, _)) = &self.daemon else { return Ok(()) };
        if self.version == Version::One {
            groups::put(std::process::id(), group)?;
        }
        let is_beside = self.version == Version::Two && self.highest() != &self.folder;
        let weight = if is_beside { self.version.usual() } else { self.version.weights().1 };
        self.write_weight(group, weight)
    }

    /// Has the daemon leave a group that was made for it.
    pub fn leave(&self) {
        let Some((group, place)) = &self.daemon else { return };
        if self.version == Version::One && group.is_dir() {
            // It is not empty then.
            let _ = fs::write(place.join("cgroup.procs"), std::process::id().to_string());
            let _ = fs::remove_dir(group);
        }
    }

    /// Has a guest's process get ready before others go on, until it is given its own weight when it runs: beside many busy guests with the
    /// usual one, a start would take as many times as long.
    ///
    /// # Errors
    /// If it has no group, or the kernel refuses it.
    pub fn let_begin(&self, guest: Id) -> io::Result<()> {
        let file = self.folder.join(guest.to_string()).join(self.version.weight_file());
        fs::write(file, self.version.weights().1.to_string())
    }

    /// The control of a guest's group.
    ///
    /// # Errors
    /// If it has none.
    pub fn of(&self, guest: Id) -> io::Result<Control> {
        let group = self.folder.join(guest.to_string());
        let write = |name: &str| File::options().write(true).open(group.join(name));
        let (quota, period) = match self.version {
            Version::One => (write("cpu.cfs_quota_us")?, Some(write("cpu.cfs_period_us")?)),
            Version::Two => (write("cpu.max")?, None),
        };
        let weight = write(self.version.weight_file())?;
        // Since Linux 5.14.
        let burst = write(match self.version {
            Version::One => "cpu.cfs_burst_us",
            Version::Two => "cpu.max.burst",
        })
        .ok();
        Ok(Control { weight, quota, period, burst, written: (None, None) })
    }

    /// For how long a guest's group was throttled.
    ///
    /// # Errors
    /// If it has none.
    pub fn throttled(&self, guest: Id) -> io::Result<Throttled> {
        File::open(self.folder.join(guest.to_string()).join("cpu.stat")).map(Throttled)
    }

    /// What a guest's group has used.
    ///
    /// # Errors
    /// If it has none.
    pub fn usage(&self, guest: Id) -> io::Result<Usage> {
        let (folder, version) = &self.account;
        Usage::open(&folder.join(guest.to_string()), *version)
    }
}

/// What a group has used.
#[derive(Debug)]
pub struct Usage {
    file: File,
    version: Version,
}

impl Usage {
    fn open(group: &Path, version: Version) -> io::Result<Self> {
        let name = match version {
            Version::One => "cpuacct.usage",
            Version::Two => "cpu.stat",
        };
        Ok(Self { file: File::open(group.join(name))?, version })
    }

    /// Processor time, ns.
    ///
    /// # Errors
    /// If the group is gone.
    pub fn now(&self) -> io::Result<u64> {
        let mut text = [0; 64];
        let length = self.file.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
        let number = |text: &str| text.split_ascii_whitespace().next()?.parse::<u64>().ok();
        let found = match self.version {
            Version::One => number(text),
            // It is the first line.
            Version::Two => text.strip_prefix("usage_usec").and_then(number).map(|time| time * 1000),
        };
        found.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// For how long a group was kept from running by its quota.
#[derive(Debug)]
pub struct Throttled(File);

impl Throttled {
    /// How long, ns: the time of each processor of the host on which it wanted to run.
    ///
    /// # Errors
    /// If the group is gone, or the kernel does not say.
    pub fn now(&self) -> io::Result<u64> {
        let mut text = [0; 512];
        let length = self.0.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
        let found = text.lines().find_map(|line| {
            let (name, number) = line.split_once(' ')?;
            // Nanoseconds in version 1, microseconds in version 2.
            let unit = match name {
                "throttled_time" => 1,
                "throttled_usec" => 1000,
                _ => return None,
            };
            number.trim().parse::<u64>().ok()?.checked_mul(unit)
        });
        found.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// What is set in a guest's group.
#[derive(Debug)]
pub struct Control {
    weight: File,
    quota: File,
    period: Option<File>,
    /// How much of a quota that was not used up may be used later: without it, whoever had to wait in one period for others never gets that back.
    burst: Option<File>,
    /// The weight and the limit that were written last.
    written: (Option<u64>, Option<Option<Limit>>),
}

/// What a guest is not to pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Processors.
    pub processors: f64,
    /// Whether its process keeps to it, and the kernel only sees to it that it does.
    pub is_kept: bool,
}

impl Limit {
    /// One that only the kernel sees to.
    pub fn of_kernel(processors: f64) -> Self {
        Self { processors, is_kept: false }
    }

    /// What the kernel is told: a quota and its period, µs.
    fn quota(self) -> (u64, u64) {
        if self.is_kept { loose_quota(self.processors) } else { quota(self.processors) }
    }
}

/// So small a part of a weight nobody notices.
const SMALL: u64 = 256;

impl Control {
    /// Whether it has that weight, or nearly, and that limit, processors, whoever keeps to it.
    pub fn has(&self, weight: u64, limit: Option<f64>) -> bool {
        let limited = self.written.1.is_some_and(|written| written.map(|limit| limit.processors) == limit);
        limited && self.weighs(weight)
    }

    fn weighs(&self, weight: u64) -> bool {
        self.written.0.is_some_and(|before| before.abs_diff(weight) * SMALL <= before)
    }

    /// Gives it a weight. One that is nearly what it is stays.
    ///
    /// # Errors
    /// If the kernel refuses it, or the group is gone.
    pub fn set_weight(&mut self, weight: u64) -> io::Result<()> {
        if self.weighs(weight) {
            return Ok(());
        }
        self.weight.write_all_at(weight.to_string().as_bytes(), 0)?;
        self.written.0 = Some(weight);
        Ok(())
    }

    /// Limits it to that, or not at all.
    ///
    /// # Errors
    /// As [`set_weight`](Self::set_weight).
    pub fn set_limit(&mut self, limit: Option<Limit>) -> io::Result<()> {
        if self.written.1 == Some(limit) {
            return Ok(());
        }
        // It is never above the quota.
        self.set_burst(0)?;
        let quota = limit.map(Limit::quota);
        match (&self.period, quota) {
            (None, None) => self.quota.write_all_at(b"max 100000", 0)?,
            (None, Some((quota, period))) => {
                self.quota.write_all_at(format!("{quota} {period}").as_bytes(), 0)?
            }
            (Some(_), None) => self.quota.write_all_at(b"-1", 0)?,
            (Some(file), Some((quota, period))) => {
                file.write_all_at(period.to_string().as_bytes(), 0)?;
                self.quota.write_all_at(quota.to_string().as_bytes(), 0)?;
            }
        }
        self.set_burst(quota.map_or(0, |(quota, _)| quota))?;
        self.written.1 = Some(limit);
        Ok(())
    }

    fn set_burst(&self, most: u64) -> io::Result<()> {
        self.burst.as_ref().map_or(Ok(()), |file| file.write_all_at(most.to_string().as_bytes(), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files as the kernel has them in a guest's group.
    fn group(version: Version, files: &[&str]) -> (tempfile::TempDir, Controls, Id, PathBuf) {
        let (folder, guest) = (tempfile::tempdir().unwrap(), Id::new());
        let group = folder.path().join(guest.to_string());
        fs::create_dir(&group).unwrap();
        files.iter().for_each(|name| fs::write(group.join(name), "").unwrap());
        let path = folder.path().to_owned();
        (
            folder,
            Controls {
                account: (path.clone(), version),
                folder: path,
                above: Vec::new(),
                version,
                daemon: None,
            },
            guest,
            group,
        )
    }

    #[test]
    fn version_2_takes_weight_and_quota_with_its_period_and_counts_microseconds() {
        let (_folder, controls, guest, group) = group(Version::Two, &["cpu.weight", "cpu.max", "cpu.stat"]);
        let read = |name: &str| fs::read_to_string(group.join(name)).unwrap();
        controls.let_begin(guest).unwrap();
        assert_eq!(read("cpu.weight"), "10000");
        // A file is not a number to the test's file system: it keeps what is longer.
        fs::write(group.join("cpu.weight"), "").unwrap();
        let mut control = controls.of(guest).unwrap();
        assert!(!control.has(4500, None), "nobody has set anything");
        control.set_weight(4500).unwrap();
        control.set_limit(Some(Limit { processors: 0.05, is_kept: false })).unwrap();
        assert!(control.has(4500, Some(0.05)) && control.has(4510, Some(0.05)));
        assert!(!control.has(4600, Some(0.05)) && !control.has(4500, Some(0.06)) && !control.has(4500, None));
        assert_eq!((read("cpu.weight").as_str(), read("cpu.max").as_str()), ("4500", "1000 20000"));
        control.set_limit(Some(Limit { processors: 0.05, is_kept: true })).unwrap();
        assert_eq!(read("cpu.max"), "5000 100000");
        fs::write(group.join("cpu.max"), "").unwrap();
        // What is nearly so is left.
        control.set_weight(4510).unwrap();
        assert_eq!(read("cpu.weight"), "4500");
        control.set_weight(4600).unwrap();
        assert_eq!(read("cpu.weight"), "4600");
        control.set_limit(None).unwrap();
        assert_eq!(read("cpu.max"), "max 100000");
        fs::write(group.join("cpu.stat"), "usage_usec 1234\nuser_usec 1000\n").unwrap();
        assert_eq!(controls.usage(guest).unwrap().now().unwrap(), 1_234_000);
        assert!(controls.throttled(guest).unwrap().now().is_err(), "there is no such line");
        fs::write(group.join("cpu.stat"), "usage_usec 1\nnr_periods 3\nnr_throttled 2\nthrottled_usec 17\n")
            .unwrap();
        assert_eq!(controls.throttled(guest).unwrap().now().unwrap(), 17_000);
        controls.set_part(Part::Most).unwrap();
        assert_eq!(fs::read_to_string(controls.folder.join("cpu.weight")).unwrap(), "10000");
    }

    #[test]
    fn the_highest_group_that_is_all_ours_has_the_part_of_all() {
        let top = tempfile::tempdir().unwrap();
        let slice = top.path().join("slice");
        let service = slice.join("service");
        let [own, daemon, other] = ["own", "daemon", "other"].map(|name| service.join(name));
        for group in [&own, &daemon] {
            fs::create_dir_all(group).unwrap();
        }
        for group in [&slice, &service] {
            fs::write(group.join("cgroup.procs"), "").unwrap();
        }
        let controls = Controls {
            account: (own.clone(), Version::Two),
            folder: own,
            above: vec![service.clone(), slice.clone()],
            version: Version::Two,
            daemon: Some((daemon, service.clone())),
        };
        let groups = [&controls.folder, &service, &slice].map(|group| group.join("cpu.weight"));
        groups.iter().for_each(|file| fs::write(file, "300").unwrap());
        let weights = |part| {
            controls.set_part(part).unwrap();
            groups.each_ref().map(|file| fs::read_to_string(file).unwrap())
        };
        let of_daemon = || fs::read_to_string(service.join("daemon/cpu.weight")).unwrap();
        assert_eq!(weights(Part::Usual), ["100", "300", "300"], "what an administrator has set stays");
        assert_eq!(weights(Part::Most), ["100", "300", "10000"]);
        assert_eq!(of_daemon(), "100");
        assert_eq!(weights(Part::Usual), ["100", "300", "100"]);
        weights(Part::Most);
        // A process in the slice is somebody else's, and so is a group in the service.
        fs::write(slice.join("cgroup.procs"), "77\n").unwrap();
        assert_eq!(weights(Part::Most), ["100", "10000", "100"]);
        fs::create_dir(&other).unwrap();
        assert_eq!(weights(Part::Most), ["10000", "100", "100"]);
        assert_eq!(of_daemon(), "10000");
    }

    #[test]
    fn version_1_has_a_file_for_each_and_counts_nanoseconds() {
        let files =
            ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuacct.usage", "cpu.cfs_burst_us"];
        let (_folder, controls, guest, group) = group(Version::One, &files);
        let read = |name: &str| fs::read_to_string(group.join(name)).unwrap();
        controls.let_begin(guest).unwrap();
        assert_eq!(read("cpu.shares"), "65536");
        fs::write(group.join("cpu.shares"), "").unwrap();
        let mut control = controls.of(guest).unwrap();
        control.set_weight(2048).unwrap();
        control.set_limit(Some(Limit { processors: 0.5, is_kept: false })).unwrap();
        assert_eq!(
            [read("cpu.shares"), read("cpu.cfs_quota_us"), read("cpu.cfs_period_us")],
            ["2048", "5000", "10000"]
        );
        assert_eq!(read("cpu.cfs_burst_us"), "5000");
        fs::write(group.join("cpuacct.usage"), "77\n").unwrap();
        assert_eq!(controls.usage(guest).unwrap().now().unwrap(), 77);
        fs::write(group.join("cpu.stat"), "nr_periods 3\nnr_throttled 2\nthrottled_time 12345\n").unwrap();
        assert_eq!(controls.throttled(guest).unwrap().now().unwrap(), 12_345);
        let controls =
            Controls { daemon: Some((controls.folder.join("daemon"), controls.folder.clone())), ..controls };
        controls.set_part(Part::Most).unwrap();
        let own = fs::read_to_string(controls.folder.join("daemon/cgroup.procs")).unwrap();
        assert_eq!(own, std::process::id().to_string());
        controls.set_part(Part::Usual).unwrap();
        assert_eq!(fs::read_to_string(controls.folder.join("cpu.shares")).unwrap(), "1024");
        assert!(controls.of(Id::new()).is_err(), "it has no group");
    }
}
