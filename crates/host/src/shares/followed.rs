//! A guest whose share the [regulator](super::Regulator) follows: what it asked for, got and was due, and what its process and its control group are told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{CpuNow, Id};
use vmm::figures::{Looks, Page};

use super::control::{Control, Controls, Limit, Throttled, Usage};
use super::debt::{self, Debt};
use super::groups::Nested;
use super::ledger::Ledger;
use super::look::Look;
use super::promises::Claimant;
use super::rule::{self, Due, Want};
use super::seen::bound;
use crate::figures::TURN;

/// For how long it is remembered what was used.
pub(super) const MEMORY: Duration = Duration::from_secs(10);
/// Threads are looked for again after so many looks: processors come and go.
const LOOKS: u32 = 40;
/// Whoever used less than this part of a window, and much less than it would have if all were busy, wants no more than that.
const QUIET: f64 = 0.01;
/// Whoever has no more than this is looked at once a second: a window is a slice or two of what it gets, or none, and there may be a thousand of them.
const SMALL: f64 = 0.01;
/// A guest is due another amount when what it is due has changed by that part of it. One of ten that begins and ceases over and over does not keep the others from what they owe one another.
const CHANGE: f64 = 0.25;

/// A guest that is followed.
pub(super) struct Followed {
    id: Id,
    pub(super) claimant: Claimant,
    control: Option<Control>,
    /// Why what it may have cannot be set.
    lost: Option<String>,
    usage: Option<Usage>,
    look: Option<Look>,
    /// What it had used when, the oldest first.
    used: VecDeque<(Instant, u64)>,
    /// When its threads were looked at.
    looked: Instant,
    looks: u32,
    /// Whether it used nothing at all in the last window.
    slept: bool,
    /// What it asked for in the last two windows.
    pub(super) asked: [f64; 2],
    got: f64,
    /// What it got in the time that is remembered.
    pub(super) got_10s: f64,
    /// What it was not to pass in the last window.
    pub(super) limit: Option<f64>,
    /// What it was to have in the last window.
    pub(super) due: f64,
    /// What it would have if all were busy.
    pub(super) busy: f64,
    /// Whether only its weight keeps it from having more.
    pub(super) hungry: bool,
    /// Whether it is to have all that its processors can do, and wants that.
    full: bool,
    /// When that was so last.
    hungered: Option<Instant>,
    pub(super) debt: Debt,
    pub(super) ledger: Ledger,
    /// What it was promised and due since it was looked at.
    unseen: Ledger,
    /// The ledger when debts were settled.
    settled: Ledger,
    /// Whether it has been hungry since.
    was_hungry: bool,
    /// Whether it has wanted all of its processors, and been due them, since.
    was_full: bool,
    /// Whether it has been due the same since.
    was_same: bool,
    throttled: Option<Throttled>,
    /// Where its process says what it does, and is told what it keeps to.
    page: Option<Arc<Page>>,
    /// For how long its processors had kept still for the sake of their limit, ns.
    kept: u64,
}

impl Followed {
    pub(super) fn new(id: Id, claimant: Claimant, controls: Option<&Controls>) -> Self {
        let control = controls.and_then(|controls| {
            let opened = controls.of(id);
            opened
                .inspect_err(|error| {
                    tracing::warn!("guest {id} has no control group that can be set: {error}")
                })
                .ok()
        });
        let usage = controls.and_then(|controls| controls.usage(id).ok());
        let busy = f64::from(claimant.cpus);
        let (used, looked) = (VecDeque::new(), Instant::now());
        Self {
            id,
            claimant,
            control,
            lost: None,
            usage,
            look: None,
            used,
            looked,
            looks: 0,
            slept: false,
            asked: [busy; 2],
            got: 0.0,
            got_10s: 0.0,
            limit: None,
            due: 0.0,
            busy,
            hungry: false,
            full: false,
            hungered: None,
            debt: Debt::default(),
            ledger: Ledger::default(),
            unseen: Ledger::default(),
            settled: Ledger::default(),
            was_hungry: false,
            was_full: false,
            was_same: false,
            throttled: controls.and_then(|controls| controls.throttled(id).ok()),
            page: None,
            kept: 0,
        }
    }

