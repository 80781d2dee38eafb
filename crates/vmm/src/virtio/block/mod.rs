//! The block device (section 5.2).
//!
//! Its requests are done by a [`Crew`]: calls that block, by one thread while they do not, and by more when they do.
//! docs/decisions/0007-disk-threads.md says why not io_uring.

mod request;
mod rereads;
mod room;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use disk::{Disk, SECTOR};
use serde::{Deserialize, Serialize};

use self::request::{Request, Target};
use self::room::Room;
use super::crew::{Calls, Crew, Work};
use super::limit::{Allowance, LaneState, Limit, LimitState, Throttle};
use super::{
    Activation, ActiveQueue, Counter, Device, DeviceState, Health, QueueBroken, RestoreError, read_slice,
};
use crate::figures::Figures;
use crate::memory::GuestMemory;

pub use rereads::Rereads;
pub use room::Unanswered;

const QUEUE_SIZE: u16 = 256;
/// The most data descriptors of a request: ring size less header and status.
const MOST_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of the serial number.
const ID_BYTES: usize = 20;
/// The longest range of one discard or write-zeroes, sectors.
const MOST_DISCARD: u32 = 1 << 22;
/// Sectors of a physical block, as a power of two: pages, which the host's file systems and our layers are made of.
const PHYSICAL_BLOCK: u8 = 3;
/// The most threads of a disk: so many requests wait for the host's disk at once.
const MOST_THREADS: usize = 8;
/// A request that took longer has waited for the host's disk.
const WAITED: Duration = Duration::from_micros(50);
/// How long the driver may wait to hear of a finished request while others follow.
const SOON: Duration = Duration::from_micros(100);

mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MULTI_QUEUE: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// What a disk has done.
#[derive(Debug, Default)]
pub struct Meter {
    /// Reads that were done.
    pub reads: Counter,
    /// Bytes of them.
    pub read_bytes: Counter,
    /// Bytes that were read although the guest would have had them in its memory, had it had all of that for its files, by a sample.
    pub reread_bytes: Counter,
    /// Writes that were done.
    pub writes: Counter,
    /// Bytes of them.
    pub written_bytes: Counter,
    /// Requests that came to nothing, whatever the reason.
    pub failed: Counter,
    /// The time that all requests have taken together, nanoseconds: two at a time count twice.
    pub busy_ns: Counter,
    /// Where it is looked up what is read again, and which of the guest's disks this is.
    rereads: OnceLock<(Arc<Rereads>, u32)>,
    /// Where that is said, too, for all disks together.
    figures: OnceLock<Figures>,
}

impl Meter {
    /// Says it there as well from now on.
    pub fn tell(&self, figures: Figures) {
        // Whoever was told first stays.
        let _ = self.figures.set(figures);
    }

    /// What is read again is looked up there from now on, for one of the guest's disks by this number.
    pub fn remember(&self, rereads: Arc<Rereads>, disk: u32) {
        let _ = self.rereads.set((rereads, disk));
    }

    /// Some bytes have been carried; gives how many of them again.
    fn carry(&self, offset: u64, bytes: u64) -> u64 {
        self.rereads.get().map_or(0, |(rereads, disk)| rereads.carry(*disk, offset, bytes))
    }

    /// A read has been done.
    fn read(&self, offset: u64, bytes: u64) {
        self.reads.add(1);
        self.read_bytes.add(bytes);
        self.reread_bytes.add(self.carry(offset, bytes));
    }

    /// A write has been done.
    fn wrote(&self, offset: u64, bytes: u64) {
        self.writes.add(1);
        self.written_bytes.add(bytes);
        self.carry(offset, bytes);
    }

    /// A request took so long, ns.
    fn took(&self, ns: u64) {
        self.busy_ns.add(ns);
        if let Some(figures) = self.figures.get() {
            figures.disk_took(ns);
        }
    }
}

/// Tells the driver of a disk that its length is another one.
#[derive(Clone, Default)]
pub struct Bell(Arc<Mutex<Option<Health>>>);

impl Bell {
    fn hang(&self, health: Option<Health>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// The length is another one (5.2.5.1). A driver that has not begun reads it when it does.
    pub fn ring(&self) {
        if let Some(health) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            health.config_changed();
        }
    }
}

/// How much a disk may do. A flush and what only takes room away carry no bytes, and a flush or such a request is one operation; of several
/// limits each holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskLimits {
    /// All of it.
    #[serde(default, skip_serializing_if = "Limit::is_none")]
    pub total: Limit,
    /// Reads.
    #[serde(default, skip_serializing_if = "Limit::is_none")]
    pub read: Limit,
    /// Writes, and all that is no read.
    #[serde(default, skip_serializing_if = "Limit::is_none")]
    pub write: Limit,
}

/// The lanes of a disk's limits, as bits.
mod lane {
    pub const TOTAL: u8 = 1;
    pub const READ: u8 = 2;
    pub const WRITE: u8 = 4;
}

