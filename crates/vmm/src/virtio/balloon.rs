//! The memory balloon (section 5.5): gives memory that the guest does not need back to the host. The guest is asked for a number of
//! pages and hands them over; besides, it reports pages that are free, and they go back by themselves. Either way the guest finds
//! something else there when it uses them again, and the host has them until then.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_memory::Bytes;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::queue::AtOnce;
use super::{
    Activation, ActiveQueue, Chain, Device, DeviceState, Health, QueueBroken, RestoreError, pieces,
    read_slice,
};
use crate::memory::{GuestMemory, Ram};
use crate::precedence::Precedence;
use crate::reactor::{Prompt, Source};

const QUEUE_SIZE: u16 = 128;
/// Bytes of the pages that are counted here, whatever the guest's are.
pub const PAGE: u64 = 4096;
/// The most requests of a queue before others on the device thread have their turn.
const BUDGET: usize = 32;
/// The most numbers of pages that one request is looked at for: Linux sends 256.
const MOST_PAGES: usize = 4096;
/// The most statistics that are kept.
const MOST_STATISTICS: usize = 32;

/// The queues. All are there whether the driver uses them or not, so that their numbers are always the same: drivers count only those
/// that are offered.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const HINTS: usize = 3;
const REPORTS: usize = 4;

mod feature {
    pub const STATISTICS: u64 = 1 << 1;
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub const HINTS: u64 = 1 << 3;
    pub const REPORTING: u64 = 1 << 5;
}

/// What the guest says of its memory (section 5.5.6.3). What it does not say is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMemoryStats {
    /// Bytes that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes that nothing is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// Bytes that programs could have without others being written out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// Bytes of files that it keeps because it has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caches: Option<u64>,
    /// Bytes that it has read from its swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swapped_in: Option<u64>,
    /// Bytes that it has written to its swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swapped_out: Option<u64>,
    /// Page faults for which it had to wait for a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// How often it had to end a program because memory was short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

/// How large a balloon is, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonSize {
    /// What the guest is to hand over.
    pub target: u64,
    /// What of that is for a pool.
    pub pooled: u64,
    /// What of that stands in for memory that is still plugged in and should not be.
    pub standing_in: u64,
    /// What it says it has handed over.
    pub actual: u64,
}

impl BalloonState {
    /// Makes a part of the target so many pages, and leaves the others.
    fn change(&mut self, part: impl Fn(&mut Self) -> &mut u32, pages: u32) {
        let before = std::mem::replace(part(self), pages);
        self.target = self.target.saturating_sub(before).saturating_add(pages);
    }
}

/// So many bytes in whole pages.
fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE).unwrap_or(u32::MAX)
}

/// What is saved of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages that it is to hold.
    pub target: u32,
    /// How many of these a pool of memory wants for others: they are no change of what the guest has.
    #[serde(default)]
    pub pooled: u32,
    /// How many stand in for memory that is still plugged in and should not be.
    #[serde(default)]
    pub standing_in: u32,
    /// Pages that the driver says it holds.
    pub actual: u32,
}

impl BalloonState {
    /// The queue by which it gets what it lacks for good; a pool has what it wants later.
    fn lacks(&self) -> Option<usize> {
        (self.actual < self.target.saturating_sub(self.pooled)).then_some(INFLATE)
    }

    /// The queue by which what is too much leaves it.
    fn leaks(&self) -> Option<usize> {
        (self.actual > self.target).then_some(DEFLATE)
    }
}

#[derive(Default)]
struct Shared {
    state: BalloonState,
    statistics: BTreeMap<u16, u64>,
    /// Bytes that reports have given back so far.
    reported: u64,
    /// Whether what is reported is kept all the same.
    keeps_reported: bool,
    /// Tells the driver that the target has changed, while there is a driver.
    health: Option<Health>,
    /// Asks the device thread for new statistics.
    ask: Option<Arc<EventFd>>,
    /// The queue by which it becomes as large as somebody waits for it to be.
    awaited: Option<usize>,
    /// Serve the queues of pages that are handed over and taken back at once, and where that is said.
    prompts: [Option<(Prompt, Arc<AtOnce>)>; 2],
}

/// What is called with how large it is now.
type Changed = Box<dyn Fn(BalloonSize) + Send + Sync>;

/// The balloon from outside.
pub struct Handle {
    shared: Mutex<Shared>,
    /// Is called when the guest has changed its size.
    changed: Mutex<Option<Changed>>,
    /// Which of the guest's processors goes before the others.
    precedence: Arc<Precedence>,
}

impl Handle {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `changed` called, on a vCPU's thread, whenever the guest has changed the balloon's size.
    pub fn on_change(&self, changed: impl Fn(BalloonSize) + Send + Sync + 'static) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(changed));
    }