    pub(super) fn want(&self, groups: &Nested) -> Want {
        // What somebody has to itself nobody else gets, whether it is used or not.
        let asks = match self.claimant.share.dedicated {
            true => f64::from(self.claimant.cpus),
            false => self.asked[0].max(self.asked[1]),
        };
        let group = groups.number(self.claimant.group.as_ref());
        let most = f64::from(self.claimant.cpus).max(self.got);
        Want { share: self.claimant.share.share(), most, asks, group }
    }

    /// One more window has passed, in which it was promised and due what it is now.
    pub(super) fn pass(&mut self, window: Duration) {
        self.unseen.add(window, self.claimant.share.reserve.get(), 0.0, self.due, 0.0);
    }

    /// Looks at what it did since the last look.
    pub(super) fn measure(&mut self, now: Instant) {
        if let Some(used) = self.usage.as_ref().and_then(|usage| usage.now().ok()) {
            self.took(now, used);
        }
    }

    /// It has used so much by now, ns.
    fn took(&mut self, now: Instant, used: u64) {
        let before = self.used.back().copied();
        while self.used.front().is_some_and(|(time, _)| now - *time > MEMORY) {
            self.used.pop_front();
        }
        self.used.push_back((now, used));
        self.got_10s =
            self.used.front().map_or(0.0, |(from, first)| part(now - *from, used.saturating_sub(*first)));
        let meant = std::mem::take(&mut self.unseen).since(&Ledger::default());
        let (Some((time, before)), Some(meant)) = (before, meant) else { return };
        let length = now - time;
        self.got = part(length, used.saturating_sub(before));
        let is_stopped = self.is_stopped();
        self.asked = [self.ask(now, used.saturating_sub(before), is_stopped), self.asked[0]];
        self.ledger.add(length, meant.promised, self.asked[0], meant.due, self.got);
        self.was_hungry &= self.hungry && self.asked[0] > self.due;
        self.was_full &= self.full && self.asked[0] > self.due * 0.98;
    }

    /// It is to have that from now on, for what has been asked for.
    pub(super) fn is_to_have(&mut self, want: &Want, due: &Due) {
        // Somebody began to want something within the window, or ceased to: the kernel divided by that at once.
        self.was_same &= (due.target - self.due).abs() <= self.due * CHANGE;
        (self.due, self.busy) = (due.target, due.busy);
        self.hungry = !self.claimant.hurries && rule::is_hungry(want, due);
        self.full = !self.claimant.hurries && rule::is_full(want, due);
    }

    /// What came of the time since debts were settled, if it wanted all that it was due in all of it.
    pub(super) fn settle(&mut self) -> Option<debt::Window> {
        let before = std::mem::replace(&mut self.settled, self.ledger);
        let hungry = std::mem::replace(&mut self.was_hungry, true);
        let full = std::mem::replace(&mut self.was_full, true);
        let same = std::mem::replace(&mut self.was_same, true);
        let past = self.ledger.since(&before).filter(|_| hungry || full)?;
        Some(debt::Window { due: past.due, got: same.then_some(past.got), wants_more: hungry })
    }

    /// Whether it has next to nothing, and would have no more if all were busy.
    pub(super) fn is_small(&self) -> bool {
        self.busy.max(self.due).max(self.got) < SMALL && self.used.len() > 1
    }

    /// Whether its limit kept it from more in the last window.
    fn is_stopped(&mut self) -> bool {
        // Whoever has no limit is not throttled.
        let Some(limit) = self.limit else { return false };
        let throttled = self.throttled.as_ref().and_then(|throttled| throttled.now().ok());
        let before = self.ledger.throttled;
        self.ledger.throttled = throttled.unwrap_or(before);
        let kept = self.page.as_ref().map_or(0, |page| page.all_kept_ns());
        let kept_before = std::mem::replace(&mut self.kept, kept);
        let throttled = self.ledger.throttled.saturating_sub(before);
        let stopped = throttled.saturating_add(kept.saturating_sub(kept_before));
        rule::is_stopped(limit, self.got, stopped)
    }

    /// The limit that its process keeps to, if it does: if its processors look by themselves, or are told to.
    fn kept_limit(&self, are_told: bool) -> Option<f64> {
        let looks = match self.page.as_ref()?.looks()? {
            Looks::ByItself => true,
            Looks::WhenTold => are_told,
        };
        self.limit.filter(|limit| looks && rule::keeps_himself(*limit))
    }

    fn looks_when_told(&self) -> bool {
        self.page.as_ref().is_some_and(|page| page.looks() == Some(Looks::WhenTold))
    }

