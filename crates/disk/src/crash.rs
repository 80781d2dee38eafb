//! Whatever moment a process dies at, and whenever the host has no room: what was flushed is there, and the images are whole.
//!
//! The tests put down all that is done to the files of a disk, in its order, and look at what there would be if only the first of
//! it had been done: that is what a process leaves that is killed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::journal::{self, Change, Record};
use crate::{Disk, Format, Stack, qcow2};

const SECTORS: u64 = 4096;
/// There is one journal.
static TURN: Mutex<()> = Mutex::new(());

/// Numbers without meaning (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end
    }
}

/// A disk at work. Each sector is written with a number all over, a new one each time.
struct Guest {
    folder: PathBuf,
    disk: Stack,
    random: Random,
    next: u64,
    /// What was written to each sector, and after how many changes of files.
    history: Vec<Vec<(usize, u64)>>,
    /// After how many changes all that was written is in the files.
    marks: Vec<usize>,
    layers: Vec<String>,
}

impl Guest {
    fn new(folder: &Path, format: Format, seed: u64) -> Self {
        journal::begin(folder.canonicalize().unwrap());
        let (name, len) = (if format == Format::Raw { "disk.raw" } else { "disk.qcow2" }, SECTORS * 512);
        let path = folder.join(name);
        match format {
            Format::Raw => crate::file::set_len(&File::create_new(&path).unwrap(), len).unwrap(),
            Format::Qcow2 => qcow2::create(&path, len).unwrap(),
        }
        let disk = Stack::open(&path, format, false).unwrap();
        let guest = Self {
            folder: folder.to_owned(),
            disk,
            random: Random(seed),
            next: 1,
            history: vec![vec![(0, 0)]; SECTORS as usize],
            marks: vec![journal::len()],
            layers: Vec::new(),
        };
        guest.name(name);
        guest
    }

    /// Puts down that a file has this name.
    fn name(&self, name: &str) {
        let file = File::open(self.folder.join(name)).unwrap();
        journal::note(&file, || Change::Name(name.into())).unwrap();
    }

    fn unname(&self, name: &str) {
        let file = File::open(self.folder.join(name)).unwrap();
        journal::note(&file, || Change::Unname(name.into())).unwrap();
        fs::remove_file(self.folder.join(name)).unwrap();
    }

    /// Everything that was written is in the files now.
    fn mark(&mut self) {
        self.marks.push(journal::len());
    }

    /// One request; also one that fails may have done its work.
    fn request(
        disk: &Stack,
        random: &mut Random,
        next: &mut u64,
        history: &mut [Vec<(usize, u64)>],
    ) -> io::Result<bool> {
        let first = random.below(SECTORS);
        let most = if random.below(4) == 0 { 400 } else { 16 };
        let count = 1 + random.below((SECTORS - first).min(most));
        let (at, len, began) = (first * 512, count * 512, journal::len());
        let mut wrote = |value: &dyn Fn(u64) -> u64| {
            for sector in first..first + count {
                history[sector as usize].push((began, value(sector)));
            }
        };
        match random.below(10) {
            0..=4 => {
                let from = *next;
                *next += count;
                let value = |sector: u64| from + sector - first;
                wrote(&value);
                let data: Vec<u8> = (first..first + count)
                    .flat_map(|sector| value(sector).to_le_bytes().repeat(64))
                    .collect();
                crate::write(disk, &data, at)?;
            }
            5 => {
                wrote(&|_| 0);
                disk.write_zeroes(at, len, random.below(2) == 0)?;
            }
            6 => {
                disk.discard(at, len)?;
                let now = read(disk, at, len)?;
                wrote(&|sector| now[(sector - first) as usize]);
            }
            7 => {
                disk.flush()?;
                return Ok(true);
            }
            _ => {
                let now = read(disk, at, len)?;
                for (sector, now) in (first..).zip(now) {
                    assert_eq!(now, history[sector as usize].last().unwrap().1, "sector {sector}");
                }
            }
        }
        Ok(false)
    }

    fn work(&mut self, requests: u64) {
        for _ in 0..requests {
            if Self::request(&self.disk, &mut self.random, &mut self.next, &mut self.history).unwrap() {
                self.mark();
            }
        }
    }