impl DiskLimits {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.lanes().iter().all(Limit::is_none)
    }

    /// What is wrong with them, with the field.
    ///
    /// # Errors
    /// If there is something.
    pub fn check(&self) -> Result<(), String> {
        let mut named = ["total", "read", "write"].into_iter().zip(self.lanes());
        named.try_for_each(|(name, limit)| limit.check().map_err(|why| format!("{name}.{why}")))
    }

    fn lanes(&self) -> [Limit; 3] {
        [self.total, self.read, self.write]
    }
}

/// Changes the limits of a disk, whether it is being served or not.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Throttle>);

impl Limiter {
    /// They are these from now on.
    pub fn set(&self, limits: &DiskLimits) {
        self.0.change(&limits.lanes());
    }

    /// What it does counts against this from now on, besides, which other devices have, too.
    pub fn share(&self, allowance: Option<Arc<Allowance>>) {
        self.0.share(vec![allowance]);
    }
}

/// What is saved of a disk some of whose requests wait for room on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// What has been used of its limits, lane by lane; none if it has none.
    #[serde(default)]
    pub lanes: Vec<LaneState>,
    /// The requests, in the order in which they are tried.
    pub unanswered: Vec<Unanswered>,
}

/// A disk for the guest.
pub struct Block {
    target: Arc<Target>,
    throttle: Arc<Throttle>,
    room: Arc<Room>,
    queues: u16,
    crew: Option<Crew>,
    bell: Bell,
}

impl Block {
    /// `disk` with `queues` queues; the guest reads `serial` (cut to 20 bytes) as its serial number.
    pub fn new(disk: Box<dyn Disk>, serial: &str, queues: u16) -> Self {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        let target = Arc::new(Target { disk, id, meter: Arc::default() });
        let throttle = Throttle::new(&DiskLimits::default().lanes());
        let (room, bell) = (Arc::default(), Bell::default());
        Self { target, throttle, room, queues: queues.max(1), crew: None, bell }
    }

    /// What changes its limits: at first it has none.
    pub fn limiter(&self) -> Limiter {
        Limiter(Arc::clone(&self.throttle))
    }

