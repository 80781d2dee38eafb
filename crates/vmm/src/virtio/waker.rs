//! What wakes the queues of a device that is being served, at once or later.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use crate::reactor::{Handle, Timer};

/// The kicks of a device's queues, and a timer. Dropping it waits for the timer's callback: no lock that this takes may be held then.
pub(super) struct Waker {
    reactor: Handle,
    kicks: Vec<Arc<EventFd>>,
    /// Made when something has to wait for the first time.
    timer: Option<Timer>,
}

impl Waker {
    /// Queue n is woken by `kicks[n]`.
    pub fn new(reactor: Handle, kicks: Vec<Arc<EventFd>>) -> Self {
        Self { reactor, kicks, timer: None }
    }

    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    /// Wakes a queue as its driver does; nothing if there is none of that number.
    pub fn kick(&self, queue: usize) {
        if let Some(kick) = self.kicks.get(queue) {
            // A counter that is full wakes as well.
            let _ = kick.write(1);
        }
    }

    /// Calls `callback` after so long, instead of what it was set for before. It is the first time's callback that is called.
    ///
    /// # Errors
    /// If the host has no timer to spare.
    pub fn call_after(&mut self, wait: Duration, callback: impl FnMut() + Send + 'static) -> io::Result<()> {
        let timer = match &self.timer {
            Some(timer) => timer,
            None => self.timer.insert(self.reactor.timer(callback)?),
        };
        timer.arm(wait)
    }
}
