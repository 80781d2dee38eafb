//! The limits of a device at work: who may not go on yet is kicked when it is time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::allowance::Allowance;
use super::gate::Gate;
use super::{Cost, Limit, LimitState};
use crate::reactor::Handle;
use crate::virtio::waker::Waker;
use crate::virtio::{DeviceState, RestoreError};

/// The longest that the timer is set for: then it is looked again.
const LONGEST: u64 = 3600 * 1_000_000_000;

/// The number of the next device among those of this process.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The limits of a device, and its part in allowances that it has together with others. Its queues ask for each request; who may not go on leaves the request in its queue, does nothing more, and is
/// kicked later as the driver kicks: no thread waits, and nothing is held meanwhile, so that a machine can be paused, saved and reset, and
/// a disk's files changed, while its requests wait. Where there are no limits that costs a look at a flag.
#[derive(Debug)]
pub struct Throttle {
    /// Its number.
    device: usize,
    limited: AtomicBool,
    /// Times are counted from here.
    origin: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    gate: Gate,
    /// What each queue has together with other devices; queues beyond have what the last one has.
    shared: Vec<Option<Arc<Allowance>>>,
    active: Option<Active>,
}

/// A device that is being served.
struct Active {
    waker: Waker,
    /// When its timer expires.
    due: Option<u64>,
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Active").field("due", &self.due).finish_non_exhaustive()
    }
}

impl Throttle {
    /// With these limits, lane by lane.
    pub(in crate::virtio) fn new(limits: &[Limit]) -> Arc<Self> {
        let gate = Gate::new(limits, 0);
        let limited = AtomicBool::new(gate.is_limited());
        let inner = Mutex::new(Inner { gate, shared: Vec::new(), active: None });
        let device = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { device, limited, origin: Instant::now(), inner })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The device is being served from now on: queue n is woken by `kicks[n]`.
    pub(in crate::virtio) fn attach(&self, reactor: Handle, kicks: Vec<Arc<EventFd>>) {
        let mut inner = self.lock();
        inner.allowances().for_each(|allowance| allowance.attach(self.device, kicks.clone()));
        inner.active = Some(Active { waker: Waker::new(reactor, kicks), due: None });
    }

    /// The device is not served any more: nobody waits, and nobody is kicked when this has returned. What has been paid stays paid.
    pub(in crate::virtio) fn detach(&self) {
        let active = {
            let mut inner = self.lock();
            inner.gate.forget_waiting();
            inner.allowances().for_each(|allowance| allowance.attach(self.device, Vec::new()));
            inner.active.take()
        };
        // Dropped without the lock, which the timer's callback takes.
        drop(active);
    }

    /// Whether the next request of queue `queue`, which costs so much, may go on now; it has paid then. Otherwise the queue is kicked when
    /// it may ask again.
    pub(in crate::virtio) fn admits(self: &Arc<Self>, queue: usize, cost: impl FnOnce() -> Cost) -> bool {
        if !self.limited.load(Ordering::Relaxed) {
            return true;
        }
        let mut inner = self.lock();
        let (now, cost) = (self.now(), cost());
        let wait = match inner.gate.look(queue, &cost, now) {
            // It pays here and there, or nowhere.
            Some(0) => match inner.allowance(queue).and_then(|all| all.ask(self.device, queue, &cost)) {
                None => {
                    if inner.gate.pass(queue, &cost) {
                        inner.kick_waiting();
                    }
                    return true;
                }
                wait => wait,
            },
            wait => {
                inner.allowance(queue).into_iter().for_each(|all| all.leave(self.device, queue));
                wait
            }
        };
        inner.gate.hold(queue, cost);
        // One that is behind another one is woken by that.
        let Some(wait) = wait else { return false };
        match self.wake_after(&mut inner, wait, now) {
            Ok(()) => false,
            Err(error) => {
                // Better too fast than never.
                tracing::error!(%error, "a device's limits are not kept: there is no timer");
                inner.gate.leave(queue);
                inner.allowance(queue).into_iter().for_each(|all| all.leave(self.device, queue));
                true
            }
        }
    }

