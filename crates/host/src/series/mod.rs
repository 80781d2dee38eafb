//! What the host and its guests have used over time: a second of the last hour, ten of the last day, five minutes of the last thirty days.
//!
//! [`sampler`] looks at everything once a second and writes it into one file for the host and one for each guest ([`ring`]). It
//! reads what the kernel says of guests' processes, which costs microseconds; what their disks and cards did only they know, and
//! are asked the less often the more of them there are. For how long their processors were halted they say all the time ([`Figures`]), or KVM does ([`halts`]). Whoever asks them for more tells what they said here, too, so that what somebody
//! looks at is known in more detail.

mod bucket;
mod code;
mod guest;
mod halts;
mod look;
mod processors;
mod ring;
mod sampler;
mod stack;
mod track;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use api::{Id, VmState};

use crate::figures::Figures;
use crate::machine;
use crate::shares::Shares;
#[cfg(test)]
pub use bucket::Spread;
pub use bucket::{Bucket, coarser};
pub use guest::{Devices, SERIES as GUEST_SERIES};
use guest::{Guest, Said};
pub use processors::SERIES as PROCESSOR_SERIES;
pub use ring::LEVELS;
use ring::Ring;
pub use sampler::Sampler;
use track::Track;

/// What a series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What of.
    pub unit: &'static str,
}

const fn kind(name: &'static str, unit: &'static str) -> Kind {
    Kind { name, unit }
}

/// The host's series.
pub const HOST_SERIES: [Kind; 8] = [
    kind("cpu_busy", "processors"),
    kind("cpu_stolen", "processors"),
    kind("memory_used", "bytes"),
    kind("storage_used", "bytes"),
    kind("disk_read", "bytes/s"),
    kind("disk_written", "bytes/s"),
    kind("net_received", "bytes/s"),
    kind("net_sent", "bytes/s"),
];

/// The longest that values of one measurement stand for, seconds: where more time went by, nothing is known of it.
const LONGEST: u32 = 10;
/// How often what was measured is written, s. A daemon that is killed loses no more.
const FLUSH: u32 = 5;
/// How often spans are written that still grow, s.
const FLUSH_ALL: u32 = 60;

/// How long nothing is said of a failure after one was told.
const QUIET: Duration = Duration::from_secs(60);

/// What is and was used.
pub struct Series {
    folder: PathBuf,
    /// The file system whose room is told.
    storage: PathBuf,
    /// What guests' processes say.
    figures: Arc<Figures>,
    /// What guests are promised.
    shares: Arc<Shares>,
    state: Mutex<State>,
}

struct State {
    host: Host,
    /// The guests that run.
    guests: HashMap<Id, Guest>,
}

/// The host, and what it had done when it was looked at last.
struct Host {
    ring: Option<Ring>,
    track: Track,
    last: Option<(Instant, u32, Counters)>,
}

/// What only grows.
#[derive(Clone, Copy)]
struct Counters {
    times: machine::Times,
    disks: machine::Disks,
    traffic: machine::Traffic,
}

/// Seconds since the epoch, for which the daemon's clock has 2106 years.
fn second(time: SystemTime) -> u32 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}

/// What a counter that only grows grew by in each of so many seconds; nothing if it began anew.
fn rate(before: u64, after: u64, seconds: f64) -> Option<f64> {
    Some(after.checked_sub(before)? as f64 / seconds.max(1e-3))
}

/// The seconds after `before` until `now` for which a measurement of now stands.
fn seconds(before: u32, now: u32, most: u32) -> std::ops::RangeInclusive<u32> {
    if before < now && now - before <= most { before + 1..=now } else { now..=now }
}

