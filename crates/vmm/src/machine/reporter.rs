//! What happens in a machine, kept for whoever waits for it.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Event;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps events for whoever waits for them: each once, however often the guest says it, so that a guest which says it all the
/// time fills no memory.
pub(super) struct Reporter {
    waiting: Mutex<VecDeque<Event>>,
    came: Condvar,
    /// Readable while there are events.
    ready: EventFd,
}

impl Reporter {
    pub fn new() -> std::io::Result<Self> {
        let ready = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self { waiting: Mutex::default(), came: Condvar::new(), ready })
    }

    /// Readable while there are events.
    pub fn ready(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as this is there.
        unsafe { BorrowedFd::borrow_raw(self.ready.as_raw_fd()) }
    }

    pub fn report(&self, event: Event) {
        let mut waiting = lock(&self.waiting);
        if !waiting.contains(&event) {
            waiting.push_back(event);
            // A counter that is full is readable, too.
            let _ = self.ready.write(1);
            self.came.notify_all();
        }
    }

    pub fn wait(&self, patience: Duration) -> Option<Event> {
        let waiting = lock(&self.waiting);
        let waited = self.came.wait_timeout_while(waiting, patience, |waiting| waiting.is_empty());
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let event = waiting.pop_front();
        self.settle(&waiting);
        event
    }

    /// What was said before a reset is not the next life's word. Only while no processor runs.
    pub fn forget(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.clear();
        self.settle(&waiting);
    }

    fn settle(&self, waiting: &VecDeque<Event>) {
        if waiting.is_empty() {
            // Takes the whole count; there may be none.
            let _ = self.ready.read();
        }
    }
}