    /// A new layer, as pools make it.
    fn freeze(&mut self) {
        let raw = self.folder.join("disk.raw").exists();
        let (old, format) = if raw { ("disk.raw", Format::Raw) } else { ("disk.qcow2", Format::Qcow2) };
        let layer = old.replace("disk", &format!("layer-{}", journal::len()));
        let at = |name: &str| self.folder.join(name);
        qcow2::create_layer(&at("new"), &layer, format, SECTORS * 512).unwrap();
        fs::hard_link(at(old), at(&layer)).unwrap();
        self.name(&layer);
        fs::rename(at("new"), at("disk.qcow2")).unwrap();
        self.name("disk.qcow2");
        if raw {
            self.unname("disk.raw");
        }
        let file = File::options().read(true).write(true).open(at("disk.qcow2")).unwrap();
        self.disk.switch(file).unwrap();
        self.layers.push(layer);
        self.mark();
    }

    /// Takes layers up while requests go on.
    fn pull(&mut self, count: usize) {
        let Self { disk, random, next, history, marks, .. } = self;
        disk.pull(count, |_, _| {
            for _ in 0..3 {
                if Self::request(disk, random, next, history).unwrap() {
                    marks.push(journal::len());
                }
            }
            true
        })
        .unwrap();
        // Those above first: what is left must have what it is based on.
        for layer in self.layers.split_off(self.layers.len() - count).iter().rev() {
            self.unname(layer);
        }
    }

    /// What may be in a sector after the first `cut` changes of files.
    fn may_be(&self, sector: usize, cut: usize) -> Vec<u64> {
        let mark = self.marks.iter().copied().filter(|mark| *mark <= cut).max().unwrap_or(0);
        let history = &self.history[sector];
        let kept = history.iter().rev().find(|(began, _)| *began < mark).unwrap_or(&history[0]);
        let later = history.iter().filter(|(began, _)| (mark..=cut).contains(began));
        [kept].into_iter().chain(later).map(|(_, value)| *value).collect()
    }
}

/// The numbers in sectors.
fn read(disk: &dyn Disk, at: u64, len: u64) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; len as usize];
    crate::read(disk, &mut bytes, at)?;
    Ok(bytes
        .chunks(512)
        .map(|sector| {
            let words = sector.as_chunks::<8>().0;
            assert!(words.iter().all(|word| *word == words[0]), "a sector is torn");
            u64::from_le_bytes(words[0])
        })
        .collect())
}

/// Makes the files that there are after these changes.
fn replay(records: &[Record], folder: &Path) {
    let mut files = HashMap::<u64, Vec<u8>>::new();
    let mut names = HashMap::<&str, u64>::new();
    for Record { inode, change } in records {
        let file = files.entry(*inode).or_default();
        match change {
            Change::Write { offset, bytes } => {
                let (at, end) = (*offset as usize, *offset as usize + bytes.len());
                file.resize(file.len().max(end), 0);
                file[at..end].copy_from_slice(bytes);
            }
            Change::Zero { offset, len, grows } => {
                let end = (offset + len) as usize;
                file.resize(file.len().max(if *grows { end } else { 0 }), 0);
                let end = end.min(file.len());
                file[(*offset as usize).min(end)..end].fill(0);
            }
            Change::Length(len) => file.resize(*len as usize, 0),
            Change::Sync => {}
            Change::Name(name) => drop(names.insert(name, *inode)),
            Change::Unname(name) => drop(names.remove(name.as_str())),
        }
    }
    for (name, inode) in names {
        fs::write(folder.join(name), &files[&inode]).unwrap();
    }
}

/// Whether QEMU finds all images in a folder whole, but for clusters that nobody uses, once they were opened to be written.
fn check_images(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with("qcow2") {
            continue;
        }
        drop(Stack::open(&path, Format::Qcow2, false).unwrap());
        let Ok(output) = Command::new("qemu-img").args(["check", "-q"]).arg(&path).output() else { return };
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}: {text}", path.display());
    }
}