    /// How long its processors run until they are told to look whether others are to run, if they are.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Duration> {
        if self.hungry {
            self.hungered = Some(now);
        }
        self.control.as_ref()?;
        if !self.looks_when_told() {
            return None;
        }
        let contends = self.hungered.is_some_and(|at| now - at < MEMORY);
        let looks = self.limit.map(rule::look);
        looks.into_iter().chain(contends.then_some(TURN)).min()
    }

    /// How long the kernel lets a processor run at once, if not for as long as usual.
    pub(super) fn slice(&self) -> Option<Duration> {
        self.limit.filter(|limit| rule::keeps_himself(*limit)).map(rule::turn)
    }

    /// What it kept still for before it was looked at says nothing.
    pub(super) fn follow_page(&mut self, page: Option<Arc<Page>>) {
        if self.page.is_none() {
            self.kept = page.as_ref().map_or(0, |page| page.all_kept_ns());
        }
        self.page = page;
    }

    /// Nobody tells its processors to look from now on: the kernel keeps it to its limit.
    pub(super) fn untold(&mut self) {
        if !self.looks_when_told() {
            return;
        }
        if let Some(control) = &mut self.control {
            // What has ended has no limit any more.
            let _ = control.set_limit(self.limit.map(Limit::of_kernel));
        }
        self.leave();
    }

    /// What it may have cannot be seen to now, because of this.
    pub(super) fn lose(&mut self, error: &std::io::Error) {
        if self.lost.is_none() {
            // What has ended is gone the next time.
            tracing::info!("the control group of guest {} cannot be set: {error}", self.id);
        }
        self.lost = Some(error.to_string());
        self.leave();
    }

    /// Tries again what could not be done.
    pub(super) fn find(&mut self, controls: &Controls) {
        if self.lost.is_some()
            && let Ok(control) = controls.of(self.id)
        {
            self.control = Some(control);
        }
    }

    /// Why nobody sees to what it may have, if so.
    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Nobody sees to what it may have any more.
    fn leave(&mut self) {
        self.control = None;
        if let Some(page) = &self.page {
            page.set_limit(0);
        }
    }

    /// Whether its group keeps to the limit and has nearly this weight.
    pub(super) fn is_set(&self, weight: u64) -> bool {
        self.control.as_ref().is_none_or(|control| control.has(weight, self.limit))
    }

    /// Has its process and its group keep to the limit, and gives it this weight.
    pub(super) fn set(&mut self, weight: u64, are_told: bool) -> std::io::Result<()> {
        let kept = self.kept_limit(are_told);
        let Some(control) = &mut self.control else { return Ok(()) };
        if let Some(page) = &self.page {
            page.set_limit(kept.map_or(0, |limit| (limit * 1e9) as u64));
            if page.turn().is_some() {
                page.set_turn(kept.map_or(TURN, |limit| rule::turn(limit).min(TURN)));
            }
        }
        control.set_weight(weight)?;
        control.set_limit(self.limit.map(|processors| Limit { processors, is_kept: kept.is_some() }))?;
        self.lost = None;
        Ok(())
    }

    /// What it would have taken in the last window.
    fn ask(&mut self, now: Instant, used: u64, is_stopped: bool) -> f64 {
        let (cpus, is_small) = (f64::from(self.claimant.cpus), self.is_small());
        let slept = std::mem::replace(&mut self.slept, used == 0);
        if is_small && used == 0 {
            self.looked = now;
            // Where very many wait one may have no turn in a second. A wait is counted when it ends.
            return if slept { 0.0 } else { self.asked[0] };
        }
        if self.got < QUIET.min(self.busy / 2.0) && !is_stopped && !is_small {
            // Nobody has to ask its threads.
            self.look = None;
            return self.got;
        }
        let since = now - self.looked;
        (self.looked, self.looks) = (now, self.looks + 1);
        let did = self.look.as_mut().and_then(|look| look.again(nanos(since)).ok());
        if did.is_none() || self.looks.is_multiple_of(LOOKS) {
            self.look = self.claimant.pid.and_then(|pid| Look::at(pid).ok());
        }
        match did {
            Some(did) => {
                // A quota that is used up is no wait that is counted. What its devices took comes besides.
                let asked = if is_stopped { cpus } else { did.asked };
                asked + part(since, used.saturating_sub(did.ran))
            }
            None if is_small => self.asked[0],
            None => cpus,
        }
    }

    pub(super) fn now(&self, due: &Due, own: &[u32]) -> CpuNow {
        let asked = self.asked[0];
        let bound = bound(asked, due.target, rule::hard(&self.claimant.share.share()), due.group_is_full);
        CpuNow { asked, target: due.target, got: self.got, got_10s: self.got_10s, bound, own: own.into() }
    }
}

