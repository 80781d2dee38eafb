//! What a machine's process and the daemon know of one another without asking: a piece of memory that both have mapped, of 64-bit words that are read
//! and written whole. A thousand guests can be looked at four times a second that way, and one that does nothing is not woken by it.
//!
//! The daemon makes it, seals its length and hands it over; each of the two believes of it no more than it would of a message.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::machine::MOST_PROCESSORS;

/// How long it is, bytes.
pub const SIZE: usize = 16 << 10;

/// Where words of [flows](crate::flows) begin, and go on to the end.
pub(crate) const FLOWS: usize = 1024;

/// In this time a guest whose processors keep to a limit has its share once.
pub const LIMIT_WINDOW: Duration = Duration::from_millis(10);

/// Words of a processor.
const OF_PROCESSOR: usize = 3;
/// For how long it has been halted, ns, but for the halt that it is in.
const HALTED: usize = 0;
/// Since when it is halted, by the host's monotonic clock, ns; 0 while it is not.
const SINCE: usize = 1;
/// Whether it says that: engines in the kernel halt out of our sight.
const TOLD: usize = 2;

/// The time that all requests of all disks took together, ns.
const DISKS_BUSY: usize = MOST_PROCESSORS as usize * OF_PROCESSOR;
/// How long a processor runs before it lets others of the host have their turn, ns; 0: as long as the kernel lets it. Only the daemon writes it.
const TURN: usize = DISKS_BUSY + 1;
/// How much processor time the machine's process may take a second, ns; 0: as much as the kernel lets it. Only the daemon writes it.
const LIMIT: usize = TURN + 1;
/// For how long a processor has kept still for the sake of that limit, ns: a word of each processor.
const KEPT: usize = 768;
/// How its processors [look](Looks) whether they have reached it; 0 if they do not.
const LOOKS: usize = KEPT + MOST_PROCESSORS as usize;

const _: () = assert!(LIMIT < KEPT && LOOKS < FLOWS);

/// The memory as one of the two has mapped it.
#[derive(Debug)]
pub struct Page(MmapRegion);