    /// What it has done, for who wants to know.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.target.meter)
    }

    /// Tells `listener` when the host has no room for what the guest writes (true), and when it has some again (false). For one of
    /// each disk; called by its threads, which it must not keep.
    pub fn on_room(&self, listener: impl Fn(bool) + Send + Sync + 'static) {
        self.room.listen(listener);
    }

    /// What tells its driver that its length is another one.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// The configuration structure (5.2.4).
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.target.disk.len() / SECTOR).to_le_bytes());
        put(12, &MOST_SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(24, &[PHYSICAL_BLOCK]);
        put(34, &self.queues.to_le_bytes());
        // Discard: sectors, ranges, alignment; write zeroes: sectors, ranges, may unmap.
        put(36, &MOST_DISCARD.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &(1u32 << PHYSICAL_BLOCK).to_le_bytes());
        put(48, &MOST_DISCARD.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl Device for Block {
    fn id(&self) -> u16 {
        2
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn features(&self) -> u64 {
        let access = if self.target.disk.read_only() {
            feature::READ_ONLY
        } else {
            feature::DISCARD | feature::WRITE_ZEROES
        };
        access
            | feature::SEG_MAX
            | feature::BLOCK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::MULTI_QUEUE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_slice(&self.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let queues: Vec<_> = activation.queues.into_iter().flatten().collect();
        self.bell.hang(Some(activation.health.clone()));
        let kicks: Vec<_> = queues.iter().map(|active| Arc::clone(&active.kick)).collect();
        self.throttle.attach(activation.reactor.clone(), kicks.clone());
        self.room.attach(activation.reactor.clone(), kicks.clone());
        let server = Server {
            target: Arc::clone(&self.target),
            throttle: Arc::clone(&self.throttle),
            room: Arc::clone(&self.room),
            memory: activation.memory,
            health: activation.health,
            queues: queues.into_iter().map(Mutex::new).collect(),
            // A driver that cannot flush must not need to (5.2.6.2).
            write_through: activation.features & feature::FLUSH == 0,
            waited: AtomicBool::new(false),
        };
        self.crew = Some(Crew::start("disk", MOST_THREADS, kicks, server, &activation.reactor)?);
        Ok(())
    }

    fn deactivate(&mut self) {
        self.bell.hang(None);
        self.crew = None;
        self.throttle.detach();
        self.room.detach();
    }

    fn machine_reset(&mut self) {
        if let Some((rereads, _)) = self.target.meter.rereads.get() {
            rereads.forget();
        }
    }

    fn save(&self, _: bool) -> DeviceState {
        let (limits, unanswered) = (self.throttle.save(), self.room.save());
        if unanswered.is_empty() {
            return limits;
        }
        let lanes = if let DeviceState::Limits(limits) = limits { limits.lanes } else { Vec::new() };
        DeviceState::Disk(DiskState { lanes, unanswered })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Disk(DiskState { lanes, unanswered }) = state else {
            return self.throttle.restore(state);
        };
        let strange = |one: &&Unanswered| one.queue >= self.queues || one.head >= QUEUE_SIZE;
        if let Some(&Unanswered { queue, head }) = unanswered.iter().find(strange) {
            return Err(RestoreError::Request { queue, head });
        }
        self.room.restore(unanswered);
        self.throttle.restore(&DeviceState::Limits(LimitState { lanes: lanes.clone() }))
    }
}

/// What the crew works with.
struct Server {
    target: Arc<Target>,
    throttle: Arc<Throttle>,
    room: Arc<Room>,
    memory: Arc<GuestMemory>,
    health: Health,
    queues: Vec<Mutex<ActiveQueue>>,
    write_through: bool,
    /// Whether the last request had to wait for the host's disk: the next ones will, too.
    waited: AtomicBool,
}

impl Work for Server {
    fn serve(&self, queue: usize, crew: &Calls) -> bool {
        let again = self.serve_queue(queue, crew);
        again.unwrap_or_else(|error| {
            self.health.give_up(&error);
            false
        })
    }
}

/// A request that a thread has in hand.
struct InHand<'a> {
    head: u16,
    /// None for what is no request: it is given back at once.
    request: Option<Request<'a>>,
    /// Whether it has waited for room, and is the first one that does.
    again: bool,
}

impl Server {
    fn serve_queue(&self, index: usize, crew: &Calls) -> Result<bool, QueueBroken> {
        let Some(queue) = self.queues.get(index) else { return Ok(false) };
        let memory = &self.memory;
        let mut done = None;
        // Since when the driver does not know of what has been done.
        let mut untold: Option<Instant> = None;
        loop {
            let mut active = queue.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((head, written)) = done.take() {
                active.give_back(memory, head, written)?;
                untold.get_or_insert_with(Instant::now);
            }
            if self.health.broken() {
                return Ok(false);
            }
            let resting = crew.resting();
            let next = if resting { None } else { self.next(index, &mut active)? };
            let Some(in_hand) = next else {
                active.tell(memory);
                return Ok(resting);
            };
            let request = in_hand.request.as_ref();
            let waits = self.waited.load(Ordering::Relaxed) || request.is_some_and(Request::is_long);
            if untold.is_some_and(|since| waits || since.elapsed() > SOON) {
                active.tell(memory);
                untold = None;
            }
            let help = waits && active.has_more(memory);
            drop(active);
            if help {
                crew.call(index);
            }
            done = self.do_it(index, in_hand);
        }
    }

    /// What is to be done next of a queue; none if there is nothing, or nothing that may be done now.
    fn next<'a>(&'a self, index: usize, active: &mut ActiveQueue) -> Result<Option<InHand<'a>>, QueueBroken> {
        let memory = &self.memory;
        if let Some(head) = self.room.next(index) {
            let request = Request::parse(active.descriptors(memory, head), memory);
            return Ok(Some(InHand { head, request, again: true }));
        }
        loop {
            let position = active.position();
            let Some(chain) = active.next(memory)? else {
                self.throttle.has_none(index);
                return Ok(None);
            };
            let head = chain.head_index();
            let request = Request::parse(chain, memory);
            let waits = self.room.is_short() && request.as_ref().is_some_and(Request::can_need_room);
            // One that is none is given back at once.
            let admitted = (!waits || self.room.holds(index))
                && request.as_ref().is_none_or(|request| {
                    self.throttle.admits(index, || request.cost(self.target.disk.len()))
                });
            if !admitted {
                active.put_back(position);
                return Ok(None);
            }
            if !waits || self.room.add(index, head).is_err() {
                return Ok(Some(InHand { head, request, again: false }));
            }
        }
    }

    /// Does it; gives the request's head and the bytes written to memory, or nothing if it has not been answered.
    fn do_it(&self, index: usize, in_hand: InHand) -> Option<(u16, u32)> {
        let InHand { head, request, again } = in_hand;
        let started = Instant::now();
        let answered = request.map_or(Ok(0), |request| {
            request.answer(&self.target, self.write_through, |error| {
                let waits = if again { self.room.wait() } else { self.room.add(index, head) };
                if waits.is_ok() && !again {
                    tracing::warn!("a disk has no room on the host for what the guest writes: {error}");
                }
                waits.is_ok()
            })
        });
        let taken = started.elapsed();
        self.target.meter.took(taken.as_nanos() as u64);
        self.waited.store(taken > WAITED, Ordering::Relaxed);
        if again && answered.is_ok() {
            self.room.done();
        }
        answered.ok().map(|written| (head, written))
    }
}
