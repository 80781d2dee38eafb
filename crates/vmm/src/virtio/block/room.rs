//! Requests of a disk for which the host has no room: they wait until there is some, and the guest knows nothing of it.
//!
//! An error would have the guest's file systems go read-only, or lose data that programs think is written, only because a pool that
//! promises more than it has is full for a while. They are tried again until whoever looks after the host has made room. What waits is saved with the
//! machine: it can be paused, suspended or moved meanwhile.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::reactor::Handle;
use crate::virtio::waker::Waker;

/// How long until it is tried again.
const AGAIN: Duration = Duration::from_millis(250);
/// The most that wait in one queue: as many as a driver that keeps to the rules can have asked for.
const MOST: usize = super::QUEUE_SIZE as usize;

/// A request that was taken out of a queue, and has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unanswered {
    /// The queue's number.
    pub queue: u16,
    /// The request's first descriptor.
    pub head: u16,
}

/// Who is told that there is no room (true), and that there is some again (false).
type Listener = Box<dyn Fn(bool) + Send + Sync>;

/// The requests of a disk that wait for room, in the order in which they came. Only the first one is tried again and again.
#[derive(Default)]
pub(super) struct Room {
    /// Whether any waits: what there is to look at where there is room.
    short: AtomicBool,
    inner: Mutex<Inner>,
    listener: OnceLock<Listener>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Unanswered>,
    /// Whether it is time to try the first one, and whether somebody does.
    due: bool,
    trying: bool,
    /// There while the disk is being served.
    waker: Option<Waker>,
}

impl Room {
    /// Whoever wants to know; one for each disk.
    pub fn listen(&self, listener: impl Fn(bool) + Send + Sync + 'static) {
        // Whoever was first stays.
        let _ = self.listener.set(Box::new(listener));
    }

    /// Whether requests wait: others that could need room wait behind them.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// The disk is being served from now on: queue n is woken by `kicks[n]`.
    pub fn attach(&self, reactor: Handle, kicks: Vec<Arc<EventFd>>) {
        let mut inner = self.lock();
        inner.waker = Some(Waker::new(reactor, kicks));
        // What was saved is tried at once.
        inner.due = true;
        inner.kick_first();
    }

    /// The disk is not served any more, and its driver has forgotten what it asked for.
    pub fn detach(&self) {
        let waker = {
            let mut inner = self.lock();
            inner.waiting.clear();
            inner.trying = false;
            self.settle(&inner);
            inner.waker.take()
        };
        // Dropped without the lock, which the timer's callback takes.
        drop(waker);
    }

    /// The request of this queue that is to be tried now; [`done`](Self::done) or [`wait`](Self::wait) says what came of it.
    pub fn next(&self, queue: usize) -> Option<u16> {
        if !self.is_short() {
            return None;
        }
        let mut inner = self.lock();
        let first = inner.waiting.front().filter(|first| usize::from(first.queue) == queue).copied();
        let first = first.filter(|_| inner.due && !inner.trying)?;
        inner.trying = true;
        Some(first.head)
    }

    /// Whether one more of this queue can wait.
    pub fn holds(&self, queue: usize) -> bool {
        self.lock().waiting.iter().filter(|one| usize::from(one.queue) == queue).count() < MOST
    }

    /// The first one was carried out.
    pub fn done(&self) {
        let mut inner = self.lock();
        inner.waiting.pop_front();
        inner.trying = false;
        inner.kick_first();
        self.settle(&inner);
    }

    /// There was no room for the first one once more.
    ///
    /// # Errors
    /// If the host has no timer to spare.
    pub fn wait(self: &Arc<Self>) -> io::Result<()> {
        let mut inner = self.lock();
        (inner.trying, inner.due) = (false, false);
        self.wake_later(&mut inner)
    }

    /// A request of this queue waits behind those that do.
    ///
    /// # Errors
    /// If the host has no timer to spare: it does not wait then.
    pub fn add(self: &Arc<Self>, queue: usize, head: u16) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.waiting.is_empty() {
            inner.due = false;
            self.wake_later(&mut inner)?;
        }
        inner.waiting.push_back(Unanswered { queue: u16::try_from(queue).unwrap_or(u16::MAX), head });
        self.settle(&inner);
        Ok(())
    }

    /// What waits, for who saves the machine, which is paused.
    pub fn save(&self) -> Vec<Unanswered> {
        self.lock().waiting.iter().copied().collect()
    }

    /// Puts back what [`save`](Self::save) gave.
    pub fn restore(&self, waiting: &[Unanswered]) {
        let mut inner = self.lock();
        inner.waiting = waiting.iter().copied().collect();
        self.settle(&inner);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, inner: &Inner) {
        let short = !inner.waiting.is_empty();
        if self.short.swap(short, Ordering::Relaxed) != short
            && let Some(listener) = self.listener.get()
        {
            listener(short);
        }
    }

    fn wake_later(self: &Arc<Self>, inner: &mut Inner) -> io::Result<()> {
        // One that is not served asks for nothing.
        let Some(waker) = &mut inner.waker else { return Ok(()) };
        let mine = Arc::downgrade(self);
        waker.call_after(AGAIN, move || {
            if let Some(room) = mine.upgrade() {
                let mut inner = room.lock();
                inner.due = true;
                inner.kick_first();
            }
        })
    }
}

impl Inner {
    fn kick_first(&self) {
        if let (Some(waker), Some(first)) = (&self.waker, self.waiting.front()) {
            waker.kick(usize::from(first.queue));
        }
    }
}