impl Page {
    /// New memory, all zero, and the file to hand over.
    ///
    /// # Errors
    /// If the host has no more memory or descriptors.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("figures", flags)?;
        ftruncate(&file, SIZE as u64)?;
        // Whoever could make it shorter could end the other one: what is mapped beyond the end of a file is a bus error.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::open(file.try_clone()?)?, file))
    }

    /// Memory that was handed over.
    ///
    /// # Errors
    /// If it cannot be mapped, or is too short.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        if file.metadata()?.len() < SIZE as u64 {
            return Err(io::Error::other(format!("the figures' memory has {SIZE} bytes")));
        }
        MmapRegion::from_file(FileOffset::new(file, 0), SIZE).map(Self).map_err(io::Error::other)
    }

    /// Memory of one's own, until somebody hands some over.
    fn own() -> io::Result<Self> {
        MmapRegion::new(SIZE).map(Self).map_err(io::Error::other)
    }

    /// Word number `index`.
    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.0.get_atomic_ref(index * size_of::<u64>()).ok()
    }

    pub(crate) fn get(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// For how long processor `index` has been halted since its machine was made, ns, if its engine says so; `now` is the host's monotonic
    /// clock, ns.
    pub fn halted_ns(&self, index: u32, now: u64) -> Option<u64> {
        let first = index.min(MOST_PROCESSORS - 1) as usize * OF_PROCESSOR;
        if self.get(first + TOLD) == 0 {
            return None;
        }
        // Who reads between the two writes of an end does not see that halt until the next look.
        let halted = self.get(first + HALTED);
        Some(match self.get(first + SINCE) {
            0 => halted,
            since => halted.saturating_add(now.saturating_sub(since)),
        })
    }

    /// Since when all processors that say so have been halted, by the host's monotonic clock, ns, if they are.
    pub fn rests_since(&self) -> Option<u64> {
        let processors = (0..MOST_PROCESSORS as usize).map(|index| index * OF_PROCESSOR);
        let told = processors.filter(|first| self.get(first + TOLD) != 0);
        let since = told.map(|first| self.get(first + SINCE));
        since
            .reduce(|latest, since| if latest == 0 || since == 0 { 0 } else { latest.max(since) })
            .filter(|since| *since > 0)
    }

    /// The time that all requests of all disks took together since the machine was made, ns: two at a time count twice.
    pub fn disks_busy_ns(&self) -> u64 {
        self.get(DISKS_BUSY)
    }

    /// Has processors let others of the host have their turn when they have run for so long. Only where each guest has a control group of its own: the kernel takes a slice from a thread that yields,
    /// for the good of others of its group.
    pub fn set_turn(&self, length: Duration) {
        if let Some(word) = self.word(TURN) {
            word.store(length.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// How long that is, if there are turns.
    pub fn turn(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.get(TURN))).filter(|turn| !turn.is_zero())
    }

    /// Has processors keep to a limit of so much processor time a second, ns, where [they do](Self::looks); 0 is no limit.
    pub fn set_limit(&self, ns: u64) {
        if let Some(word) = self.word(LIMIT) {
            word.store(ns, Ordering::Relaxed);
        }
    }

    /// How processors look whether a limit is reached, or their turn over; nothing if they do not.
    pub fn looks(&self) -> Option<Looks> {
        [Looks::ByItself, Looks::WhenTold].into_iter().find(|looks| *looks as u64 == self.get(LOOKS))
    }

    /// For how long processor `index` has kept still for the sake of a limit since its machine was made, ns.
    pub fn kept_ns(&self, index: u32) -> u64 {
        self.get(KEPT + index.min(MOST_PROCESSORS - 1) as usize)
    }

    /// The same of all processors together, ns.
    pub fn all_kept_ns(&self) -> u64 {
        (0..MOST_PROCESSORS).fold(0, |sum: u64, index| sum.saturating_add(self.kept_ns(index)))
    }
}

/// The host's monotonic clock, ns: the same in all of its processes.
pub fn now_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

/// A clock that never goes below 0, ns.
pub(crate) fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What a machine's process says.
#[derive(Debug, Clone)]
pub struct Figures(Arc<RwLock<Page>>);

impl Figures {
    /// Figures that nobody else sees yet.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(RwLock::new(Page::own()?))))
    }

    /// Goes on in memory that was handed over, with all that has been said: by this process, and of flows by the last daemon too, whose word
    /// holds for a while. How long turns are, and what the limit is, the one that hands it over says in it.
    pub fn publish(&self, page: Page) {
        let mut place = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for index in (0..SIZE / size_of::<u64>()).filter(|index| ![TURN, LIMIT].contains(index)) {
            if let Some(word) = page.word(index) {
                word.store(place.get(index), Ordering::Relaxed);
            }
        }
        *place = page;
    }

    /// Does something with word number `index`.
    pub(crate) fn with(&self, index: usize, act: impl FnOnce(&AtomicU64)) {
        let page = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = page.word(index) {
            act(word);
        }
    }

    /// Word number `index`.
    fn get(&self, index: usize) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(index)
    }

    /// What processor `index` says of itself.
    pub fn halts(&self, index: u32) -> Halts {
        let first = index.min(MOST_PROCESSORS - 1) as usize * OF_PROCESSOR;
        self.with(first + TOLD, |told| told.store(1, Ordering::Relaxed));
        Halts { figures: self.clone(), first }
    }

    /// How long processors run at a time.
    pub fn turns(&self) -> Turns {
        Turns(self.clone())
    }

    /// The limit that processor `index` keeps to, for which it looks so, and where it says how long that took.
    pub fn limits(&self, index: u32, how: Looks) -> Limits {
        self.with(LOOKS, |looks| looks.store(how as u64, Ordering::Relaxed));
        Limits { figures: self.clone(), kept: KEPT + index.min(MOST_PROCESSORS - 1) as usize }
    }

    /// A request of a disk took so long, ns.
    pub fn disk_took(&self, ns: u64) {
        self.with(DISKS_BUSY, |busy| _ = busy.fetch_add(ns, Ordering::Relaxed));
    }
}

/// Counts for how long a processor is halted.
#[derive(Debug)]
pub struct Halts {
    figures: Figures,
    first: usize,
}

impl Halts {
    /// It is halted for as long as `wait` takes.
    pub fn during(&self, wait: impl FnOnce()) {
        let begin = now_ns();
        self.figures.with(self.first + SINCE, |since| since.store(begin, Ordering::Relaxed));
        wait();
        self.figures.with(self.first + SINCE, |since| since.store(0, Ordering::Relaxed));
        let took = now_ns().saturating_sub(begin);
        self.figures.with(self.first + HALTED, |halted| _ = halted.fetch_add(took, Ordering::Relaxed));
    }
}

