//! What all devices of a machine together may do on a storage pool or a network that other machines use, too.
//!
//! The daemon says it in memory that both have ([`crate::flows`]), four times a second. Nobody is told that it is another one: who waits looks
//! again soon, and who does not wait looks now and then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vmm_sys_util::eventfd::EventFd;

use super::gate::{Answer, Gate};
use super::{Cost, Limit, Rate};
use crate::figures::{Figures, now_ns};
use crate::flows::{self, Flow, key};

/// How old what is known of the daemon's word may be, ns.
const FRESH: u64 = 10_000_000;
/// Who waits looks again after this time at the latest, ns.
const LATEST: u64 = 20_000_000;
/// One that has not asked again for so long does not want anything now, ns: its machine stands still, its cable is cut, or it is given other
/// files.
const STALE: u64 = 100_000_000;
/// More queues than any device has.
const QUEUES: usize = 64;

/// An allowance for a flow of a machine.
#[derive(Debug)]
pub struct Allowance {
    flow: Flow,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Of one lane. Its queues are those of all devices.
    gate: Gate,
    limit: Limit,
    /// When the daemon's word was read.
    read: u64,
    /// When each of the queues that wait has asked last.
    asked: HashMap<usize, u64>,
    /// What wakes the queues of each device that is being served.
    kicks: HashMap<usize, Vec<Arc<EventFd>>>,
}

