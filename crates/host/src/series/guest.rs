//! What one guest that runs uses.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use api::{Id, Stats, VmState};
use vmm::figures::Page;

use super::bucket::Bucket;
use super::look::{Look, Seen};
use super::processors::Processors;
use super::ring::Ring;
use super::stack::{self, PARTS};
use super::track::Track;
use super::{FLUSH, FLUSH_ALL, Kind, LONGEST, kind, rate, seconds, tell};
use crate::shares::Ledger;

/// A guest's series: what the kernel and its process say of its processors, what its process says of its disks and cards, and what
/// has become of what it is promised.
pub const SERIES: [Kind; 19] = [
    kind("cpu_run", "processors"),
    kind("cpu_ready", "processors"),
    kind("cpu_wait", "processors"),
    kind("memory", "bytes"),
    kind("cpu_limited", "processors"),
    kind("cpu_memory", "processors"),
    kind("cpu_io", "processors"),
    kind("cpu_halted", "processors"),
    kind("disk_read", "bytes/s"),
    kind("disk_written", "bytes/s"),
    kind("disk_reads", "1/s"),
    kind("disk_writes", "1/s"),
    kind("net_received", "bytes/s"),
    kind("net_sent", "bytes/s"),
    kind("cpu_promised", "processors"),
    kind("cpu_asked", "processors"),
    kind("cpu_due", "processors"),
    kind("cpu_delivered", "processors"),
    kind("cpu_short", "processors"),
];

/// Which series are measured together.
const TRACKS: [usize; 3] = [8, 6, 5];

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

/// What is said of a guest that runs besides what the kernel says.
#[derive(Debug, Default)]
pub struct Said {
    /// What its process says.
    pub figures: Option<Arc<Page>>,
    /// What has become of what it is promised.
    pub ledger: Option<Ledger>,
}

/// What a guest has done by some time.
struct Moment {
    at: Instant,
    second: u32,
    seen: Seen,
    /// Its disks have worked so long, and it has been throttled so long, ns.
    disks: u64,
    throttled: u64,
}

/// The series of its processors and its memory.
fn values(processors: &[(u32, [f64; PARTS])], resident: u64) -> [Option<f64>; TRACKS[0]] {
    let mut values = [None; TRACKS[0]];
    if !processors.is_empty() {
        let sum = |part: usize| processors.iter().map(|(_, parts)| parts[part]).sum::<f64>();
        let [run, ready, limited, memory, io, halted] = std::array::from_fn(sum);
        let wait = limited + memory + io + halted;
        values = [run, ready, wait, 0.0, limited, memory, io, halted].map(Some);
    }
    values[3] = Some(resident as f64);
    values
}

