//! What one processor hears from others: interrupts, kicks and requests to forget what it has cached.
//!
//! Senders set atomics and raise `attention`; the processor looks at that one flag every couple of thousand instructions
//! and then collects the rest. Nothing on the way of an interrupt takes a lock unless the processor sleeps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// Requests a processor may leave unread before they are summed up as "forget everything".
const INBOX_LIMIT: usize = 256;

/// What another processor or a device asks a processor to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Writes to this page of guest-physical memory must be told again: it now holds translated code.
    DropWritable(u64),
    /// Code made from these bytes is stale.
    InvalidateCode {
        /// Guest-physical address of the first byte.
        gpa: u64,
        /// How many bytes.
        len: u64,
    },
    /// Writes to any page must be told again.
    ForgetWritable,
    /// All code is stale.
    FlushCode,
    /// All translations are stale, the right to write without telling included.
    FlushTlb,
}

#[derive(Default)]
struct Inbox {
    /// The processor executes guest code, so requests take effect only once it has read them.
    running: bool,
    requests: VecDeque<Request>,
    /// Requests ever posted and ever carried out.
    posted: u64,
    done: u64,
}

/// How a local APIC may be addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ApicMode {
    Disabled = 0,
    XApic = 1,
    X2Apic = 2,
}

/// One processor's mailbox. Every method may be called from any thread.
pub struct Mailbox {
    attention: AtomicBool,
    kicked: AtomicBool,
    /// Vectors posted and not yet collected, and whether each was last posted as level-triggered.
    requested: [AtomicU64; 4],
    level: [AtomicU64; 4],
    /// Somebody sent a vector below 16 (ESR bit 6).
    illegal: AtomicBool,
    nmi: AtomicBool,
    init: AtomicBool,
    /// Startup vector with `SIPI_VALID`.
    sipi: AtomicU16,

    id: u32,
    mode: AtomicU8,
    software_enabled: AtomicBool,
    ldr: AtomicU32,
    dfr: AtomicU32,

    /// There is something in the inbox.
    asked: AtomicBool,
    inbox: Mutex<Inbox>,
    sleeping: AtomicBool,
    bed: Mutex<()>,
    bell: Condvar,
}

const SIPI_VALID: u16 = 1 << 8;

/// Nothing panics with these locks held, and what they guard is consistent between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    /// The mailbox of a processor whose local APIC has `id`.
    pub(crate) fn new(id: u32) -> Self {
        Self {
            attention: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            requested: Default::default(),
            level: Default::default(),
            illegal: AtomicBool::new(false),
            nmi: AtomicBool::new(false),
            init: AtomicBool::new(false),
            sipi: AtomicU16::new(0),
            id,
            mode: AtomicU8::new(ApicMode::XApic as u8),
            software_enabled: AtomicBool::new(false),
            ldr: AtomicU32::new(0),
            dfr: AtomicU32::new(u32::MAX),
            asked: AtomicBool::new(false),
            inbox: Mutex::default(),
            sleeping: AtomicBool::new(false),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        }
    }

    /// Makes the processor look into its mailbox soon, and ends its sleep.
    pub fn wake(&self) {
        self.attention.store(true, SeqCst);
        // Pairs with `wait`: either the sleeper sees `attention` before it sleeps, or this thread sees `sleeping`; and
        // with the lock taken the sleeper is past the point between looking and sleeping.
        if self.sleeping.load(SeqCst) {
            drop(lock(&self.bed));
            self.bell.notify_all();
        }
    }

    /// Makes [`Cpu::run`](crate::Cpu::run) return [`Exit::Kicked`](crate::Exit::Kicked) once, now or when it is next called.
    pub fn kick(&self) {
        self.kicked.store(true, SeqCst);
        self.wake();
    }

    /// Whether [`Cpu::run`](crate::Cpu::run) is to return because of a [kick](Self::kick).
    pub fn is_kicked(&self) -> bool {
        self.kicked.load(SeqCst)
    }

    /// Sleeps until something arrives or guest time `deadline` (nanoseconds of `clock`) has come. Returns at once if
    /// something has arrived that the processor has not looked at. To be called by the processor's thread after
    /// [`Exit::Halted`](crate::Exit::Halted).
    pub fn wait(&self, clock: &Clock, deadline: Option<u64>) {
        let mut bed = lock(&self.bed);
        self.sleeping.store(true, SeqCst);
        while !self.attention.load(SeqCst) {
            bed = match deadline {
                None => self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_sub(clock.now_ns());
                    if left == 0 {
                        break;
                    }
                    let result = self.bell.wait_timeout(bed, Duration::from_nanos(left));
                    result.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        self.sleeping.store(false, SeqCst);
    }

    /// Lowers the flag. What made it rise is collected afterwards, so nothing is missed.
    pub(crate) fn take_attention(&self) -> bool {
        self.attention.swap(false, SeqCst)
    }

    /// Whether [`kick`](Self::kick) was called since this was last asked.
    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.load(SeqCst) && self.kicked.swap(false, SeqCst)
    }
}

/// Interrupts.
impl Mailbox {
    /// Posts fixed interrupt `vector`. Vectors below 16 are an error that the receiver's ESR reports.
    pub fn post(&self, vector: u8, level: bool) {
        if vector < 16 {
            self.illegal.store(true, SeqCst);
        } else {
            let (word, bit) = (usize::from(vector / 64), 1 << (vector % 64));
            if level {
                self.level[word].fetch_or(bit, SeqCst);
            } else if self.level[word].load(SeqCst) & bit != 0 {
                self.level[word].fetch_and(!bit, SeqCst);
            }
            self.requested[word].fetch_or(bit, SeqCst);
        }
        self.wake();
    }

