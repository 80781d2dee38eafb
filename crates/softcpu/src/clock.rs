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
            // As ns · khz / 10⁶ with more bits, which a processor divides slowly.
            let khz = u64::from(self.tsc_khz);
            (ns / 1_000_000).wrapping_mul(khz).wrapping_add(ns % 1_000_000 * khz / 1_000_000)
        }
    }

    /// Nanoseconds in `tsc` ticks, rounded up.
    #[inline]
    pub fn tsc_to_ns(&self, tsc: u64) -> u64 {
        if self.tsc_khz == 1_000_000 {
            tsc
        } else {
            let khz = u64::from(self.tsc_khz);
            (tsc / khz).saturating_mul(1_000_000).saturating_add((tsc % khz * 1_000_000).div_ceil(khz))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_exact_at_any_frequency_and_no_deadline_comes_early() {
        for khz in [1_000_000, 2_596_128, 999, 5_800_001] {
            let clock = Clock::new(khz);
            for ns in [0, 1, 999_999, 1_000_000, 1_000_001, 86_400_000_000_123, 1 << 55] {
                let exact = u128::from(ns) * u128::from(khz) / 1_000_000;
                assert_eq!(u128::from(clock.ns_to_tsc(ns)), exact, "{ns} at {khz}");
                let tsc = clock.ns_to_tsc(ns);
                assert!(clock.tsc_to_ns(tsc) <= ns && clock.ns_to_tsc(clock.tsc_to_ns(tsc)) >= tsc);
            }
        }
    }
}