/// A guest that runs.
pub struct Guest {
    state: VmState,
    pid: u32,
    look: Look,
    ring: Ring,
    tracks: [Track; 3],
    processors: Processors,
    /// What it had done when it was looked at last.
    last: Option<Moment>,
    noted: Option<(Instant, u32, Devices)>,
    ledger: Option<(u32, Ledger)>,
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
        Ok(Self {
            state,
            pid,
            look,
            ring,
            tracks: [0, 1, 2].map(Track::new),
            processors: Processors::new(path),
            last: None,
            noted: None,
            ledger: None,
            asked: 0,
            offset,
        })
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
    pub fn sample(&mut self, now: u32, patience: u32, said: &Said) -> bool {
        if let Some(seen) = self.look(said.figures.as_deref()) {
            self.add(now, seen, said);
        }
        if let Some(ledger) = said.ledger {
            self.add_receipt(now, ledger);
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

    fn look(&mut self, figures: Option<&Page>) -> Option<Seen> {
        let seen = self.look.now(figures).or_else(|_| {
            // A processor may have been pulled out.
            self.look.again();
            self.look.now(figures)
        });
        seen.ok()
    }

    /// What it did since the last look.
    fn add(&mut self, now: u32, seen: Seen, said: &Said) {
        let after = Moment {
            at: Instant::now(),
            second: now,
            seen,
            disks: said.figures.as_ref().map_or(0, |page| page.disks_busy_ns()),
            throttled: said.ledger.map_or(0, |ledger| ledger.throttled),
        };
        if let Some(before) = self.last.take() {
            let processors = self.processors(&before, &after);
            let values = values(&processors, after.seen.resident);
            for second in seconds(before.second, now, LONGEST) {
                tell(self.tracks[0].add(&self.ring, second, &values));
                self.processors.add(second, &processors);
            }
        }
        self.last = Some(after);
    }

    /// The parts of the time between two looks that each processor spent, by its number; none if they are not the same processors.
    fn processors(&self, before: &Moment, after: &Moment) -> Vec<(u32, [f64; PARTS])> {
        let window = u64::try_from(after.at.duration_since(before.at).as_nanos()).unwrap_or(u64::MAX);
        let (then, now) = (&before.seen.processors, &after.seen.processors);
        let is_same = then.len() == now.len() && then.iter().zip(now).all(|(then, now)| then.0 == now.0);
        if !is_same || window == 0 {
            return Vec::new();
        }
        if self.state == VmState::Paused {
            // It stands still, and waits for nothing.
            return now.iter().map(|(number, _)| (*number, [0.0; PARTS])).collect();
        }
        let pairs: Vec<_> = then.iter().zip(now).map(|(then, now)| (then.1, now.1)).collect();
        let disks = after.disks.saturating_sub(before.disks);
        let throttled = after.throttled.saturating_sub(before.throttled);
        let stacks = stack::stacks(window, &pairs, throttled, disks);
        let parts = stacks.iter().map(|stack| stack.parts().map(|ns| ns as f64 / window as f64));
        now.iter().map(|(number, _)| *number).zip(parts).collect()
    }

    /// What has become of what it is promised since that was told last.
    fn add_receipt(&mut self, now: u32, ledger: Ledger) {
        let Some((second, before)) = self.ledger else {
            self.ledger = Some((now, ledger));
            return;
        };
        // Where nothing was measured anew, what comes next is about this second, too.
        let Some(receipt) = ledger.since(&before) else {
            if ledger.time < before.time {
                self.ledger = Some((now, ledger));
            }
            return;
        };
        self.ledger = Some((now, ledger));
        let values = [receipt.promised, receipt.asked, receipt.due, receipt.got, receipt.short()].map(Some);
        for second in seconds(second, now, LONGEST) {
            tell(self.tracks[2].add(&self.ring, second, &values));
        }
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
        self.processors.flush(all);
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
        let tracks = [0, 1, 2].map(|track| self.tracks[track].read(&self.ring, level, first, last));
        let [processors, devices, receipts] = tracks;
        Ok(joined([processors?, devices?, receipts?]))
    }

    /// The same of one of its processors.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_processor(
        &self,
        number: u32,
        level: usize,
        first: u32,
        last: u32,
    ) -> io::Result<Vec<Bucket>> {
        self.processors.read(number, level, first, last)
    }
}

/// The same of a guest that does not run.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
    let Some(ring) = Ring::find(path, &TRACKS)? else { return Ok(Vec::new()) };
    let [processors, devices, receipts] = [0, 1, 2].map(|track| ring.read(track, level, first, last));
    Ok(joined([processors?, devices?, receipts?]))
}

/// Spans with the series of all tracks.
fn joined(tracks: [Vec<Bucket>; 3]) -> Vec<Bucket> {
    let mut all: BTreeMap<u32, Bucket> = BTreeMap::new();
    let mut from = 0;
    for (track, count) in tracks.into_iter().zip(TRACKS) {
        for bucket in track {
            let whole =
                all.entry(bucket.number).or_insert_with(|| Bucket::empty(bucket.number, SERIES.len()));
            whole.of[from..from + count].copy_from_slice(&bucket.of);
        }
        from += count;
    }
    all.into_values().collect()
}
