//! A queue in use (virtio 1.2, section 2.7), and how far a device has come in it.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{Chain, Interrupt, MOST_PIECES};
use crate::memory::{GuestMemory, Held};
use crate::reactor::Prompt;

/// Bytes of a descriptor (2.7.5).
const DESCRIPTOR: u64 = 16;

/// Why a queue cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum QueueBroken {
    /// The driver says that there are more requests than fit.
    #[error("the ring of available buffers makes no sense")]
    Available,
    /// The driver asks for more and more, and does not take it.
    #[error("the driver does not take what it asks for")]
    Flood,
    /// A ring cannot be written.
    #[error("a ring cannot be used")]
    Ring(#[from] virtio_queue::Error),
}

/// How far a device has come in a queue, for who saves the machine while the device has the queue.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The next entry of the available ring that is looked at.
    pub next_available: AtomicU16,
    /// The next entry of the used ring that is written.
    pub next_used: AtomicU16,
}

impl Progress {
    /// Has the device that gets the queue next go on there.
    pub fn go_to(&self, next_available: u16, next_used: u16) {
        self.next_available.store(next_available, Ordering::SeqCst);
        self.next_used.store(next_used, Ordering::SeqCst);
    }
}

/// What serves a queue at once, if anything does. Who is gone serves nothing: the kick is then the device thread's.
pub type AtOnce = Mutex<Option<Prompt>>;

/// A queue in use.
pub struct ActiveQueue {
    queue: Queue,
    progress: Arc<Progress>,
    /// Written when the driver put something into it.
    pub kick: Arc<EventFd>,
    /// Serves it as soon as it is kicked, on the vCPU's thread, where that is set: for requests for which the driver waits and that take less than to wake another thread.
    pub at_once: Arc<AtOnce>,
    /// Tells the driver that something was used.
    pub interrupt: Interrupt,
    /// The rings, which are never paged.
    _rings: Held,
}

/// Where the rings of a queue lie, and how long they are (sections 2.7.5, 2.7.6 and 2.7.8).
fn rings(queue: &Queue) -> [(GuestAddress, usize); 3] {
    let size = usize::from(queue.size());
    [(queue.desc_table(), 16 * size), (queue.avail_ring(), 6 + 2 * size), (queue.used_ring(), 6 + 8 * size)]
        .map(|(at, len)| (GuestAddress(at), len))
}

impl ActiveQueue {
    /// `queue`, which goes on where `progress` says, and whose rings lie in `memory`.
    pub(super) fn new(
        memory: &GuestMemory,
        mut queue: Queue,
        progress: Arc<Progress>,
        kick: Arc<EventFd>,
        at_once: Arc<AtOnce>,
        interrupt: Interrupt,
    ) -> Self {
        queue.set_next_avail(progress.next_available.load(Ordering::SeqCst));
        queue.set_next_used(progress.next_used.load(Ordering::SeqCst));
        let rings = Held::new(memory, &rings(&queue));
        Self { queue, progress, kick, at_once, interrupt, _rings: rings }
    }

    fn take(&mut self, memory: &Arc<GuestMemory>) -> Option<Chain> {
        let chain = self.queue.pop_descriptor_chain(Arc::clone(memory));
        self.progress.next_available.store(self.queue.next_avail(), Ordering::Relaxed);
        chain
    }

    /// Takes the next request. If there is none the driver will kick when it adds one.
    ///
    /// # Errors
    /// If the driver has broken the ring.
    pub fn next(&mut self, memory: &Arc<GuestMemory>) -> Result<Option<Chain>, QueueBroken> {
        if let Some(chain) = self.take(memory) {
            return Ok(Some(chain));
        }
        if !self.queue.enable_notification(&**memory)? {
            return Ok(None);
        }
        // One has been added meanwhile. If even so there is none, what the driver says is not so.
        self.queue.disable_notification(&**memory)?;
        self.take(memory).map(Some).ok_or(QueueBroken::Available)
    }

    /// The descriptors of a request that was taken before and begins with `head`, as they are now (2.7.5): an indirect table is followed
    /// once, and what is not in memory or makes no sense ends them. The library gives a chain only to who takes it from the ring.
    pub fn descriptors(&self, memory: &GuestMemory, head: u16) -> Vec<Descriptor> {
        let (mut table, mut entries, mut indirect) = (self.queue.desc_table(), self.queue.size(), false);
        let (mut next, mut found) = (head, Vec::new());
        while next < entries && found.len() < MOST_PIECES {
            let at = GuestAddress(table).checked_add(u64::from(next) * DESCRIPTOR);
            let Some(Ok(descriptor)) = at.map(|at| memory.read_obj::<Descriptor>(at)) else { break };
            if descriptor.refers_to_indirect_table() {
                let length = u64::from(descriptor.len());
                let whole = (length.is_multiple_of(DESCRIPTOR) && !indirect).then_some(length / DESCRIPTOR);
                let Some(count) = whole.and_then(|count| u16::try_from(count).ok()) else { break };
                indirect = true;
                (table, entries, next) = (descriptor.addr().0, count, 0);
                continue;
            }
            found.push(descriptor);
            if !descriptor.has_next() {
                break;
            }
            next = descriptor.next();
        }
        found
    }

    /// Where the next request will be taken from: [`put_back`](Self::put_back) takes it.
    pub fn position(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Puts back all requests that were taken since the queue was at `position`, none of which has been given back.
    pub fn put_back(&mut self, position: u16) {
        self.queue.set_next_avail(position);
        self.progress.next_available.store(position, Ordering::Relaxed);
    }

    /// Has who goes on with the queue elsewhere begin with the request that was taken last: it has not been given back.
    pub fn forget_last(&mut self) {
        let last = self.queue.next_avail().wrapping_sub(1);
        self.progress.next_available.store(last, Ordering::Relaxed);
    }

    /// Whether a request waits.
    pub fn has_more(&self, memory: &GuestMemory) -> bool {
        let available = self.queue.avail_idx(memory, Ordering::Relaxed);
        available.is_ok_and(|index| index.0 != self.queue.next_avail())
    }

    /// Whether a request waits; if not, the driver kicks when it adds one.
    ///
    /// # Errors
    /// If the driver has broken the ring.
    pub fn listen(&mut self, memory: &GuestMemory) -> Result<bool, QueueBroken> {
        Ok(self.has_more(memory) || self.queue.enable_notification(memory)?)
    }

    /// The driver need not kick: the queue is being served.
    ///
    /// # Errors
    /// If the driver has broken the ring.
    pub fn ignore_kicks(&mut self, memory: &GuestMemory) -> Result<(), QueueBroken> {
        Ok(self.queue.disable_notification(memory)?)
    }

    /// How many requests have been given back so far, modulo 2^16.
    pub fn given_back(&self) -> u16 {
        self.queue.next_used()
    }

    /// Gives a request back with `written` bytes of answer. [`tell`](Self::tell) has the driver know.
    ///
    /// # Errors
    /// If the driver has broken the ring.
    pub fn give_back(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), QueueBroken> {
        let given = self.queue.add_used(memory, head, written);
        self.progress.next_used.store(self.queue.next_used(), Ordering::Relaxed);
        Ok(given?)
    }

    /// Interrupts the driver, if it wants to hear of what has been given back.
    pub fn tell(&mut self, memory: &GuestMemory) {
        if self.queue.needs_notification(memory).unwrap_or(true) {
            self.interrupt.signal();
        }
    }
}