impl Allowance {
    fn new(flow: Flow) -> Self {
        let limit = Limit::default();
        let (gate, kicks) = (Gate::new(&[limit], 0), HashMap::new());
        let inner = Inner { gate, limit, read: 0, asked: HashMap::new(), kicks };
        Self { flow, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queues of a device are woken by these from now on; by nothing if it is not served any more, and then nobody waits.
    pub(super) fn attach(&self, device: usize, kicks: Vec<Arc<EventFd>>) {
        let mut inner = self.lock();
        if !kicks.is_empty() {
            inner.kicks.insert(device, kicks);
            return;
        }
        inner.kicks.remove(&device);
        for queue in 0..QUEUES {
            inner.gate.leave(device * QUEUES + queue);
        }
        self.settle(&mut inner, true);
    }

    /// The next request of a device's queue costs so much: nothing if it goes on, and has paid. Otherwise it is to ask again after so many
    /// nanoseconds.
    pub(super) fn ask(&self, device: usize, queue: usize, cost: &Cost) -> Option<u64> {
        self.ask_at(device, queue, cost, now_ns())
    }

    fn ask_at(&self, device: usize, queue: usize, cost: &Cost, now: u64) -> Option<u64> {
        if cost.bytes == 0 && cost.operations == 0 {
            return None;
        }
        let cost = Cost { lanes: 1, ..*cost };
        let mut inner = self.lock();
        self.read(&mut inner, now);
        let queue = device * QUEUES + queue;
        inner.asked.insert(queue, now);
        inner.forget_stale(now);
        match inner.gate.ask(queue, cost, now) {
            Answer::Go { others } => {
                self.flow.pass(cost.bytes, cost.operations);
                self.settle_at(&mut inner, others, now);
                None
            }
            Answer::Wait(wait) => {
                self.flow.waits(now);
                Some(wait.map_or(LATEST, |wait| wait.min(LATEST)))
            }
        }
    }

    /// Nothing of a device's queue waits for it.
    pub(super) fn leave(&self, device: usize, queue: usize) {
        let mut inner = self.lock();
        let others = inner.gate.leave(device * QUEUES + queue);
        self.settle(&mut inner, others);
    }

    /// Looks what the daemon says, if that was not just done.
    fn read(&self, inner: &mut Inner, now: u64) {
        if inner.read != 0 && now.saturating_sub(inner.read) < FRESH {
            return;
        }
        inner.read = now;
        let rate = |(per_second, burst): (u64, u64)| {
            (per_second > 0).then(|| Rate { per_second, burst: Some(burst.max(1)) })
        };
        let [bytes, operations] = self.flow.allowed(now).map(rate);
        let limit = Limit { bytes, operations };
        if limit != inner.limit {
            inner.limit = limit;
            inner.gate.change(&[limit], now);
        }
    }

    fn settle(&self, inner: &mut Inner, others: bool) {
        self.settle_at(inner, others, now_ns());
    }

    /// Says it if nobody waits any more, and wakes those that do if others may go on.
    fn settle_at(&self, inner: &mut Inner, others: bool, now: u64) {
        if inner.gate.waiting().next().is_none() {
            inner.asked.clear();
            return self.flow.waits_no_more(now);
        }
        if others {
            for queue in inner.gate.waiting() {
                let kicks = inner.kicks.get(&(queue / QUEUES));
                if let Some(kick) = kicks.and_then(|kicks| kicks.get(queue % QUEUES)) {
                    // A counter that is full wakes as well.
                    let _ = kick.write(1);
                }
            }
        }
    }
}

impl Inner {
    /// Whoever does not ask any more does not keep others waiting.
    fn forget_stale(&mut self, now: u64) {
        let is_stale =
            |queue: &usize| self.asked.get(queue).is_none_or(|asked| now.saturating_sub(*asked) > STALE);
        let stale: Vec<_> = self.gate.waiting().filter(is_stale).collect();
        for queue in stale {
            self.gate.leave(queue);
        }
    }
}

/// The allowances of a machine, by the names of their flows.
#[derive(Debug)]
pub struct Allowances {
    figures: Figures,
    /// In the order of their flows; those that no device has are free.
    flows: Vec<(String, Weak<Allowance>)>,
}

impl Allowances {
    /// None yet; what comes is said in `figures`.
    pub fn new(figures: Figures) -> Self {
        Self { figures, flows: Vec::new() }
    }

    /// The allowance for a flow, the same for all that ask for it. Nothing if there are too many: then there is none.
    pub fn of(&mut self, name: &str) -> Option<Arc<Allowance>> {
        let known = self.flows.iter().find(|(other, _)| other == name);
        if let Some(allowance) = known.and_then(|(_, allowance)| allowance.upgrade()) {
            return Some(allowance);
        }
        // A flow that begins again goes on counting where it was.
        let same = self.flows.iter().position(|(other, _)| other == name);
        let free = || self.flows.iter().position(|(_, allowance)| allowance.strong_count() == 0);
        let place = same.or_else(free).unwrap_or(self.flows.len());
        if place >= flows::MOST {
            tracing::warn!(
                "what this machine does on {name} is not limited: it uses too many pools and networks"
            );
            return None;
        }
        let allowance = Arc::new(Allowance::new(Flow::new(self.figures.clone(), place, key(name))));
        let entry = (name.to_owned(), Arc::downgrade(&allowance));
        match self.flows.get_mut(place) {
            Some(known) => *known = entry,
            None => self.flows.push(entry),
        }
        Some(allowance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Page;
    use crate::flows::{Allowed, Part, Passed};

    const SECOND: u64 = 1_000_000_000;
    const LONG: u64 = u64::MAX / 2;

    /// A machine's allowances, and what the daemon sees.
    fn both() -> (Allowances, Page) {
        let (figures, (page, file)) = (Figures::new().unwrap(), Page::create().unwrap());
        figures.publish(Page::open(file).unwrap());
        (Allowances::new(figures), page)
    }

    fn bytes(per_second: u64, burst: u64, alone: u64, until: u64) -> Allowed {
        let operations = Part::default();
        Allowed { bytes: Part { per_second, burst, alone }, operations, until }
    }

    fn cost(bytes: u64) -> Cost {
        Cost { lanes: 2, bytes, operations: 1 }
    }

    /// What one lets through from `from` on who always has another request of one of two devices; gives when it is over.
    fn busy(allowance: &Allowance, from: u64, to: u64, request: u64) -> [u64; 2] {
        let (mut sums, mut now) = ([0; 2], from);
        while now < to {
            let mut wait = u64::MAX;
            for (device, sum) in sums.iter_mut().enumerate() {
                match allowance.ask_at(device, 0, &cost(request), now) {
                    None => {
                        *sum += request;
                        wait = 0;
                    }
                    Some(least) => wait = wait.min(least.max(1)),
                }
            }
            now += wait;
        }
        sums
    }

    #[test]
    fn all_devices_together_do_what_the_daemon_says_and_no_more() {
        let (mut all, page) = both();
        let allowance = all.of("pool/a").unwrap();
        assert!(Arc::ptr_eq(&allowance, &all.of("pool/a").unwrap()));
        assert_eq!(allowance.ask_at(0, 0, &cost(1 << 30), 1), None, "nobody has said anything yet");
        let flow = page.flow(key("pool/a")).unwrap();
        page.allow(flow, &bytes(1_000_000, 1000, 1, LONG));
        let before = page.passed(flow, 0).bytes;
        let sums = busy(&allowance, SECOND, 11 * SECOND, 500);
        let sum = sums[0] + sums[1];
        assert!((9_990_000..=10_001_000).contains(&sum), "{sums:?}");
        assert!(sums[0].abs_diff(sums[1]) <= 1000, "they have turns: {sums:?}");
        let passed = page.passed(flow, 11 * SECOND);
        assert_eq!(passed.bytes - before, sum);
        assert!(passed.waited_ns > 9 * SECOND, "{passed:?}");
    }

    #[test]
    fn a_change_is_in_force_at_once_and_forgives_nothing() {
        let (mut all, page) = both();
        let allowance = all.of("network/a/send").unwrap();
        let flow = page.flow(key("network/a/send")).unwrap();
        page.allow(flow, &bytes(1000, 1000, 1, LONG));
        assert_eq!(
            allowance.ask_at(0, 1, &cost(101_000), SECOND),
            None,
            "what is larger than the burst passes once"
        );
        assert_eq!(allowance.ask_at(0, 1, &cost(1), SECOND), Some(LATEST), "and is owed");
        page.allow(flow, &bytes(100_000, 1000, 1, LONG));
        assert_eq!(allowance.ask_at(0, 1, &cost(1), SECOND + FRESH), Some(LATEST));
        assert_eq!(allowance.ask_at(0, 1, &cost(1), 2 * SECOND - 1), Some(9_910_001), "at the new rate");
        assert_eq!(allowance.ask_at(0, 1, &cost(1), 2 * SECOND + SECOND / 50), None);
        // Nobody says anything any more: then what it would have if all were busy.
        page.allow(flow, &bytes(100_000, 1, 10, 3 * SECOND));
        assert_eq!(allowance.ask_at(0, 1, &cost(1), 4 * SECOND), None);
        assert_eq!(allowance.ask_at(0, 1, &cost(1), 4 * SECOND), Some(LATEST));
        // No limit any more.
        page.allow(flow, &Allowed { until: LONG, ..Allowed::default() });
        assert_eq!(allowance.ask_at(0, 1, &cost(1 << 40), 5 * SECOND), None);
    }

    #[test]
    fn operations_count_too_and_what_costs_nothing_never_waits() {
        let (mut all, page) = both();
        let allowance = all.of("pool/a").unwrap();
        let flow = page.flow(key("pool/a")).unwrap();
        let operations = Part { per_second: 10, burst: 1, alone: 1 };
        page.allow(flow, &Allowed { bytes: Part::default(), operations, until: LONG });
        assert_eq!(allowance.ask_at(0, 0, &cost(1 << 30), SECOND), None);
        assert_eq!(allowance.ask_at(1, 0, &cost(0), SECOND + SECOND / 10 - 1), Some(1));
        assert_eq!(allowance.ask_at(2, 0, &Cost { lanes: 0, bytes: 0, operations: 0 }, SECOND), None);
        assert_eq!(page.passed(flow, 0), Passed { bytes: 1 << 30, operations: 1, waited_ns: 0 });
    }

    #[test]
    fn who_waits_is_seen_waiting_and_woken_when_the_one_before_it_has_gone() {
        let (mut all, page) = both();
        let allowance = all.of("pool/a").unwrap();
        let flow = page.flow(key("pool/a")).unwrap();
        page.allow(flow, &bytes(1000, 1, 1, LONG));
        let kick = Arc::new(EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap());
        allowance.attach(1, vec![Arc::clone(&kick)]);
        assert_eq!(allowance.ask_at(0, 0, &cost(1), SECOND), None);
        assert!(allowance.ask_at(0, 0, &cost(1), SECOND).is_some());
        assert_eq!(allowance.ask_at(1, 0, &cost(1), SECOND), Some(LATEST), "it is behind");
        assert_eq!(page.passed(flow, SECOND + 500_000).waited_ns, 500_000, "while it waits");
        assert!(kick.read().is_err());
        assert_eq!(allowance.ask_at(0, 0, &cost(1), SECOND + 1_000_000), None);
        assert_eq!(kick.read().unwrap(), 1);
        // A device that is not served any more waits for nothing.
        allowance.attach(1, Vec::new());
        let waited = page.passed(flow, now_ns()).waited_ns;
        assert_eq!(page.passed(flow, u64::MAX).waited_ns, waited);
    }

    #[test]
    fn one_that_does_not_ask_any_more_keeps_nobody_waiting() {
        let (mut all, page) = both();
        let allowance = all.of("network/a/receive").unwrap();
        page.allow(page.flow(key("network/a/receive")).unwrap(), &bytes(1000, 1, 1, LONG));
        assert_eq!(allowance.ask_at(0, 0, &cost(1), SECOND), None);
        assert!(allowance.ask_at(0, 0, &cost(1), SECOND).is_some());
        assert!(allowance.ask_at(1, 0, &cost(1), SECOND + STALE).is_some(), "it is behind");
        assert_eq!(allowance.ask_at(1, 0, &cost(1), SECOND + STALE + 1), None);
    }

    #[test]
    fn flows_that_nobody_has_any_more_make_room_for_others() {
        let (mut all, _) = both();
        let held: Vec<_> = (0..flows::MOST).map(|n| all.of(&format!("pool/{n}"))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(all.of("pool/more").is_none());
        drop(held);
        assert!(all.of("pool/more").is_some() && all.flows.len() == flows::MOST);
    }
}