    /// Asks the guest to hand over so many bytes for good, besides what a pool wants and what stands in.
    pub fn set_own(&self, bytes: u64) {
        self.ask_for(|state| {
            state.target = pages(bytes).saturating_add(state.pooled).saturating_add(state.standing_in);
        });
    }

    /// Asks the guest to hand over so many bytes for a pool, besides what it is to be without for good.
    pub fn set_pooled(&self, bytes: u64) {
        self.ask_for(|state| state.change(|state| &mut state.pooled, pages(bytes)));
    }

    /// Asks the guest to hand over so many bytes in the place of memory that it has not let go of, besides all else.
    pub fn stand_in(&self, bytes: u64) {
        self.ask_for(|state| state.change(|state| &mut state.standing_in, pages(bytes)));
    }

    /// So many bytes are still plugged in and should not be: it stands in for no more than that.
    pub fn stand_in_at_most(&self, bytes: u64) {
        if self.lock().state.standing_in > pages(bytes) {
            self.stand_in(bytes);
        }
    }

    fn ask_for(&self, change: impl FnOnce(&mut BalloonState)) {
        let mut shared = self.lock();
        let before = shared.state.target;
        change(&mut shared.state);
        let BalloonState { target, actual, .. } = shared.state;
        // A guest that took some back when it had none left looks for its target only when it is told of one.
        if let Some(health) = shared.health.as_ref().filter(|_| target != before || target != actual) {
            health.config_changed();
        }
        drop(shared);
        self.urge();
    }

    /// Somebody waits until it is as large as it is to be for good.
    pub fn hurry(&self) {
        let mut shared = self.lock();
        shared.awaited = shared.state.lacks().or(shared.state.leaks());
        drop(shared);
        self.urge();
    }

    /// While somebody waits for it, what is handed over is taken at once, or what is taken back. Not otherwise, and not both: a driver that never has to wait keeps others
    /// from the guest's processors, and moving the balloon's pages takes both queues. Returns whether somebody waits.
    fn urge(&self) -> bool {
        let mut shared = self.lock();
        // It is done once it is large enough, though less is wanted of it then: what goes back for blocks nobody waits for.
        let still = [shared.state.lacks(), shared.state.leaks()];
        shared.awaited = shared.awaited.filter(|queue| still.contains(&Some(*queue)));
        let awaited = shared.awaited;
        for (number, prompt) in shared.prompts.iter().enumerate() {
            if let Some((prompt, at_once)) = prompt {
                *lock(at_once) = (awaited == Some(number)).then(|| prompt.clone());
            }
        }
        drop(shared);
        if awaited.is_none() {
            self.precedence.end();
        }
        awaited.is_some()
    }

    /// Whether the guest drives it.
    pub fn has_driver(&self) -> bool {
        self.lock().health.is_some()
    }

    /// How large it is, and is to be.
    pub fn size(&self) -> BalloonSize {
        let state = self.lock().state.clone();
        let bytes = |pages: u32| u64::from(pages) * PAGE;
        BalloonSize {
            target: bytes(state.target),
            pooled: bytes(state.pooled),
            standing_in: bytes(state.standing_in),
            actual: bytes(state.actual),
        }
    }

    /// Whether what the guest reports as free is given back from now on.
    pub fn set_reporting(&self, gives: bool) {
        self.lock().keeps_reported = !gives;
    }

    /// Bytes that the guest has reported as free so far, each time that it did, and that were given back.
    pub fn reported(&self) -> u64 {
        self.lock().reported
    }

    /// What the guest has said of its memory last; it is asked anew, for the next one who wants to know.
    pub fn statistics(&self) -> GuestMemoryStats {
        let shared = self.lock();
        if let Some(ask) = &shared.ask {
            // A counter that is full asks as well.
            let _ = ask.write(1);
        }
        let one = |tag: u16| shared.statistics.get(&tag).copied();
        GuestMemoryStats {
            swapped_in: one(0),
            swapped_out: one(1),
            major_faults: one(2),
            free: one(4),
            total: one(5),
            available: one(6),
            caches: one(7),
            oom_kills: one(10),
        }
    }
}

/// The balloon.
pub struct Balloon {
    handle: Arc<Handle>,
    ram: Arc<Ram>,
    sources: Vec<Source>,
}

impl Balloon {
    /// An empty balloon for a guest with this memory, and the way to drive it.
    pub fn new(ram: Arc<Ram>, precedence: Arc<Precedence>) -> (Self, Arc<Handle>) {
        let handle = Arc::new(Handle { shared: Mutex::default(), changed: Mutex::default(), precedence });
        (Self { handle: Arc::clone(&handle), ram, sources: Vec::new() }, handle)
    }
}

