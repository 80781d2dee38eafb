//! Control groups: each guest's process and its threads in one of their own (cgroups(7)), in version 2 and in every hierarchy of
//! version 1 that can account for or limit them. What a guest uses is told apart by that, and can be limited.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::Id;

use crate::shares::{Controls, Version};

/// Controllers of version 1 whose groups need nothing set before a process can be in them.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "blkio", "freezer"];

/// The group of the daemon itself where it has one of its own: systemd makes it (`DelegateSubgroup=`) in version 2, and we do in version 1
/// while guests have most of the machine.
const DAEMON: &str = "daemon";
/// The same in version 2 where nobody made one and the daemon is alone: it is told apart from the other because systemd does not put the next daemon there ([`make_way`]).
const OWN: &str = "main";
/// How the group of a host is called, before its id.
const OF_HOST: &str = "tessera-";
/// Where systemd puts what it runs after a service's main process.
pub(crate) const CONTROL: &str = ".control";

/// The groups of a host's guests.
#[derive(Debug)]
pub struct Groups {
    /// The folder of this host's groups in each hierarchy.
    folders: Vec<PathBuf>,
    /// Where processors are divided, or why they cannot be.
    controls: Result<Controls, String>,
}

/// A hierarchy as it is mounted (proc_pid_mountinfo(5)).
struct Mount {
    /// Which part of it is mounted.
    root: String,
    place: PathBuf,
    /// The controllers of a hierarchy of version 1; none is version 2.
    controllers: Vec<String>,
}

fn mounts(text: &str) -> Vec<Mount> {
    let read = |line: &str| {
        let (first, last) = line.split_once(" - ")?;
        let mut fields = first.split(' ');
        let (root, place) = (fields.nth(3)?, fields.next()?);
        let mut kind = last.split(' ');
        let controllers = match (kind.next()?, kind.nth(1)?) {
            ("cgroup2", _) => Vec::new(),
            ("cgroup", options) => {
                let known = options.split(',').filter(|option| CONTROLLERS.contains(option));
                let known: Vec<_> = known.map(str::to_owned).collect();
                (!known.is_empty()).then_some(known)?
            }
            _ => return None,
        };
        Some(Mount { root: root.into(), place: place.into(), controllers })
    };
    text.lines().filter_map(read).collect()
}

/// Where this process is in the hierarchy with these controllers (proc_pid_cgroup(5)).
fn own(text: &str, controllers: &[String]) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let fits = match controllers.first() {
            None => names.is_empty(),
            Some(first) => names.split(',').any(|name| name == first),
        };
        fits.then(|| path.to_owned())
    })
}

/// A folder in which groups of this process's own can be.
#[derive(Debug)]
struct Place<'a> {
    folder: PathBuf,
    /// The groups above the host's own, from that folder on, but for the one that is mounted: that is somebody else's.
    above: Vec<PathBuf>,
    /// The hierarchy's controllers; none is version 2.
    controllers: &'a [String],
}

/// One for each hierarchy.
fn places<'a>(mounts: &'a [Mount], cgroup: &str) -> Vec<Place<'a>> {
    let place = |mount: &'a Mount| {
        let own = own(cgroup, &mount.controllers)?;
        let own = Path::new(&own);
        // Guests are beside the daemon then: in version 2 only groups without processes of their own can divide (no internal processes).
        let own =
            if [DAEMON, OWN, CONTROL].iter().any(|name| own.ends_with(name)) { own.parent()? } else { own };
        let folder = mount.place.join(own.strip_prefix(&mount.root).ok()?);
        let within = |group: &&Path| group.starts_with(&mount.place) && *group != mount.place;
        let above = folder.ancestors().take_while(within).map(Path::to_owned).collect();
        Some(Place { folder, above, controllers: &mount.controllers })
    };
    let mut places: Vec<_> = mounts.iter().filter_map(place).collect();
    places.dedup_by(|a, b| a.folder == b.folder);
    places
}

/// Has a group of version 2 divide processors among those in it, or not any more.
fn set_dividing(group: &Path, divides: bool) -> io::Result<()> {
    fs::write(group.join("cgroup.subtree_control"), if divides { "+cpu" } else { "-cpu" })
}

/// Puts a process into a group, which is made if it is not there.
pub(crate) fn put(process: u32, group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::write(group.join("cgroup.procs"), process.to_string()),
    }
}

/// Has the daemon go into a group of its own, if it is in this one and nobody else is. Says whether nobody is in it then.
fn step_aside(place: &Path) -> io::Result<bool> {
    let own = std::process::id();
    let all = fs::read_to_string(place.join("cgroup.procs"))?;
    if all.is_empty() || all.lines().any(|process| process != own.to_string()) {
        return Ok(all.is_empty());
    }
    put(own, &place.join(OWN)).map(|()| true)
}