/// A limit, or the one before if nobody could tell the two apart: each that is set begins a new period.
pub(super) fn steady(before: Option<f64>, limit: Option<f64>) -> Option<f64> {
    before.filter(|before| limit.is_some_and(|limit| (limit - before).abs() < before * 0.01)).or(limit)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// So much time of a window as processors.
pub(super) fn part(window: Duration, used: u64) -> f64 {
    if window.is_zero() { 0.0 } else { used as f64 / window.as_nanos() as f64 }
}

#[cfg(test)]
mod tests {
    use api::VmDefinition;

    use super::*;
    use crate::shares::Shares;

    const WINDOW: Duration = Duration::from_millis(250);

    /// A guest that has one processor, and so much of it if all are busy.
    fn guest(busy: f64) -> Followed {
        let (shares, id) = (Shares::new(None), Id::new());
        shares.settle(id, &VmDefinition::named("a".parse().unwrap()), Some(1));
        let mut claimant = shares.running().remove(0).1;
        // Nobody can say what its threads waited for.
        claimant.pid = None;
        let mut guest = Followed::new(id, claimant, None);
        (guest.busy, guest.due, guest.hungry) = (busy, busy, true);
        guest
    }

    /// It uses so much of each of these windows, ms.
    fn uses(guest: &mut Followed, windows: &[u64]) {
        for ms in windows {
            let (now, used) = guest.used.back().copied().unwrap_or((Instant::now(), 0));
            guest.pass(WINDOW);
            guest.took(now + WINDOW, used + ms * 1_000_000);
        }
    }

    #[test]
    fn who_has_next_to_nothing_is_small_until_it_has_more() {
        let mut one = guest(0.004);
        assert!(!one.is_small(), "it has not been looked at");
        uses(&mut one, &[0, 1, 1]);
        assert!(one.is_small());
        uses(&mut one, &[200]);
        assert!(!one.is_small());
        let mut other = guest(0.1);
        uses(&mut other, &[0, 0, 0]);
        assert!(!other.is_small());
    }

    #[test]
    fn who_uses_nothing_twice_wants_nothing_and_is_owed_nothing() {
        let mut small = guest(0.004);
        uses(&mut small, &[0, 1]);
        assert!(small.settle().is_none(), "it has just come");
        uses(&mut small, &[0, 2]);
        let window = small.settle();
        let near = |a: f64| (a - 0.004).abs() < 1e-9;
        assert!(window.is_some_and(|window| near(window.due) && window.got.is_some_and(near)), "{window:?}");
        uses(&mut small, &[0, 0]);
        assert!(small.settle().is_none());
        assert_eq!(small.asked[0], 0.0);
    }

    #[test]
    fn a_second_in_which_what_is_due_changed_is_no_measure_of_what_was_got() {
        let mut one = guest(0.2);
        let want = Want { share: one.claimant.share.share(), most: 1.0, asks: 1.0, group: None };
        let due = |target| Due { target, busy: target, weight: 1.0, limit: None, group_is_full: false };
        let mut second = |dues: [f64; 4]| {
            for due_now in dues {
                uses(&mut one, &[50]);
                one.is_to_have(&want, &due(due_now));
            }
            one.settle().map(|window| window.got.is_some())
        };
        second([0.2; 4]);
        assert_eq!(second([0.2, 0.2, 0.21, 0.21]), Some(true));
        assert_eq!(second([0.21, 0.21, 0.21, 0.1]), Some(false), "somebody began in the last window");
        assert_eq!(second([0.1; 4]), Some(true));
    }

    #[test]
    fn what_was_due_in_windows_that_nobody_looked_at_counts_as_well() {
        let mut small = guest(0.004);
        uses(&mut small, &[0, 1]);
        small.settle();
        let before = small.ledger;
        for due in [0.008, 0.0, 0.004] {
            small.due = due;
            small.pass(WINDOW);
        }
        small.due = 0.004;
        uses(&mut small, &[1]);
        let receipt = small.ledger.since(&before);
        assert!(receipt.is_some_and(|receipt| (receipt.due - 0.004).abs() < 1e-9), "{receipt:?}");
    }
}