fn open(folder: &Path) -> Stack {
    let qcow2 = folder.join("disk.qcow2");
    if qcow2.exists() {
        Stack::open(&qcow2, Format::Qcow2, false).unwrap()
    } else {
        Stack::open(&folder.join("disk.raw"), Format::Raw, false).unwrap()
    }
}

/// Requests, new layers and layers that go, each several times.
fn live(guest: &mut Guest) {
    for round in 0..3 {
        for _ in 0..3 {
            guest.work(25);
            guest.freeze();
        }
        guest.work(25);
        guest.pull(if round == 1 { guest.layers.len() } else { 2 });
        guest.work(10);
    }
}

/// TESSERA_FUZZ_SEED chooses the first life of a disk, TESSERA_FUZZ_CASES how many moments of each are looked at.
#[test]
fn a_process_that_is_killed_at_any_moment_leaves_whole_images_with_all_that_was_flushed() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let (first, cases) =
        (number("TESSERA_FUZZ_SEED").unwrap_or(1), number("TESSERA_FUZZ_CASES").unwrap_or(25));
    for (seed, format) in [(first, Format::Raw), (first + 1, Format::Qcow2)] {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(folder.path(), format, seed);
        live(&mut guest);
        let (first, records) = (guest.marks[0] + 1, journal::end());
        for _ in 0..cases {
            let cut = first + guest.random.below((records.len() - first) as u64 + 1) as usize;
            let after = tempfile::tempdir().unwrap();
            replay(&records[..cut], after.path());
            let disk = open(after.path());
            let now = read(&disk, 0, SECTORS * 512).unwrap();
            for (sector, now) in now.iter().enumerate() {
                let may = guest.may_be(sector, cut);
                assert!(
                    may.contains(now),
                    "sector {sector} is {now} after {cut} changes of life {seed}, not of {may:?}"
                );
            }
            drop(disk);
            check_images(after.path());
        }
    }
}

#[test]
fn the_new_base_is_named_when_all_is_durable_and_not_before() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Raw, 3);
    for _ in 0..3 {
        guest.work(30);
        guest.freeze();
    }
    guest.work(30);
    let before = journal::len();
    let top = fs::metadata(folder.path().join("disk.qcow2")).unwrap().ino();
    guest.disk.pull(2, |_, _| true).unwrap();
    let records = journal::end();
    let names = |change: &Change| matches!(change, Change::Write { offset: 8, .. });
    let entered = before + records[before..].iter().position(|record| names(&record.change)).unwrap();
    let last = records[..entered].iter().rev().find(|record| record.inode == top);
    assert!(matches!(last.unwrap().change, Change::Sync), "{last:?}");
    assert!(matches!(records.last().unwrap().change, Change::Sync), "and durable itself when it is done");
    assert_eq!(records.len(), entered + 2);
}

#[test]
fn a_host_without_room_costs_no_more_than_what_was_being_written() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Qcow2, 4);
    for round in 0..60 {
        if guest.layers.len() < 3 {
            guest.work(10);
            guest.freeze();
        }
        guest.work(5);
        journal::fail_after(Some(guest.random.below(40) as usize));
        let Guest { disk, random, next, history, layers, .. } = &mut guest;
        let pulled = disk.pull(layers.len().min(2), |_, _| {
            let _ = Guest::request(disk, random, next, history);
            true
        });
        if round % 2 == 0 {
            let _ = Guest::request(disk, random, next, history);
            let _ = disk.flush();
        }
        journal::fail_after(None);
        match pulled {
            Ok(()) => layers.truncate(layers.len() - layers.len().min(2)),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}"),
        }
        assert_eq!(disk.layers(), layers.len());
        // What failed may be there, or in part, or not.
        let now = read(disk, 0, SECTORS * 512).unwrap();
        for (sector, now) in now.iter().enumerate() {
            let values = &mut history[sector];
            assert!(values.iter().any(|(_, value)| value == now), "sector {sector} in round {round}");
            *values = vec![(0, *now)];
        }
    }
    guest.disk.flush().unwrap();
    let want: Vec<u64> = guest.history.iter().map(|values| values.last().unwrap().1).collect();
    drop(guest);
    journal::end();
    check_images(folder.path());
    assert!(read(&open(folder.path()), 0, SECTORS * 512).unwrap() == want);
}
