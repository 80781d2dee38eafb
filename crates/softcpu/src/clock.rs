//! The machine's clock: one for all processors, devices and kvmclock.
//!
//! Guest time is the host's monotonic clock less what the machine spent paused. The TSC is derived from it, so a
//! software processor's TSC runs at exactly the frequency it announces, on every host.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// A guest's time. Runs from creation until [`stop`](Self::stop).
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    /// While running: guest time = host time since `origin` + `offset` (wrapping). While stopped: guest time = `offset`.
    offset: AtomicU64,
    stopped: AtomicBool,
    tsc_khz: u32,
}

impl Clock {
    /// A clock that reads 0 now, with a TSC of `tsc_khz` kHz.
    pub fn new(tsc_khz: u32) -> Self {
        Self { origin: Instant::now(), offset: AtomicU64::new(0), stopped: AtomicBool::new(false), tsc_khz }
    }

    fn host_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Guest nanoseconds since the machine started, without the time it was paused.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        let offset = self.offset.load(Ordering::Relaxed);
        if self.stopped.load(Ordering::Relaxed) { offset } else { self.host_ns().wrapping_add(offset) }
    }

    /// The machine's TSC.
    #[inline]
    pub fn tsc(&self) -> u64 {
        self.ns_to_tsc(self.now_ns())
    }

    /// TSC frequency in kHz.
    pub fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    /// TSC ticks in `ns` nanoseconds.
    #[inline]
    pub fn ns_to_tsc(&self, ns: u64) -> u64 {
        if self.tsc_khz == 1_000_000 {
            ns
        } else {
            (u128::from(ns) * u128::from(self.tsc_khz) / 1_000_000) as u64
        }
    }

    /// Nanoseconds in `tsc` ticks, rounded up.
    #[inline]
    pub fn tsc_to_ns(&self, tsc: u64) -> u64 {
        if self.tsc_khz == 1_000_000 {
            tsc
        } else {
            (u128::from(tsc) * 1_000_000).div_ceil(u128::from(self.tsc_khz)).min(u128::from(u64::MAX)) as u64
        }
    }

    /// Freezes the time; to be called when no processor runs.
    pub fn stop(&self) {
        let now = self.now_ns();
        self.offset.store(now, Ordering::Relaxed);
        self.stopped.store(true, Ordering::Release);
    }

    /// Sets the time of a stopped clock, nanoseconds.
    pub fn set_ns(&self, ns: u64) {
        debug_assert!(self.stopped.load(Ordering::Relaxed), "the clock must be stopped to be set");
        self.offset.store(ns, Ordering::Relaxed);
    }

    /// Lets a stopped clock run on from where it stood.
    pub fn start(&self) {
        if self.stopped.load(Ordering::Relaxed) {
            let at = self.offset.load(Ordering::Relaxed);
            self.offset.store(at.wrapping_sub(self.host_ns()), Ordering::Relaxed);
            self.stopped.store(false, Ordering::Release);
        }
    }
}
