//! Who calls a callback: one thread at a time, and none twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread::ThreadId;

use super::lock;

/// One at a time has the turn: the device thread, or one that has something done at once.
#[derive(Default)]
pub struct Turns {
    turn: Mutex<()>,
    /// Which thread has it.
    holder: Mutex<Option<ThreadId>>,
    /// How many wait for theirs. The lock is not fair: who has things done at once again and again would keep them waiting.
    waiting: AtomicUsize,
}

/// A thread's turn. A callback that panics ends it, too.
pub struct Turn<'a> {
    turns: &'a Turns,
    _turn: MutexGuard<'a, ()>,
}

impl Turns {
    /// Waits until the callback that runs now has returned, unless this is that callback.
    pub fn wait(&self) {
        if *lock(&self.holder) != Some(std::thread::current().id()) {
            drop(self.take());
        }
    }

    /// Waits until no other thread has it.
    pub fn take(&self) -> Turn<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let turn = lock(&self.turn);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.begin(turn)
    }

    /// The same if nobody has to wait for that.
    pub fn try_take(&self) -> Option<Turn<'_>> {
        if self.is_awaited() {
            return None;
        }
        match self.turn.try_lock() {
            Ok(turn) => Some(self.begin(turn)),
            Err(TryLockError::Poisoned(error)) => Some(self.begin(error.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether anybody waits for theirs.
    pub fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn begin<'a>(&'a self, turn: MutexGuard<'a, ()>) -> Turn<'a> {
        *lock(&self.holder) = Some(std::thread::current().id());
        Turn { turns: self, _turn: turn }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.turns.holder) = None;
    }
}
