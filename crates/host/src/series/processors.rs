//! What each of a guest's processors did over time: a file for each beside the guest's, named after it and the processor's number.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::bucket::Bucket;
use super::ring::Ring;
use super::stack::PARTS;
use super::track::Track;
use super::{Kind, kind, tell};

/// A processor's series: together they are always 1.
pub const SERIES: [Kind; PARTS] = [
    kind("run", "processors"),
    kind("ready", "processors"),
    kind("limited", "processors"),
    kind("memory", "processors"),
    kind("io", "processors"),
    kind("halted", "processors"),
];

/// What is between the guest's id and the processor's number.
const BETWEEN: &str = ".vcpu";

/// The processors of a guest that runs.
#[derive(Debug)]
pub struct Processors {
    /// The guest's file.
    path: PathBuf,
    known: BTreeMap<u32, (Ring, Track)>,
}

fn path(guest: &Path, number: u32) -> PathBuf {
    let mut path = guest.as_os_str().to_owned();
    path.push(format!("{BETWEEN}{number}"));
    path.into()
}

/// The id of the guest whose file, or whose processor's, has this name.
pub fn guest_of(name: &str) -> &str {
    name.split_once(BETWEEN).map_or(name, |(guest, _)| guest)
}

/// Removes what is kept of the processors of the guest with this file.
pub fn forget(guest: &Path) {
    let own =
        |name: &str| guest.file_name().is_some_and(|own| own == guest_of(name)) && name.contains(BETWEEN);
    let entries = guest.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(own)) {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!("{} stays behind: {error}", entry.path().display());
        }
    }
}

/// What is known of a processor of a guest that does not run.
///
/// # Errors
/// If it cannot be read.
pub fn read(guest: &Path, number: u32, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
    match Ring::find(&path(guest, number), &[PARTS])? {
        Some(ring) => ring.read(0, level, first, last),
        None => Ok(Vec::new()),
    }
}

impl Processors {
    /// Those of the guest with this file.
    pub fn new(guest: &Path) -> Self {
        Self { path: guest.to_owned(), known: BTreeMap::new() }
    }

    /// What those that are there did in a second.
    pub fn add(&mut self, second: u32, parts: &[(u32, [f64; PARTS])]) {
        for (number, parts) in parts {
            if !self.known.contains_key(number) {
                match Ring::open(&path(&self.path, *number), &[PARTS]) {
                    Ok(ring) => drop(self.known.insert(*number, (ring, Track::new(0)))),
                    Err(error) => return tell(Err(error)),
                }
            }
            if let Some((ring, track)) = self.known.get_mut(number) {
                tell(track.add(ring, second, &parts.map(Some)));
            }
        }
    }

    /// Writes what is not written yet.
    pub fn flush(&mut self, all: bool) {
        for (ring, track) in self.known.values_mut() {
            tell(track.flush(ring, all));
        }
    }

    /// What is known of one of them.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, number: u32, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
        match self.known.get(&number) {
            Some((ring, track)) => track.read(ring, level, first, last),
            None => read(&self.path, number, level, first, last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_file_which_goes_with_the_guest_and_with_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        for guest in [&one, &other] {
            fs::write(guest, "").unwrap();
            let mut processors = Processors::new(guest);
            processors.add(7, &[(0, [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]), (12, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])]);
            let known = processors.read(12, 0, 7, 7).unwrap();
            assert_eq!(known[0].of[0].unwrap().avg(), 1.0);
            processors.flush(true);
            assert_eq!(read(guest, 12, 0, 1, 9).unwrap(), known);
            assert!(processors.read(3, 0, 1, 9).unwrap().is_empty());
        }
        assert_eq!(["one", "one.vcpu12"].map(guest_of), ["one"; 2]);
        forget(&one);
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["one", "other", "other.vcpu0", "other.vcpu12"]);
    }
}
