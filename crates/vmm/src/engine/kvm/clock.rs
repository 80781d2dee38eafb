//! A guest's time on KVM: kvmclock, and TSCs that stand still with it. While the machine runs both are KVM's, while it is
//! stopped they are kept here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;

use super::tsc::{Tsc, host_tsc};

#[derive(Debug)]
struct Time {
    /// Guest nanoseconds while stopped.
    stopped_at: Option<u64>,
    /// The machine's TSC when it was last stopped.
    tsc_at_stop: u64,
    /// The machine's TSC less the host's, as of the last start.
    origin: u64,
    /// How often the clock was started.
    starts: u64,
}

/// The clock of one partition. It starts stopped, at 0.
#[derive(Debug)]
pub(super) struct GuestClock {
    tsc_khz: u32,
    time: Mutex<Time>,
    tscs: Mutex<Vec<Arc<Tsc>>>,
}

impl GuestClock {
    pub fn new(tsc_khz: u32) -> Self {
        let time = Time { stopped_at: Some(0), tsc_at_stop: 0, origin: 0, starts: 0 };
        Self { tsc_khz, time: Mutex::new(time), tscs: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the TSC of a processor that does not run yet.
    pub fn add(&self, tsc: Arc<Tsc>) {
        self.tscs().push(tsc);
    }

    fn tscs(&self) -> MutexGuard<'_, Vec<Arc<Tsc>>> {
        self.tscs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// TSC ticks in `ns` nanoseconds.
    fn ticks(&self, ns: u64) -> u64 {
        (u128::from(ns) * u128::from(self.tsc_khz) / 1_000_000) as u64
    }

    pub fn now_ns(&self, vm: &VmFd) -> u64 {
        match self.lock().stopped_at {
            Some(ns) => ns,
            None => kvmclock(vm),
        }
    }

    pub fn stop(&self, vm: &VmFd) {
        let mut time = self.lock();
        if time.stopped_at.is_none() {
            time.stopped_at = Some(kvmclock(vm));
            time.tsc_at_stop = host_tsc().wrapping_add(time.origin);
            self.tscs().iter().for_each(|tsc| tsc.look(time.origin));
        }
    }

    pub fn start(&self, vm: &VmFd) {
        let mut time = self.lock();
        let Some(ns) = time.stopped_at.take() else { return };
        time.origin = time.tsc_at_stop.wrapping_sub(host_tsc());
        for tsc in self.tscs().iter() {
            if let Err(error) = tsc.start(time.origin) {
                tracing::error!(%error, "a TSC cannot be set");
            }
        }
        // After the TSCs: now KVM looks whether they agree, and only if they do is kvmclock good for all processors.
        if let Err(error) = vm.set_clock(&kvm_clock_data { clock: ns, ..Default::default() }) {
            tracing::error!(%error, "guest time cannot be set");
        }
        time.starts += 1;
    }

    /// Sets a stopped clock. The processors' TSCs go along, so it does not matter whether their state is set before or
    /// after.
    pub fn set_ns(&self, ns: u64) {
        let mut time = self.lock();
        debug_assert!(time.stopped_at.is_some(), "the clock must be stopped to be set");
        if let Some(before) = time.stopped_at.replace(ns) {
            time.tsc_at_stop = time.tsc_at_stop.wrapping_add(self.ticks(ns)).wrapping_sub(self.ticks(before));
        }
    }

    /// The host's TSC plus this is the machine's: while stopped for this moment only.
    pub fn origin(&self) -> u64 {
        let time = self.lock();
        if time.stopped_at.is_some() { time.tsc_at_stop.wrapping_sub(host_tsc()) } else { time.origin }
    }

    /// How often the clock was started: with each start [`origin`](Self::origin) changes.
    pub fn starts(&self) -> u64 {
        self.lock().starts
    }

    /// Guest time in ticks of the TSC: what [`softcpu::Clock`] calls the machine's TSC.
    pub fn ticks_now(&self, vm: &VmFd) -> u64 {
        self.ticks(self.now_ns(vm))
    }

    /// How far the machine's TSC has drifted from what guest time says: kvmclock follows the host's corrected clock, the
    /// TSC does not.
    pub fn drift(&self, vm: &VmFd) -> u64 {
        let time = self.lock();
        let (ns, tsc) = match time.stopped_at {
            Some(ns) => (ns, time.tsc_at_stop),
            None => (kvmclock(vm), host_tsc().wrapping_add(time.origin)),
        };
        tsc.wrapping_sub(self.ticks(ns))
    }
}

/// KVM's own count, nanoseconds.
fn kvmclock(vm: &VmFd) -> u64 {
    match vm.get_clock() {
        Ok(data) => data.clock,
        Err(error) => {
            tracing::error!(%error, "guest time cannot be read");
            0
        }
    }
}
