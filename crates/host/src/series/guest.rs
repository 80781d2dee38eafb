//! What one guest that runs uses.

use std::io;
use std::path::Path;
use std::time::Instant;

use api::{Id, Stats, VmState};

use super::bucket::Bucket;
use super::look::{Look, Seen};
use super::ring::Ring;
use super::track::Track;
use super::{FLUSH, FLUSH_ALL, Kind, LONGEST, kind, rate, seconds, tell};

/// A guest's series: what the kernel says, and what the guest's process says of its disks and cards.
pub const SERIES: [Kind; 10] = [
    kind("cpu_run", "processors"),
    kind("cpu_ready", "processors"),
    kind("cpu_wait", "processors"),
    kind("memory", "bytes"),
    kind("disk_read", "bytes/s"),
    kind("disk_written", "bytes/s"),
    kind("disk_reads", "1/s"),
    kind("disk_writes", "1/s"),
    kind("net_received", "bytes/s"),
    kind("net_sent", "bytes/s"),
];

/// Which series are measured together.
const TRACKS: [usize; 2] = [4, 6];

/// So many guests at most are asked each second what their disks and cards did: an answer costs the two processes a tenth of a millisecond.
const ASKED: usize = 10;
/// How often a guest is asked where there are few.
const OFTEN: u32 = 5;
/// How often it is asked where there are very many.
const SELDOM: u32 = 60;

/// What its disks and cards have done since it was started: counters that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Devices([u64; 6]);

impl Devices {
    /// What a guest's process has said.
    pub fn of(stats: &Stats) -> Self {
        let disks = |count: fn(&api::DiskStats) -> u64| stats.disks.iter().map(count).sum();
        let cards = |count: fn(&api::NicStats) -> u64| stats.nics.iter().map(count).sum();
        Self([
            disks(|disk| disk.read_bytes),
            disks(|disk| disk.written_bytes),
            disks(|disk| disk.reads),
            disks(|disk| disk.writes),
            cards(|nic| nic.received_bytes),
            cards(|nic| nic.sent_bytes),
        ])
    }
}

/// How long a guest is not asked again, s, where so many run.
pub fn patience(guests: usize) -> u32 {
    (guests.div_ceil(ASKED) as u32).clamp(OFTEN, SELDOM)
}

/// A guest that runs.
pub struct Guest {
    state: VmState,
    pid: u32,
    look: Look,
    ring: Ring,
    tracks: [Track; 2],
    seen: Option<(Instant, u32, Seen)>,
    noted: Option<(Instant, u32, Devices)>,
    /// When it was asked last.
    asked: u32,
    /// By how many seconds its work is put off, so that not all guests' is done at once.
    offset: u32,
}

impl Guest {
    /// Measures guest `id`, which runs in this process, and keeps what it finds in a file.
    ///
    /// # Errors
    /// If the process is gone, or the file cannot be used.
    pub fn begin(path: &Path, id: Id, pid: u32, state: VmState) -> io::Result<Self> {
        let look = Look::at(pid)?;
        let ring = Ring::open(path, &TRACKS)?;
        // The last bytes of an id are random.
        let offset = u32::from(id.bytes()[15]);
        let tracks = [Track::new(0), Track::new(1)];
        Ok(Self { state, pid, look, ring, tracks, seen: None, noted: None, asked: 0, offset })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// It is in this state now.
    pub fn is(&mut self, state: VmState) {
        self.state = state;
        // Its processors may be there only now.
        self.look.again();
    }

    /// Looks at it. Says whether it should be asked what its disks and cards did: it has not been for `patience` seconds.
    pub fn sample(&mut self, now: u32, patience: u32) -> bool {
        if let Some(seen) = self.look() {
            let moment = Instant::now();
            let last = self.seen.replace((moment, now, seen));
            if let Some((before, second, then)) = last {
                let passed = moment.duration_since(before).as_secs_f64();
                let values = self.values(&then, &seen, passed);
                for second in seconds(second, now, LONGEST) {
                    tell(self.tracks[0].add(&self.ring, second, &values));
                }
            }
        }
        let turn = now.wrapping_add(self.offset);
        if turn.is_multiple_of(FLUSH) {
            self.flush(turn.is_multiple_of(FLUSH_ALL));
        }
        let known = self.noted.map_or(0, |(_, second, _)| second).max(self.asked);
        // At first all are asked in their turn, and from then on each has its own.
        let due = now.abs_diff(known) >= patience && (known > 0 || turn.is_multiple_of(patience));
        if due {
            self.asked = now;
            self.look.again();
        }
        due
    }

    fn look(&mut self) -> Option<Seen> {
        let seen = self.look.now().or_else(|_| {
            // A processor may have been pulled out.
            self.look.again();
            self.look.now()
        });
        seen.ok()
    }

    fn values(&self, then: &Seen, now: &Seen, passed: f64) -> [Option<f64>; 4] {
        let same = then.processors == now.processors && now.processors > 0;
        let part = |then, now| rate(then, now, passed).filter(|_| same).map(|ns| ns / 1e9);
        let (run, ready) = (part(then.run, now.run), part(then.ready, now.ready));
        // A guest that stands still waits for nothing.
        let there = if self.state == VmState::Paused { 0.0 } else { f64::from(now.processors) };
        let wait = run.zip(ready).map(|(run, ready)| (there - run - ready).max(0.0));
        [run, ready, wait, Some(now.resident as f64)]
    }

    /// Takes what its process has said; more than once a second it tells nothing new.
    pub fn note(&mut self, devices: Devices, now: u32) {
        let moment = Instant::now();
        if self.noted.is_some_and(|(_, second, _)| second == now) {
            return;
        }
        let Some((before, second, then)) = self.noted.replace((moment, now, devices)) else { return };
        let passed = moment.duration_since(before).as_secs_f64();
        // Where a disk was pulled out, the counters began anew.
        let mut values = [None; 6];
        if devices.0.iter().zip(then.0).all(|(now, then)| *now >= then) {
            values = std::array::from_fn(|n| rate(then.0[n], devices.0[n], passed));
        }
        for second in seconds(second, now, 2 * SELDOM) {
            tell(self.tracks[1].add(&self.ring, second, &values));
        }
    }

    fn flush(&mut self, all: bool) {
        for track in &mut self.tracks {
            tell(track.flush(&self.ring, all));
        }
    }

    /// Writes everything that is known of it.
    pub fn end(&mut self) {
        self.flush(true);
    }

    /// What is known of the spans from `first` to `last` of a level.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
        let tracks = [0, 1].map(|track| self.tracks[track].read(&self.ring, level, first, last));
        let [kernel, devices] = tracks;
        Ok(joined(kernel?, devices?))
    }
}

/// The same of a guest that does not run.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
    let Some(ring) = Ring::find(path, &TRACKS)? else { return Ok(Vec::new()) };
    Ok(joined(ring.read(0, level, first, last)?, ring.read(1, level, first, last)?))
}

/// Spans with the series of both tracks.
fn joined(kernel: Vec<Bucket>, devices: Vec<Bucket>) -> Vec<Bucket> {
    let mut all: std::collections::BTreeMap<u32, Bucket> = std::collections::BTreeMap::new();
    for (from, track) in [(0, kernel), (TRACKS[0], devices)] {
        for bucket in track {
            let whole =
                all.entry(bucket.number).or_insert_with(|| Bucket::empty(bucket.number, SERIES.len()));
            whole.of[from..from + bucket.of.len()].copy_from_slice(&bucket.of);
        }
    }
    all.into_values().collect()
}