impl Series {
    /// Goes on in a folder; `storage` is where guests' disks are, `figures` and `shares` say what guests do and are promised. What cannot be
    /// written is told in the log, and nothing else comes of it.
    pub fn open(folder: &Path, storage: &Path, figures: Arc<Figures>, shares: Arc<Shares>) -> Self {
        let opened = Ring::open(&folder.join("host"), &[HOST_SERIES.len()]);
        let ring = opened.map_err(|error| tracing::warn!("{}: {error}", folder.display())).ok();
        let host = Host { ring, track: Track::new(0), last: None };
        let state = Mutex::new(State { host, guests: HashMap::new() });
        Self { folder: folder.to_owned(), storage: storage.to_owned(), figures, shares, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: Id) -> PathBuf {
        self.folder.join(id.to_string())
    }

    /// Removes what is kept of guests that are not among `known`.
    fn sweep(&self, known: &[Id]) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| processors::guest_of(name).parse::<Id>().ok());
            if let Some(id) = id.filter(|id| !known.contains(id)) {
                self.forget(id);
            }
        }
    }

    /// A guest runs in this process, or stands still in it.
    fn runs(&self, id: Id, pid: u32, state: VmState) {
        let mut all = self.state();
        if let Some(guest) = all.guests.get_mut(&id).filter(|guest| guest.pid() == pid) {
            guest.is(state);
            return;
        }
        match Guest::begin(&self.path(id), id, pid, state) {
            Ok(guest) => drop(all.guests.insert(id, guest)),
            // One that has ended already has nothing to be measured.
            Err(error) => tracing::debug!("guest {id} is not measured: {error}"),
        }
    }

    /// A guest does not run any more.
    fn ends(&self, id: Id) {
        let guest = self.state().guests.remove(&id);
        if let Some(mut guest) = guest {
            guest.end();
        }
    }

    /// A guest is gone.
    fn forget(&self, id: Id) {
        self.state().guests.remove(&id);
        processors::forget(&self.path(id));
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} stays behind: {error}", self.path(id).display());
            }
            _ => {}
        }
    }

    /// What a guest's disks and cards have done by now, by what it says.
    pub fn note(&self, id: Id, devices: Devices) {
        if let Some(guest) = self.state().guests.get_mut(&id) {
            guest.note(devices, second(SystemTime::now()));
        }
    }

    /// Looks at everything. Gives the guests that should be asked what their disks and cards did.
    fn sample(&self, now: u32) -> Vec<Id> {
        let ledgers = self.shares.seen(|seen| seen.ledgers.clone());
        let mut state = self.state();
        state.host.sample(&self.storage, now);
        let patience = guest::patience(state.guests.len());
        let mut due = Vec::new();
        for (id, guest) in &mut state.guests {
            let said = Said { figures: self.figures.of(*id), ledger: ledgers.get(id).copied() };
            if guest.sample(now, patience, &said) {
                due.push(*id);
            }
        }
        due
    }

    /// Writes everything that was measured.
    fn close(&self) {
        let mut state = self.state();
        state.host.flush(true);
        for guest in state.guests.values_mut() {
            guest.end();
        }
        state.guests.clear();
    }

    /// What is known of the host in the spans from `first` to `last` of a level.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_host(&self, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
        let state = self.state();
        let Some(ring) = &state.host.ring else { return Ok(Vec::new()) };
        state.host.track.read(ring, level, first, last)
    }

    /// What is known of a guest in the spans from `first` to `last` of a level.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_guest(&self, id: Id, level: usize, first: u32, last: u32) -> io::Result<Vec<Bucket>> {
        let state = self.state();
        match state.guests.get(&id) {
            Some(guest) => guest.read(level, first, last),
            None => guest::read(&self.path(id), level, first, last),
        }
    }

    /// The same of one of its processors.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_processor(
        &self,
        id: Id,
        number: u32,
        level: usize,
        first: u32,
        last: u32,
    ) -> io::Result<Vec<Bucket>> {
        let state = self.state();
        match state.guests.get(&id) {
            Some(guest) => guest.read_processor(number, level, first, last),
            None => processors::read(&self.path(id), number, level, first, last),
        }
    }
}

impl Host {
    fn sample(&mut self, storage: &Path, now: u32) {
        let moment = Instant::now();
        let after = Counters { times: machine::times(), disks: machine::done(), traffic: machine::traffic() };
        let (memory, available) = machine::memory();
        let (room, free) = machine::storage(storage);
        let last = self.last.replace((moment, now, after));
        let Some((then, second, before)) = last else { return };
        let passed = moment.duration_since(then).as_secs_f64();
        let grown = |what: fn(&Counters) -> u64| rate(what(&before), what(&after), passed);
        let values = [
            grown(|of| of.times.busy).map(|ns| ns / 1e9),
            grown(|of| of.times.stolen).map(|ns| ns / 1e9),
            Some(memory.0.saturating_sub(available.0) as f64),
            Some(room.0.saturating_sub(free.0) as f64),
            grown(|of| of.disks.read),
            grown(|of| of.disks.written),
            grown(|of| of.traffic.received),
            grown(|of| of.traffic.sent),
        ];
        let Some(ring) = &self.ring else { return };
        for second in seconds(second, now, LONGEST) {
            tell(self.track.add(ring, second, &values));
        }
        if now.is_multiple_of(FLUSH) {
            self.flush(now.is_multiple_of(FLUSH_ALL));
        }
    }

    fn flush(&mut self, all: bool) {
        if let Some(ring) = &self.ring {
            tell(self.track.flush(ring, all));
        }
    }
}

/// What is measured is worth less than what it is measured of: a failure is told, and no more.
fn tell(done: io::Result<()>) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let Err(error) = done else { return };
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() >= QUIET) {
        *last = Some(Instant::now());
        tracing::warn!("what was measured cannot be kept: {error}");
    }
}
