//! Writes a guest's memory into a file while the guest goes on.
//!
//! A thread looks which pages have anything in them (proc_pid_pagemap(5)) and has them written by a child that has them as they were
//! when the machine was paused ([`Frozen`]). Memory that nobody has touched costs nothing, and what is still as the file that the
//! machine went on from has it is taken from there. While the thread looks nothing may be given back to the host: it would be taken
//! for memory that nobody had touched ([`Gate`]).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread::JoinHandle;

use softcpu::PAGE_SIZE;

use super::frozen::{Frozen, write_sparse};
use super::image::{CHUNK, Image, ImageError, Plan, checksum};

/// What the kernel says of this process's pages. Opened once: later the process may be locked in.
static PAGES: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/pagemap").ok());

/// Opens what is needed to save memory: to be called before the process is locked in.
pub fn prepare() {
    LazyLock::force(&PAGES);
}

/// Bits of a page's entry: it is in memory, in swap, a file's (or shared).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// What a finished save is told.
pub type Done = Box<dyn FnOnce(Result<u64, ImageError>) + Send>;

/// Closed while somebody looks which pages have anything in them.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn set(&self, closed: bool) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.0.1.notify_all();
    }

    /// Waits until pages may be given back.
    pub fn wait(&self) {
        let closed = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(closed, |closed| *closed));
    }
}

/// Opens the gate in any case.
struct Closed<'a>(&'a Gate);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

struct Shared {
    done: AtomicU64,
    total: u64,
    cancelled: AtomicBool,
}

/// A save that goes on in the background. Dropped, it is called off.
pub struct Saving {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Memory to be saved: a plan, and where its regions lie.
pub(super) struct Source {
    pub plan: Plan,
    pub hosts: Vec<NonNull<u8>>,
    /// What the memory was mapped from, if it was.
    pub base: Option<Arc<Image>>,
    /// Is closed until it is known what there is.
    pub gate: Gate,
}

// SAFETY: the pointers lead into guest memory, which the machine keeps for longer than its saves.
unsafe impl Send for Source {}

impl Saving {
    /// Begins to write `source` into `file`, as it is now; nobody may write to it until this returns. `done` hears how many bytes of
    /// memory there are in the file, or what went wrong, on a thread of its own.
    pub(super) fn begin(source: Source, file: File, done: Done) -> io::Result<Saving> {
        source.plan.begin(&file)?;
        let frozen = Frozen::freeze(&source.plan, &source.hosts, &file)?;
        let total = source.plan.chunks() as u64 * CHUNK;
        let shared = Arc::new(Shared { done: AtomicU64::new(0), total, cancelled: AtomicBool::new(false) });
        let (mine, gate) = (Arc::clone(&shared), source.gate.clone());
        gate.set(true);
        let work = move || done(mine.write(&source, &file, frozen));
        let thread = std::thread::Builder::new().name("save".into()).spawn(work);
        let thread = thread.inspect_err(|_| gate.set(false))?;
        Ok(Saving { shared, thread: Some(thread) })
    }

    /// How many bytes have been looked at, of how many.
    pub fn progress(&self) -> (u64, u64) {
        (self.shared.done.load(Ordering::Relaxed), self.shared.total)
    }

    /// Calls it off; `done` hears of it soon.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.cancel();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn write(&self, source: &Source, file: &File, mut frozen: Frozen) -> Result<u64, ImageError> {
        let plan = &source.plan;
        let changed = source.changed();
        let (mut taken, mut skipped) = (vec![0; plan.chunks()], 0);
        let mut buffer = Vec::new();
        for ((number, taken), changed) in taken.iter_mut().enumerate().zip(changed) {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            let Some((_, _, len)) = plan.chunk(number) else { continue };
            match (&source.base, changed) {
                (_, true) => frozen.write(number as u32)?,
                (None, false) => skipped += 1,
                (Some(base), false) => {
                    *taken = take(base, number, len, file, &mut buffer)?;
                    skipped += 1;
                }
            }
            self.done.store((skipped + frozen.written()) * CHUNK, Ordering::Relaxed);
        }
        let written = frozen.finish()?;
        self.done.store(self.total, Ordering::Relaxed);
        let sums: Vec<_> = taken.into_iter().zip(written).map(|(taken, written)| taken | written).collect();
        plan.complete(file, &sums)?;
        Ok(file.metadata()?.blocks() * 512)
    }
}

impl Source {
    /// Which chunks have pages that are neither untouched nor a file's. Opens the gate.
    fn changed(&self) -> Vec<bool> {
        let _closed = Closed(&self.gate);
        let chunk = |number| {
            let (region, at, len) = self.plan.chunk(number)?;
            Some(has_changed(self.hosts[region].as_ptr() as u64 + at, len))
        };
        (0..self.plan.chunks()).map(|number| chunk(number).unwrap_or(false)).collect()
    }
}

/// Whether a range of this process's memory has pages that are neither untouched nor a file's. Without an answer it may have.
fn has_changed(start: u64, len: u64) -> bool {
    let Some(pages) = &*PAGES else { return true };
    let mut entries = [0; 8 * (CHUNK / PAGE_SIZE) as usize];
    let wanted = &mut entries[..8 * (len / PAGE_SIZE) as usize];
    if pages.read_exact_at(wanted, start / PAGE_SIZE * 8).is_err() {
        return true;
    }
    wanted.chunks_exact(8).any(|bytes| {
        let entry = bytes.iter().rev().fold(0, |all: u64, byte| all << 8 | u64::from(*byte));
        entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
    })
}

/// Takes a chunk from where the machine went on from; gives its checksum.
fn take(base: &Image, number: usize, len: u64, file: &File, buffer: &mut Vec<u8>) -> Result<u64, ImageError> {
    let sum = base.sum(number).unwrap_or(0);
    if sum == 0 {
        return Ok(0);
    }
    buffer.resize(len as usize, 0);
    base.file().read_exact_at(buffer, Plan::offset(number))?;
    if checksum(buffer) != sum {
        let what = "the memory that the machine went on from is not what was written".into();
        return Err(ImageError::Damaged { what });
    }
    write_sparse(file.as_raw_fd(), buffer, Plan::offset(number)).map_err(io::Error::from_raw_os_error)?;
    Ok(sum)
}