/// How long processors run before others of the host have their turn.
#[derive(Debug)]
pub struct Turns(Figures);

impl Turns {
    /// That, if the daemon wants them to.
    pub fn length(&self) -> Option<Duration> {
        let length = self.0.get(TURN);
        (length > 0).then_some(Duration::from_nanos(length))
    }
}

/// How a processor comes to look whether it is to keep still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Looks {
    /// Every now and then.
    ByItself = 1,
    /// When its thread has the signal SIGIO: it is in the guest for as long as nobody interrupts it.
    WhenTold = 2,
}

/// A limit that a processor keeps to.
#[derive(Debug)]
pub struct Limits {
    figures: Figures,
    /// Its word.
    kept: usize,
}

impl Limits {
    /// How much processor time its machine's process may take a second, ns, if the daemon says so.
    pub fn rate(&self) -> Option<u64> {
        let rate = self.figures.get(LIMIT);
        (rate > 0).then_some(rate)
    }

    /// It kept still for so long.
    pub fn kept(&self, time: Duration) {
        self.figures.with(self.kept, |kept| _ = kept.fetch_add(time.as_nanos() as u64, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_halt_is_seen_while_it_lasts_and_afterwards() {
        let figures = Figures::new().unwrap();
        let (page, file) = Page::create().unwrap();
        figures.halts(3).during(|| std::thread::sleep(Duration::from_millis(2)));
        figures.publish(Page::open(file).unwrap());
        let before = page.halted_ns(3, now_ns()).unwrap();
        let halted_ns = |now| page.halted_ns(3, now).unwrap();
        assert!(before >= 2_000_000, "what was said before it was handed over is in it, too");
        let (end, ended) = mpsc::channel::<()>();
        let (begin, began) = mpsc::channel();
        let halts = figures.halts(3);
        let halted = std::thread::spawn(move || {
            halts.during(|| {
                begin.send(()).unwrap();
                let _ = ended.recv();
            });
        });
        began.recv().unwrap();
        let now = now_ns();
        assert!(halted_ns(now + 5_000_000_000) >= before + 5_000_000_000);
        let since = page.rests_since().unwrap();
        assert!(since <= now + 1_000_000_000 && since > 0);
        assert!(halted_ns(now + 9_000_000_000) > halted_ns(now + 5_000_000_000));
        drop(end);
        halted.join().unwrap();
        assert_eq!(halted_ns(now), halted_ns(now + 5_000_000_000));
        assert_eq!(page.rests_since(), None);
        assert_eq!(page.halted_ns(2, now), None, "nobody says it of that one");
        figures.disk_took(7);
        assert_eq!(page.disks_busy_ns(), 7);
    }

    #[test]
    fn all_processors_have_their_words_and_nobody_can_make_it_shorter() {
        let (page, file) = Page::create().unwrap();
        assert_eq!(page.halted_ns(MOST_PROCESSORS - 1, 0), None);
        assert!(page.word(TURN).is_some());
        assert!(page.word(SIZE / size_of::<u64>()).is_none());
        assert!(ftruncate(&file, 4096).is_err() && ftruncate(&file, 1 << 20).is_err());
        let short = memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
        assert!(Page::open(short).is_err());
    }

    #[test]
    fn a_limit_is_the_daemons_word_and_what_was_kept_the_processes() {
        let (figures, (page, file)) = (Figures::new().unwrap(), Page::create().unwrap());
        assert_eq!(page.looks(), None);
        let limits = figures.limits(MOST_PROCESSORS - 1, Looks::WhenTold);
        limits.kept(Duration::from_nanos(7));
        page.set_limit(50_000_000);
        figures.publish(Page::open(file).unwrap());
        assert_eq!(limits.rate(), Some(50_000_000));
        assert_eq!(page.looks(), Some(Looks::WhenTold));
        limits.kept(Duration::from_nanos(2));
        figures.limits(0, Looks::WhenTold).kept(Duration::from_nanos(1));
        assert_eq!((page.kept_ns(MOST_PROCESSORS - 1), page.kept_ns(1), page.all_kept_ns()), (9, 0, 10));
        let (next, file) = Page::create().unwrap();
        figures.publish(Page::open(file).unwrap());
        assert_eq!((limits.rate(), next.all_kept_ns()), (None, 10), "another daemon says it anew");
    }
}