    /// Posts a non-maskable interrupt.
    pub fn post_nmi(&self) {
        self.nmi.store(true, SeqCst);
        self.wake();
    }

    /// Posts INIT.
    pub fn post_init(&self) {
        // A startup IPI that came before this INIT found a processor that did not wait for one.
        self.sipi.store(0, SeqCst);
        self.init.store(true, SeqCst);
        self.wake();
    }

    /// Posts a startup IPI: execution shall begin at `vector << 12`.
    pub fn post_sipi(&self, vector: u8) {
        self.sipi.store(SIPI_VALID | u16::from(vector), SeqCst);
        self.wake();
    }

    /// Takes posted vectors `64 * word ..`, with their trigger modes.
    pub(super) fn take_vectors(&self, word: usize) -> (u64, u64) {
        if self.requested[word].load(SeqCst) == 0 {
            return (0, 0);
        }
        (self.requested[word].swap(0, SeqCst), self.level[word].load(SeqCst))
    }

    /// As [`take_vectors`](Self::take_vectors), and leaves them.
    pub(super) fn peek_vectors(&self, word: usize) -> (u64, u64) {
        (self.requested[word].load(SeqCst), self.level[word].load(SeqCst))
    }

    pub(super) fn take_illegal(&self) -> bool {
        self.illegal.load(SeqCst) && self.illegal.swap(false, SeqCst)
    }

    /// Takes a posted NMI.
    pub(crate) fn take_nmi(&self) -> bool {
        self.nmi.load(SeqCst) && self.nmi.swap(false, SeqCst)
    }

    pub(super) fn take_init(&self) -> bool {
        self.init.load(SeqCst) && self.init.swap(false, SeqCst)
    }

    pub(super) fn take_sipi(&self) -> Option<u8> {
        if self.sipi.load(SeqCst) == 0 {
            return None;
        }
        let sipi = self.sipi.swap(0, SeqCst);
        (sipi & SIPI_VALID != 0).then_some(sipi as u8)
    }

    /// Forgets all posted interrupts: the processor's state is about to be replaced.
    pub(super) fn clear_interrupts(&self) {
        for word in &self.requested {
            word.store(0, SeqCst);
        }
        self.illegal.store(false, SeqCst);
        self.nmi.store(false, SeqCst);
        self.init.store(false, SeqCst);
        self.sipi.store(0, SeqCst);
    }
}

/// Where the local APIC is in the world of destinations.
impl Mailbox {
    /// The local APIC id, all 32 bits.
    pub fn apic_id(&self) -> u32 {
        self.id
    }

    pub(crate) fn apic_mode(&self) -> ApicMode {
        match self.mode.load(SeqCst) {
            1 => ApicMode::XApic,
            2 => ApicMode::X2Apic,
            _ => ApicMode::Disabled,
        }
    }

    /// Whether fixed interrupts are accepted: IA32_APIC_BASE and the spurious-interrupt register both enable the APIC.
    pub(super) fn accepts(&self) -> bool {
        self.software_enabled.load(SeqCst) && self.apic_mode() != ApicMode::Disabled
    }

    pub(super) fn logical(&self) -> (u32, u32) {
        (self.ldr.load(SeqCst), self.dfr.load(SeqCst))
    }

    pub(super) fn publish(&self, mode: ApicMode, software_enabled: bool, ldr: u32, dfr: u32) {
        self.ldr.store(ldr, SeqCst);
        self.dfr.store(dfr, SeqCst);
        self.software_enabled.store(software_enabled, SeqCst);
        self.mode.store(mode as u8, SeqCst);
    }
}

/// Requests read from the inbox. They count as carried out when this is dropped.
pub(crate) struct Requests {
    from: Arc<Mailbox>,
    requests: VecDeque<Request>,
    last: u64,
}

impl Iterator for Requests {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let mut inbox = lock(&self.from.inbox);
        inbox.done = inbox.done.max(self.last);
    }
}

/// The inbox.
impl Mailbox {
    /// The processor begins to execute guest code. It must read its inbox before the first instruction.
    pub(crate) fn enter(&self) {
        lock(&self.inbox).running = true;
    }

    /// The processor has stopped executing guest code: nobody waits for it, and it will read its inbox before it goes on.
    pub(crate) fn leave(&self) {
        lock(&self.inbox).running = false;
    }

    /// Takes what is in the inbox, if anything. The caller carries out all of it, then drops the iterator.
    pub(crate) fn take_requests(self: &Arc<Self>) -> Option<Requests> {
        if !self.asked.load(SeqCst) {
            return None;
        }
        self.asked.store(false, SeqCst);
        let mut inbox = lock(&self.inbox);
        let requests = std::mem::take(&mut inbox.requests);
        let last = inbox.posted;
        drop(inbox);
        Some(Requests { from: Arc::clone(self), requests, last })
    }

    /// Posts `request`; gives a ticket for [`is_done`](Self::is_done).
    pub(crate) fn request(&self, request: Request) -> u64 {
        let mut inbox = lock(&self.inbox);
        inbox.posted += 1;
        if inbox.requests.len() >= INBOX_LIMIT {
            inbox.requests.clear();
            inbox.requests.extend([Request::FlushTlb, Request::FlushCode]);
        } else if inbox.requests.back() != Some(&request) {
            inbox.requests.push_back(request);
        }
        self.asked.store(true, SeqCst);
        let (ticket, running) = (inbox.posted, inbox.running);
        drop(inbox);
        // One that does not run reads its inbox before it runs: no need to end its sleep.
        if running {
            self.wake();
        }
        ticket
    }

    /// Whether the request with `ticket` has taken effect: carried out, or sure to be before the next guest instruction.
    pub(crate) fn is_done(&self, ticket: u64) -> bool {
        let inbox = lock(&self.inbox);
        !inbox.running || inbox.done >= ticket
    }
}