/// Has the groups in a folder of version 2, and those in it, divide processors.
fn enable(place: &Path, folder: &Path) -> Result<(), String> {
    let told = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let has = place.join("cgroup.controllers");
    let controllers = fs::read_to_string(&has).map_err(|error| told(&has, error))?;
    if !controllers.split_whitespace().any(|name| name == "cpu") {
        return Err(format!(
            "{} has no cpu controller: whatever started the daemon gives it none",
            place.display()
        ));
    }
    // The first group of all may have processes. The kernel refuses none of what follows if another one has: it takes its processes for threads of one, and no group in it can have processes any more.
    let mixes = !place.join("cgroup.type").exists();
    if !mixes && !step_aside(place).map_err(|error| told(place, error))? {
        return Err(format!(
            "{} has other processes than the daemon: it needs a group of its own, as its unit of systemd gives it, or by hand: systemd-run --scope --slice=tessera.slice -p Delegate=yes tessera host",
            place.display()
        ));
    }
    [place, folder].iter().try_for_each(|group| set_dividing(group, true).map_err(|error| told(group, error)))
}

/// Has the next daemon be put where the last one was: in version 2 no process can be put into a group that divides processors, and systemd
/// before 254 knows no other place for it. Guests that run have no shares until the daemon has begun. Does nothing where that is not so.
///
/// # Errors
/// If the kernel refuses it.
pub fn make_way() -> io::Result<()> {
    let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo")?);
    for place in places(&mounts, &fs::read_to_string("/proc/self/cgroup")?) {
        if place.controllers.is_empty() && place.folder.join(OWN).is_dir() {
            undivide(&place.folder)?;
        }
    }
    Ok(())
}

/// Has a group of version 2 divide processors no more, nor hosts' groups in it.
fn undivide(place: &Path) -> io::Result<()> {
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(OF_HOST)) {
            set_dividing(&entry.path(), false)?;
        }
    }
    set_dividing(place, false)
}