impl Device for Balloon {
    fn id(&self) -> u16 {
        5
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; REPORTS + 1]
    }

    fn features(&self) -> u64 {
        feature::STATISTICS | feature::DEFLATE_ON_OOM | feature::HINTS | feature::REPORTING
    }

    /// The configuration structure (5.5.4): target, actual, the command for hints, which is always "stop".
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let state = self.handle.lock().state.clone();
        let mut config = [0; 16];
        config[..4].copy_from_slice(&state.target.to_le_bytes());
        config[4..8].copy_from_slice(&state.actual.to_le_bytes());
        read_slice(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let (4, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) else { return };
        self.handle.lock().state.actual = u32::from_le_bytes(bytes);
        self.handle.urge();
        if let Some(changed) = &*self.handle.changed.lock().unwrap_or_else(PoisonError::into_inner) {
            changed(self.handle.size());
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, health, reactor, .. } = activation;
        let ask = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        for (number, mut queue) in queues.into_iter().enumerate().filter_map(|(n, queue)| Some((n, queue?))) {
            let worker = Worker {
                handle: Arc::clone(&self.handle),
                ram: Arc::clone(&self.ram),
                memory: Arc::clone(&memory),
            };
            let (health, kick) = (health.clone(), Arc::clone(&queue.kick));
            if number == STATISTICS {
                // Drivers put a buffer there before they are ready, and say so when nobody listens.
                let _ = kick.write(1);
                let queue = Arc::new(Mutex::new(Statistics { queue, held: None }));
                let (worker, mine) = (Arc::new(worker), Arc::clone(&queue));
                let (other, tired) = (Arc::clone(&worker), health.clone());
                let take = move || hold(&health, || lock(&mine).take(&worker));
                self.sources.push(reactor.on_event(kick, take)?);
                let give = move || hold(&tired, || lock(&queue).give_back(&other));
                self.sources.push(reactor.on_event(Arc::clone(&ask), give)?);
            } else {
                let at_once = Arc::clone(&queue.at_once);
                let serve = move || hold(&health, || worker.serve(number, &mut queue));
                let source = reactor.on_event(kick, serve)?;
                if let Some(prompt) = self.handle.lock().prompts.get_mut(number) {
                    // The driver hands over up to 256 pages and waits until these are taken, before it looks for the next ones.
                    *prompt = Some((source.prompt(), at_once));
                }
                self.sources.push(source);
            }
        }
        let mut shared = self.handle.lock();
        (shared.health, shared.ask) = (Some(health), Some(ask));
        drop(shared);
        self.handle.urge();
        Ok(())
    }

    fn deactivate(&mut self) {
        self.sources.clear();
        let mut shared = self.handle.lock();
        (shared.health, shared.ask, shared.prompts) = (None, None, Default::default());
        shared.awaited = None;
        // Whoever takes the driver's place begins with an empty one.
        shared.state.actual = 0;
        shared.statistics.clear();
        self.handle.precedence.end();
    }

    fn save(&self, _active: bool) -> DeviceState {
        DeviceState::Balloon(self.handle.lock().state.clone())
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Balloon(state) = state else { return Err(RestoreError::Kind) };
        self.handle.lock().state = state.clone();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works unless the device has given up, and has it give up if that fails.
fn hold(health: &Health, work: impl FnOnce() -> Result<(), QueueBroken>) {
    if !health.broken()
        && let Err(error) = work()
    {
        health.give_up(&error);
    }
}

struct Worker {
    handle: Arc<Handle>,
    ram: Arc<Ram>,
    memory: Arc<GuestMemory>,
}

impl Worker {
    fn serve(&self, number: usize, queue: &mut ActiveQueue) -> Result<(), QueueBroken> {
        for turn in 0..BUDGET {
            let Some(chain) = queue.next(&self.memory)? else {
                if turn > 0 {
                    queue.tell(&self.memory);
                }
                return Ok(());
            };
            let head = chain.head_index();
            // Who hands pages over or takes them back while somebody waits goes before the guest's other processors.
            if matches!(number, INFLATE | DEFLATE) && self.handle.urge() {
                self.handle.precedence.take();
            }
            match number {
                INFLATE => self.inflate(chain),
                REPORTS => self.take_reported(chain),
                // Pages that the guest takes back come when it touches them; hints that nobody asked for are nobody's.
                DEFLATE | HINTS => {}
                _ => {}
            }
            queue.give_back(&self.memory, head, 0)?;
        }
        queue.tell(&self.memory);
        // The counter cannot be full, it was read before this call.
        let _ = queue.kick.write(1);
        Ok(())
    }

    /// Pages by their numbers, 32 bits each; neighbours go in one piece.
    fn inflate(&self, chain: Chain) {
        let mut left = MOST_PAGES;
        for descriptor in pieces(chain).filter(|descriptor| !descriptor.is_write_only()) {
            let count = (descriptor.len() as usize / 4).min(left);
            left -= count;
            let mut bytes = vec![0; count * 4];
            if self.memory.read_slice(&mut bytes, descriptor.addr()).is_err() {
                return;
            }
            let mut pages: Vec<u64> = bytes
                .chunks_exact(4)
                .map(|page| u64::from(u32::from_le_bytes([page[0], page[1], page[2], page[3]])))
                .collect();
            pages.sort_unstable();
            for run in pages.chunk_by(|a, b| a + 1 == *b) {
                self.give(run[0] * PAGE, run.len() as u64 * PAGE);
            }
        }
    }

    /// Each descriptor is free memory.
    fn take_reported(&self, chain: Chain) {
        if self.handle.lock().keeps_reported {
            return;
        }
        for descriptor in pieces(chain).filter(|descriptor| descriptor.is_write_only()) {
            let len = u64::from(descriptor.len());
            if self.give(descriptor.addr().0, len) {
                let mut shared = self.handle.lock();
                shared.reported = shared.reported.wrapping_add(len);
            }
        }
    }

    /// Gives whole pages back to the host.
    fn give(&self, start: u64, len: u64) -> bool {
        match self.ram.give_back(start, len) {
            Ok(()) => true,
            // It named something that is no memory, or the host keeps it: nothing is lost.
            Err(error) => {
                tracing::debug!("{len} bytes at {start:#x} are not given back: {error}");
                false
            }
        }
    }
}

/// The queue of statistics: the driver puts them into a buffer, which it gets back when new ones are wanted.
struct Statistics {
    queue: ActiveQueue,
    held: Option<u16>,
}

impl Statistics {
    fn take(&mut self, worker: &Worker) -> Result<(), QueueBroken> {
        if self.held.is_some() {
            return Ok(());
        }
        let Some(chain) = self.queue.next(&worker.memory)? else { return Ok(()) };
        self.held = Some(chain.head_index());
        // Who goes on with this queue elsewhere takes it again.
        self.queue.forget_last();
        let statistics = read_statistics(chain, &worker.memory);
        worker.handle.lock().statistics = statistics;
        Ok(())
    }

    fn give_back(&mut self, worker: &Worker) -> Result<(), QueueBroken> {
        let Some(head) = self.held.take() else { return Ok(()) };
        self.queue.give_back(&worker.memory, head, 0)?;
        self.queue.tell(&worker.memory);
        self.take(worker)
    }
}

/// A tag of 16 bits and a value of 64, packed, for each.
fn read_statistics(chain: Chain, memory: &GuestMemory) -> BTreeMap<u16, u64> {
    let mut bytes = Vec::new();
    for descriptor in pieces(chain).filter(|descriptor| !descriptor.is_write_only()) {
        let room = (MOST_STATISTICS * 10).saturating_sub(bytes.len());
        let mut part = vec![0; room.min(descriptor.len() as usize)];
        if memory.read_slice(&mut part, descriptor.addr()).is_err() {
            break;
        }
        bytes.extend(part);
    }
    let read = |one: &[u8]| {
        let mut value = [0; 8];
        value.copy_from_slice(&one[2..]);
        (u16::from_le_bytes([one[0], one[1]]), u64::from_le_bytes(value))
    };
    bytes.chunks_exact(10).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Reactor;

    #[test]
    fn pages_are_taken_at_once_while_somebody_waits_for_them_and_not_otherwise() {
        let reactor = Reactor::start("devices").unwrap();
        let event = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).unwrap());
        let source = reactor.handle().on_event(event, || {}).unwrap();
        let handle =
            Handle { shared: Mutex::default(), changed: Mutex::default(), precedence: Arc::default() };
        let at_once = Arc::new(AtOnce::default());
        handle.lock().prompts[INFLATE] = Some((source.prompt(), Arc::clone(&at_once)));
        let other = Arc::new(AtOnce::default());
        handle.lock().prompts[DEFLATE] = Some((source.prompt(), Arc::clone(&other)));
        let holds = |pages: u32| {
            handle.lock().state.actual = pages;
            handle.urge();
            [lock(&at_once).is_some(), lock(&other).is_some()]
        };
        handle.set_pooled(8 * PAGE);
        assert_eq!(holds(0), [false, false], "nobody waits for what a pool wants");
        handle.stand_in(4 * PAGE);
        handle.hurry();
        assert_eq!(holds(3), [true, false]);
        assert_eq!(holds(4), [false, false], "the rest is a pool's");
        assert_eq!(holds(3), [false, false], "nobody waits when the guest takes back what it needs");
        handle.hurry();
        assert_eq!(holds(3), [true, false]);
        handle.lock().state.actual = 12;
        handle.stand_in_at_most(0);
        assert_eq!(holds(12), [false, false], "nobody waits for what it gets back for blocks");
        handle.hurry();
        assert_eq!(holds(10), [false, true]);
        assert_eq!(holds(8), [false, false], "it has all");
    }
}