    /// Queue `queue` is empty.
    pub(in crate::virtio) fn has_none(&self, queue: usize) {
        if self.limited.load(Ordering::Relaxed) {
            let mut inner = self.lock();
            inner.allowance(queue).into_iter().for_each(|all| all.leave(self.device, queue));
            if inner.gate.leave(queue) {
                inner.kick_waiting();
            }
        }
    }

    fn wake_after(self: &Arc<Self>, inner: &mut Inner, wait: u64, now: u64) -> std::io::Result<()> {
        // One that is not served asks for nothing.
        let Some(active) = &mut inner.active else { return Ok(()) };
        let wait = wait.min(LONGEST);
        let due = now.saturating_add(wait);
        if active.due.is_some_and(|earlier| earlier <= due) {
            return Ok(());
        }
        let mine = Arc::downgrade(self);
        active.waker.call_after(Duration::from_nanos(wait), move || {
            if let Some(throttle) = mine.upgrade() {
                throttle.is_due();
            }
        })?;
        active.due = Some(due);
        Ok(())
    }

    fn is_due(&self) {
        let mut inner = self.lock();
        if let Some(active) = &mut inner.active {
            active.due = None;
        }
        inner.kick_waiting();
    }

    /// Other limits from now on, lane by lane; those that wait ask again at once.
    pub(in crate::virtio) fn change(&self, limits: &[Limit]) {
        let mut inner = self.lock();
        inner.gate.change(limits, self.now());
        self.settle(&mut inner);
    }

    /// What each queue does counts against these allowances from now on, which other devices have, too; queues beyond have what the last
    /// one has. Those that wait ask again at once.
    pub(in crate::virtio) fn share(&self, shared: Vec<Option<Arc<Allowance>>>) {
        let mut inner = self.lock();
        let kicks = inner.active.as_ref().map(|active| active.waker.kicks().to_vec());
        let same = |(one, other): (&Option<Arc<Allowance>>, &Option<Arc<Allowance>>)| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        if inner.shared.len() == shared.len() && inner.shared.iter().zip(&shared).all(same) {
            return;
        }
        inner.allowances().for_each(|allowance| allowance.attach(self.device, Vec::new()));
        inner.shared = shared;
        if let Some(kicks) = kicks {
            inner.allowances().for_each(|allowance| allowance.attach(self.device, kicks.clone()));
        }
        self.settle(&mut inner);
    }

    fn settle(&self, inner: &mut Inner) {
        let limited = inner.gate.is_limited() || inner.allowances().next().is_some();
        self.limited.store(limited, Ordering::Relaxed);
        inner.kick_waiting();
        if !limited {
            inner.gate.forget_waiting();
        }
    }

    /// What is saved of a device that has nothing else to save.
    pub(in crate::virtio) fn save(&self) -> DeviceState {
        let mut inner = self.lock();
        let now = self.now();
        match inner.gate.is_limited() {
            true => DeviceState::Limits(LimitState { lanes: inner.gate.levels(now) }),
            false => DeviceState::Plain,
        }
    }

    /// Puts back what [`save`](Self::save) gave. The limits themselves are those that the device was made with.
    ///
    /// # Errors
    /// If it is that of a device of another kind.
    pub(in crate::virtio) fn restore(&self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Plain => {}
            DeviceState::Limits(state) => self.lock().gate.set_levels(&state.lanes, self.now()),
            _ => return Err(RestoreError::Kind),
        }
        Ok(())
    }
}

impl Inner {
    fn allowances(&self) -> impl Iterator<Item = &Arc<Allowance>> {
        self.shared.iter().flatten()
    }

    fn allowance(&self, queue: usize) -> Option<&Arc<Allowance>> {
        self.shared.get(queue).or(self.shared.last())?.as_ref()
    }

    fn kick_waiting(&self) {
        let Some(active) = &self.active else { return };
        self.gate.waiting().for_each(|queue| active.waker.kick(queue));
    }
}