/// Where processors are divided, of places and the host's own groups there.
fn controls(places: &[(Place<'_>, PathBuf)]) -> Result<Controls, String> {
    let of =
        |name: &str| places.iter().find(|(place, _)| place.controllers.iter().any(|other| other == name));
    let second = places.iter().find(|(place, _)| place.controllers.is_empty());
    let counted = of("cpuacct").map(|(_, folder)| (folder.clone(), Version::One));
    let account = counted.or_else(|| second.map(|(_, folder)| (folder.clone(), Version::Two)));
    let Some(account) = account else { return Err("guests have no control groups here".into()) };
    let (place, folder, version, daemon) = match (of("cpu"), second) {
        (Some((place, folder)), _) => (place, folder, Version::One, Some(folder.join(DAEMON))),
        (None, Some((place, folder))) => {
            enable(&place.folder, folder)?;
            let own = [DAEMON, OWN].map(|name| place.folder.join(name));
            (place, folder, Version::Two, own.into_iter().find(|group| group.is_dir()))
        }
        (None, None) => return Err("there is no cpu controller here".into()),
    };
    let daemon = daemon.map(|group| (group, place.folder.clone()));
    Ok(Controls { folder: folder.clone(), above: place.above.clone(), version, account, daemon })
}

impl Groups {
    /// The groups of host `host`'s guests, below the group that the daemon is in. Where groups cannot be made, guests have none, and the
    /// log says why.
    pub fn open(host: Id) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mounts = mounts(&read("/proc/self/mountinfo"));
        let mut folders = Vec::new();
        for place in places(&mounts, &read("/proc/self/cgroup")) {
            let folder = place.folder.join(format!("{OF_HOST}{host}"));
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    tracing::info!("guests have no control group in {}: {error}", place.folder.display());
                }
                _ => folders.push((place, folder)),
            }
        }
        let controls = controls(&folders);
        Self { folders: folders.into_iter().map(|(_, folder)| folder).collect(), controls }
    }

    /// Where processors are divided.
    ///
    /// # Errors
    /// Why they cannot be.
    pub fn controls(&self) -> Result<Controls, String> {
        self.controls.clone()
    }

    /// Whether a guest's process is in the guest's own group where processors are divided.
    pub fn has(&self, guest: Id, pid: u32) -> bool {
        let Ok(controls) = &self.controls else { return false };
        let processes = fs::read_to_string(controls.folder.join(guest.to_string()).join("cgroup.procs"));
        processes.is_ok_and(|processes| processes.lines().any(|one| one.parse() == Ok(pid)))
    }

    /// Puts a guest's process, which is about to get ready, into groups of the guest's own.
    pub fn place(&self, guest: Id, pid: u32) {
        for folder in &self.folders {
            let group = folder.join(guest.to_string());
            if let Err(error) = put(pid, &group) {
                tracing::warn!("guest {guest} is not in the control group {}: {error}", group.display());
            }
        }
        // Where that cannot be set it gets ready as late as any other.
        let _ = self.controls.as_ref().map(|controls| controls.let_begin(guest));
    }

    /// Removes the groups of a guest whose process is gone.
    pub fn remove(&self, guest: Id) {
        for folder in &self.folders {
            let group = folder.join(guest.to_string());
            if let Err(error) = fs::remove_dir(&group)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("the control group {} stays: {error}", group.display());
            }
        }
    }

    /// Removes the host's own groups, if it has no guests that run: they are found again otherwise.
    pub fn close(&self) {
        if let Ok(controls) = &self.controls {
            controls.leave();
        }
        for folder in &self.folders {
            // It is not empty then.
            let _ = fs::remove_dir(folder);
        }
    }

    /// Removes the groups of guests that are not among `known`.
    pub fn sweep(&self, known: &[Id]) {
        for entry in self.folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
            if let Some(id) = id.filter(|id| !known.contains(id)) {
                self.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_alone_is_found() {
        let mounts = mounts("30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        for group in ["", "/daemon", "/main", "/.control"] {
            let own = &format!("0::/tessera.slice/tessera.service{group}\n");
            let places = places(&mounts, own);
            let service = Path::new("/sys/fs/cgroup/tessera.slice/tessera.service");
            assert_eq!(places[0].folder, service);
            assert!(places.len() == 1 && places[0].controllers.is_empty());
            assert_eq!(places[0].above, [service, Path::new("/sys/fs/cgroup/tessera.slice")]);
        }
    }

    #[test]
    fn hierarchies_of_version_1_are_found_where_they_are_mounted() {
        let text = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                    32 30 0:28 /jail /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    33 30 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                    34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                    35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    36 30 0:32 / /proc rw - proc proc rw\n";
        let own = "5:cpuset:/x\n4:memory:/jail/b\n3:cpu,cpuacct:/a\n1:name=systemd:/s\n0::/\n";
        let wanted = ["/sys/fs/cgroup/cpu/a", "/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/unified"];
        let mounts = mounts(text);
        let places = places(&mounts, own);
        assert_eq!(
            places.iter().map(|place| place.folder.clone()).collect::<Vec<_>>(),
            wanted.map(PathBuf::from)
        );
        let made: Vec<_> = places
            .into_iter()
            .map(|place| {
                let own = place.folder.join("t");
                (place, own)
            })
            .collect();
        let controls = controls(&made).unwrap();
        assert_eq!(
            (controls.version, controls.folder.as_path()),
            (Version::One, Path::new("/sys/fs/cgroup/cpu/a/t"))
        );
        assert_eq!(controls.account, (controls.folder.clone(), Version::One));
    }

    #[test]
    fn version_2_divides_processors_once_it_is_told_to_or_says_why_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("t");
        fs::create_dir(&folder).unwrap();
        let found = Place { folder: place.path().to_owned(), above: Vec::new(), controllers: &[] };
        let made = [(found, folder.clone())];
        fs::write(place.path().join("cgroup.controllers"), "memory pids\n").unwrap();
        let why = controls(&made).unwrap_err();
        assert!(why.ends_with("has no cpu controller: whatever started the daemon gives it none"), "{why}");
        fs::write(place.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let controls = controls(&made).unwrap();
        assert_eq!((controls.version, controls.folder.as_path()), (Version::Two, folder.as_path()));
        for group in [place.path(), &folder] {
            assert_eq!(fs::read_to_string(group.join("cgroup.subtree_control")).unwrap(), "+cpu");
        }
        assert!(super::controls(&[]).is_err());
    }

    #[test]
    fn the_daemon_steps_aside_where_it_is_alone_and_makes_way_for_the_next_one() {
        let place = tempfile::tempdir().unwrap();
        let (place, own) = (place.path(), std::process::id().to_string());
        fs::write(place.join("cgroup.procs"), format!("{own}\n1\n")).unwrap();
        assert!(!step_aside(place).unwrap(), "process 1 is somebody else");
        fs::write(place.join("cgroup.procs"), format!("{own}\n")).unwrap();
        assert!(step_aside(place).unwrap());
        fs::write(place.join("cgroup.procs"), "").unwrap();
        assert!(step_aside(place).unwrap());
        assert_eq!(fs::read_to_string(place.join("main/cgroup.procs")).unwrap(), own);
        let host = place.join("tessera-1");
        fs::create_dir(&host).unwrap();
        undivide(place).unwrap();
        for group in [place, &host] {
            assert_eq!(fs::read_to_string(group.join("cgroup.subtree_control")).unwrap(), "-cpu");
        }
        assert!(!place.join("main/cgroup.subtree_control").exists());
    }

    #[test]
    fn a_part_that_is_mounted_elsewhere_is_left_alone() {
        let mounts = mounts("32 30 0:28 /other /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
        assert!(places(&mounts, "4:memory:/jail\n").is_empty());
    }
}
