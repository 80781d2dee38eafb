//! Saving a machine: `save`, and what becomes of it in the background.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::guest::{Guest, machine_refusal};
use super::layers::NewTops;
use super::open::Files;
use super::protocol::{Refusal, SaveEnd, SaveProgress, SaveSpec, Saved, State, code};
use crate::memory::Saving;

/// The save that is going on, if one is.
pub(super) struct Saves {
    now: Option<Saving>,
    /// Readable when it has ended.
    ready: Arc<EventFd>,
    end: Arc<Mutex<Option<SaveEnd>>>,
}

impl Saves {
    pub fn new() -> std::io::Result<Self> {
        let ready = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        Ok(Self { now: None, ready, end: Arc::default() })
    }

    fn going_on(&self) -> Result<&Saving, Refusal> {
        self.now.as_ref().ok_or_else(|| Refusal::new(code::STATE, "nothing is being saved"))
    }

    /// How far it is.
    pub fn progress(&self) -> Result<SaveProgress, Refusal> {
        let (done, total) = self.going_on()?.progress();
        Ok(SaveProgress { done, total })
    }

    /// Calls it off; its end is told as any other.
    pub fn cancel(&self) -> Result<(), Refusal> {
        self.going_on()?.cancel();
        Ok(())
    }

    /// What to wait for while something is being saved.
    pub fn running(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor is open as long as this is there.
        self.now.as_ref().map(|_| unsafe { BorrowedFd::borrow_raw(self.ready.as_raw_fd()) })
    }

    /// How the save that was going on has ended, if it has.
    pub fn ended(&mut self) -> Option<SaveEnd> {
        // Takes the count; there may be none.
        let _ = self.ready.read();
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.now = None;
        Some(end)
    }
}

impl Guest {
    /// Saves the machine: pauses it, takes its state, has its disks go on with new layers, its memory written in the background, and lets
    /// it go on.
    pub(super) fn save(&mut self, spec: SaveSpec, mut files: Files) -> Result<Saved, Refusal> {
        if self.saves.now.is_some() {
            return Err(Refusal::new(code::STATE, "the machine is being saved already"));
        }
        let file = files.take("memory", spec.memory)?;
        let tops = self.new_tops("switch", spec.switch, &mut files)?;
        let ran = match (self.machine()?, self.state) {
            (_, State::Running) => true,
            (_, State::Paused) => false,
            _ => return Err(Refusal::new(code::STATE, "the machine has ended: there is nothing to save")),
        };
        // What is durable before need not be waited for while it stands still.
        tops.flush()?;
        if spec.stay {
            self.disks.make_durable()?;
        }
        let started = Instant::now();
        self.pause()?;
        let result = if spec.stay { self.disks.make_durable() } else { Ok(()) };
        let result = result.and_then(|()| self.save_paused(file, tops));
        if ran && !(spec.stay && result.is_ok()) {
            self.resume()?;
        }
        let state = result?;
        Ok(Saved { state, pause_ns: started.elapsed().as_nanos() as u64 })
    }

    fn save_paused(&mut self, file: File, tops: NewTops) -> Result<serde_json::Value, Refusal> {
        let state = self.machine()?.save().map_err(machine_refusal)?;
        let state = state.to_json().map_err(|error| Refusal::new(code::MACHINE, error))?;
        let switch = tops.prepare()?;
        let (ready, end) = (Arc::clone(&self.saves.ready), Arc::clone(&self.saves.end));
        let done = move |result: Result<u64, crate::memory::ImageError>| {
            let told = match result {
                Ok(bytes) => SaveEnd { bytes, error: None },
                Err(error) => SaveEnd { bytes: 0, error: Some(machine_refusal(error).message) },
            };
            *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
            // A counter that is full is readable, too.
            let _ = ready.write(1);
        };
        let saving = self.machine()?.save_memory(file, Box::new(done)).map_err(machine_refusal)?;
        // Nothing can fail any more.
        switch.take();
        self.saves.now = Some(saving);
        Ok(state)
    }
}
