//! How far something is that takes a while.

use crate::{Error, Result};

/// Who is told how far something is, and says whether to go on. Called often, from the thread that does it.
pub trait Progress: Sync {
    /// What is being done now, for a person.
    fn step(&self, what: &str);
    /// How much of it is done: so many bytes of `total`. Both are told again with each step; nothing is told while nobody knows.
    fn amount(&self, done: u64, total: u64);
    /// Whether it is to stop, and to undo what it has begun.
    fn cancelled(&self) -> bool {
        false
    }
    /// Goes on only if it is not to stop.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if it is.
    fn go_on(&self) -> Result<()> {
        if self.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Nobody is told.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn amount(&self, _: u64, _: u64) {}
}
