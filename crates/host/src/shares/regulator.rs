//! The thread that measures what guests get and want, and has their control groups follow the rule.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::{CpuNow, Id, Name};
use share::{Group, above};
use vmm::figures::{Looks, Page};

use super::control::{Control, Controls, Limit, Part, Throttled, Usage, Version};
use super::debt::{self, Debt};
use super::groups::Nested;
use super::ledger::Ledger;
use super::look::Look;
use super::own::Own;
use super::promises::{Claimant, Shares, Woken, capacity};
use super::rule::{self, Due, Want};
use super::seen::{GroupSeen, Seen, bound};
use super::ticks::Ticks;
use crate::figures::{Figures, TURN};
use crate::machine;

/// How often it is looked while anything is promised.
const WINDOW: Duration = Duration::from_millis(250);
/// How often otherwise: somebody may want to know.
const IDLE_WINDOW: Duration = Duration::from_secs(1);
/// Changes that come together are taken together.
const TOGETHER: Duration = Duration::from_millis(2);
/// For how long it is remembered what was used.
const MEMORY: Duration = Duration::from_secs(10);
/// Threads are looked for again after so many looks: processors come and go.
const LOOKS: u32 = 40;
/// Whoever used less than this part of a window, and much less than it would have if all were busy, wants no more than that.
const QUIET: f64 = 0.01;
/// Whoever has no more than this is looked at once a second: a window is a slice or two of what it gets, or none, and there may be a thousand of them.
const SMALL: f64 = 0.01;
/// Windows in that second, after which debts are settled.
const SECOND: u32 = 4;

/// The thread.
pub struct Regulator {
    shares: Arc<Shares>,
    thread: Option<JoinHandle<()>>,
}

impl Regulator {
    /// Begins to hold to what is promised; `controls` are where the groups are, or why there are none, and guests' processes read in `figures` what they keep to themselves.
    ///
    /// # Errors
    /// If there cannot be one more thread.
    pub fn begin(
        shares: Arc<Shares>,
        figures: Arc<Figures>,
        controls: Result<Controls, String>,
    ) -> std::io::Result<Self> {
        if let Err(why) = &controls {
            tracing::warn!("what guests are promised of processors is not held to: {why}");
        }
        let mut loops = Loop::new(Arc::clone(&shares), figures, controls);
        let thread = std::thread::Builder::new().name("shares".into()).spawn(move || loops.run())?;
        Ok(Self { shares, thread: Some(thread) })
    }

    /// Ends it. What it has set stays.
    pub fn end(mut self) {
        self.shares.end();
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has nothing more to do.
            let _ = thread.join();
        }
    }
}

/// A guest that is followed.
struct Followed {
    claimant: Claimant,
    control: Option<Control>,
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
    asked: [f64; 2],
    got: f64,
    /// What it was not to pass in the last window.
    limit: Option<f64>,
    /// What it was to have in the last window.
    due: f64,
    /// What it would have if all were busy.
    busy: f64,
    /// Whether only its weight keeps it from having more.
    hungry: bool,
    /// When that was so last.
    hungered: Option<Instant>,
    debt: Debt,
    ledger: Ledger,
    /// What it was promised and due since it was looked at.
    unseen: Ledger,
    /// The ledger when debts were settled, and whether it has been hungry since.
    settled: (Ledger, bool),
    throttled: Option<Throttled>,
    /// Where its process says what it does, and is told what it keeps to.
    page: Option<Arc<Page>>,
    /// For how long its processors had kept still for the sake of their limit, ns.
    kept: u64,
}

impl Followed {
    fn new(id: Id, claimant: Claimant, controls: Option<&Controls>) -> Self {
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
            claimant,
            control,
            usage,
            look: None,
            used,
            looked,
            looks: 0,
            slept: false,
            asked: [busy; 2],
            got: 0.0,
            limit: None,
            due: 0.0,
            busy,
            hungry: false,
            hungered: None,
            debt: Debt::default(),
            ledger: Ledger::default(),
            unseen: Ledger::default(),
            settled: (Ledger::default(), false),
            throttled: controls.and_then(|controls| controls.throttled(id).ok()),
            page: None,
            kept: 0,
        }
    }

    fn want(&self, groups: &Nested) -> Want {
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
    fn pass(&mut self, window: Duration) {
        self.unseen.add(window, self.claimant.share.reserve.get(), 0.0, self.due, 0.0);
    }

    /// Looks at what it did since the last look.
    fn measure(&mut self, now: Instant) {
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
        let meant = std::mem::take(&mut self.unseen).since(&Ledger::default());
        let (Some((time, before)), Some(meant)) = (before, meant) else { return };
        let length = now - time;
        self.got = part(length, used.saturating_sub(before));
        let is_stopped = self.is_stopped();
        self.asked = [self.ask(now, used.saturating_sub(before), is_stopped), self.asked[0]];
        self.ledger.add(length, meant.promised, self.asked[0], meant.due, self.got);
        self.settled.1 &= self.hungry && self.asked[0] > self.due;
    }

    /// What came of the time since debts were settled, if it was hungry in all of it.
    fn settle(&mut self) -> Option<debt::Window> {
        let (before, hungry) = std::mem::replace(&mut self.settled, (self.ledger, true));
        let past = self.ledger.since(&before).filter(|_| hungry)?;
        Some(debt::Window { due: past.due, got: past.got })
    }

    /// Whether it has next to nothing, and would have no more if all were busy.
    fn is_small(&self) -> bool {
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
        let stopped = self.ledger.throttled.saturating_sub(before) + kept.saturating_sub(kept_before);
        rule::is_stopped(limit, self.got, stopped)
    }

    /// The limit that its process keeps to, if it does.
    fn kept_limit(&self) -> Option<f64> {
        let looks = self.page.as_ref().and_then(|page| page.looks());
        self.limit.filter(|limit| looks.is_some() && rule::keeps_himself(*limit))
    }

    /// How long its processors run until they are told to look whether others are to run, if they are.
    fn tick(&mut self, now: Instant) -> Option<Duration> {
        if self.hungry {
            self.hungered = Some(now);
        }
        self.control.as_ref()?;
        self.page.as_ref().filter(|page| page.looks() == Some(Looks::WhenTold))?;
        let contends = self.hungered.is_some_and(|at| now - at < MEMORY);
        self.kept_limit().map(rule::look).or(contends.then_some(TURN))
    }

    /// Has its process and its group keep to the limit, and gives it this weight.
    fn set(&mut self, weight: u64) -> std::io::Result<()> {
        let kept = self.kept_limit();
        let Some(control) = &mut self.control else { return Ok(()) };
        if let Some(page) = &self.page {
            page.set_limit(kept.map_or(0, |limit| (limit * 1e9) as u64));
            if page.turn().is_some() {
                page.set_turn(kept.map_or(TURN, |limit| rule::turn(limit).min(TURN)));
            }
        }
        control.set_weight(weight)?;
        control.set_limit(self.limit.map(|processors| Limit { processors, is_kept: kept.is_some() }))
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

    fn got_10s(&self) -> f64 {
        match (self.used.front(), self.used.back()) {
            (Some((from, before)), Some((to, after))) => part(*to - *from, after.saturating_sub(*before)),
            _ => 0.0,
        }
    }

    fn now(&self, due: &Due, own: &[u32]) -> CpuNow {
        let asked = self.asked[0];
        let bound = bound(asked, due.target, rule::hard(&self.claimant.share.share()), due.group_is_full);
        CpuNow { asked, target: due.target, got: self.got, got_10s: self.got_10s(), bound, own: own.into() }
    }
}

/// A limit, or the one before if nobody could tell the two apart: each that is set begins a new period.
fn steady(before: Option<f64>, limit: Option<f64>) -> Option<f64> {
    before.filter(|before| limit.is_some_and(|limit| (limit - before).abs() < before * 0.01)).or(limit)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// So much time of a window as processors.
fn part(window: Duration, used: u64) -> f64 {
    if window.is_zero() { 0.0 } else { used as f64 / window.as_nanos() as f64 }
}

/// What the thread knows.
struct Loop {
    shares: Arc<Shares>,
    figures: Arc<Figures>,
    controls: Result<Controls, String>,
    guests: HashMap<Id, Followed>,
    groups: Nested,
    own: Own,
    ticks: Ticks,
    /// How many windows there have been.
    windows: u32,
    /// When debts were settled.
    settled: Instant,
    /// The part of the machine that the guests have, if it has been set.
    part: Option<Part>,
    /// What the whole machine had done when.
    machine: VecDeque<(Instant, u64)>,
}

impl Loop {
    fn new(shares: Arc<Shares>, figures: Arc<Figures>, controls: Result<Controls, String>) -> Self {
        let groups = shares.nested();
        Self {
            shares,
            figures,
            controls,
            guests: HashMap::new(),
            groups,
            own: Own::new(),
            ticks: Ticks::default(),
            windows: 0,
            settled: Instant::now(),
            part: None,
            machine: VecDeque::new(),
        }
    }

    fn run(&mut self) {
        let mut next = Instant::now();
        loop {
            match self.shares.wait(next.saturating_duration_since(Instant::now())) {
                Woken::Over => return,
                Woken::News => {
                    std::thread::sleep(TOGETHER);
                    self.follow();
                }
                Woken::Time => {
                    let now = Instant::now();
                    self.measure(now);
                    next = now + if self.is_promised() { WINDOW } else { IDLE_WINDOW };
                }
            }
            self.divide();
        }
    }

    /// Whether any guest is not as the others.
    fn is_promised(&self) -> bool {
        let differs = |claimant: &Claimant| !claimant.share.is_usual() || claimant.group.is_some();
        self.guests.values().any(|guest| differs(&guest.claimant))
    }

    /// Takes up guests that have come, and leaves those that have gone; the groups may have changed, too.
    fn follow(&mut self) {
        self.groups = self.shares.nested();
        let running: HashMap<_, _> = self.shares.running().into_iter().collect();
        let same = |id: &Id, guest: &Followed| {
            running.get(id).is_some_and(|claimant| claimant.pid == guest.claimant.pid)
        };
        self.guests.retain(|id, guest| same(id, guest));
        for (id, claimant) in running {
            let own = claimant.clone();
            let followed = || Followed::new(id, own, self.controls.as_ref().ok());
            self.guests.entry(id).or_insert_with(followed).claimant = claimant;
        }
        self.own.follow(self.guests.iter().map(|(id, guest)| (*id, &guest.claimant)));
    }

    fn measure(&mut self, now: Instant) {
        let window = self.machine.back().map_or(Duration::ZERO, |(before, _)| now - *before);
        self.windows = self.windows.wrapping_add(1);
        let second = !self.is_promised() || self.windows.is_multiple_of(SECOND);
        for guest in self.guests.values_mut() {
            guest.pass(window);
            if second || !guest.is_small() {
                guest.measure(now);
            }
        }
        if second {
            self.own.keep();
            self.ticks.keep(|id| self.guests.contains_key(id));
            let windows: Vec<_> = self.guests.values_mut().map(Followed::settle).collect();
            let since = std::mem::replace(&mut self.settled, now);
            debt::settle(now - since, self.guests.values_mut().map(|guest| &mut guest.debt).zip(windows));
        }
        while self.machine.front().is_some_and(|(time, _)| now - *time > MEMORY) {
            self.machine.pop_front();
        }
        self.machine.push_back((now, machine::times().busy));
    }

    /// Works out what each is to have, and sees to it.
    fn divide(&mut self) {
        let groups = self.groups.promised(|group| group.cpu_share.share());
        let wants: Vec<_> = self.guests.values().map(|guest| guest.want(&self.groups)).collect();
        let due = rule::due(capacity(), &groups, &wants);
        for ((guest, want), due) in self.guests.values_mut().zip(&wants).zip(&due) {
            (guest.due, guest.busy) = (due.target, due.busy);
            guest.hungry = !guest.claimant.hurries && rule::is_hungry(want, due);
        }
        self.enforce(&due, &groups);
        let seen = self.groups_seen(&groups, &wants, &due);
        self.tell(&due, seen);
    }

    /// Has the control groups follow what each is to have.
    fn enforce(&mut self, due: &[Due], groups: &[Group]) {
        let Ok(controls) = &self.controls else { return };
        let now = Instant::now();
        let weights = self.weights(controls.version, due);
        for (((id, guest), weight), due) in self.guests.iter_mut().zip(weights).zip(due) {
            guest.limit = steady(guest.limit, due.limit);
            guest.page = self.figures.of(*id);
            self.ticks.set(*id, guest.claimant.pid, guest.tick(now));
            if let Err(error) = guest.set(weight) {
                // It is told once: what has ended is gone the next time.
                tracing::info!("the control group of guest {id} cannot be set: {error}");
                guest.control = None;
            }
        }
        let part = if self.is_reserved(groups) { Part::Most } else { Part::Usual };
        if self.part != Some(part) && !self.guests.is_empty() {
            if let Err(error) = controls.set_part(part) {
                tracing::warn!("{}: {error}", controls.folder.display());
            }
            self.part = Some(part);
        }
    }

    fn weights(&self, version: Version, due: &[Due]) -> Vec<u64> {
        let mut weights = match self.is_promised() {
            true => rule::weights(due, version.weights()),
            false => vec![version.usual(); due.len()],
        };
        for ((weight, guest), due) in weights.iter_mut().zip(self.guests.values()).zip(due) {
            *weight = rule::trimmed(*weight, guest.debt.trim(due.target), version.weights());
        }
        let hurries = self.guests.values().map(|guest| guest.claimant.hurries);
        rule::hurry(&mut weights, hurries, capacity(), version.weights().1);
        weights
    }

    /// Whether a guest that runs, or a group of one, has a reserve.
    fn is_reserved(&self, groups: &[Group]) -> bool {
        let in_group = self.guests.values().any(|guest| guest.claimant.group.is_some());
        in_group && groups.iter().any(|group| group.share.reserve > 0.0)
            || self.guests.values().any(|guest| !guest.claimant.share.reserve.is_none())
    }

    /// What the members of each group asked for, are to have and got, those of groups in it, too.
    fn groups_seen(&self, groups: &[Group], wants: &[Want], due: &[Due]) -> HashMap<Name, GroupSeen> {
        let mut seen = vec![GroupSeen::default(); groups.len()];
        for ((guest, want), due) in self.guests.values().zip(wants).zip(due) {
            for group in above(groups, want.group) {
                seen[group].add(guest.asked[0], due.target, guest.got_10s());
            }
        }
        self.groups.names().cloned().zip(seen).collect()
    }

    fn tell(&self, due: &[Due], groups: HashMap<Name, GroupSeen>) {
        let guests: HashMap<_, _> = self
            .guests
            .iter()
            .zip(due)
            .map(|((id, guest), due)| (*id, guest.now(due, self.own.of(*id))))
            .collect();
        let ledgers = self.guests.iter().map(|(id, guest)| (*id, guest.ledger)).collect();
        let machine = match (self.machine.front(), self.machine.back()) {
            (Some((from, before)), Some((to, after))) => part(*to - *from, after.saturating_sub(*before)),
            _ => 0.0,
        };
        let mut seen = Seen {
            guests,
            ledgers,
            groups,
            besides: 0.0,
            not_enforced: self.controls.as_ref().err().cloned(),
        };
        seen.besides = (machine - seen.all()).max(0.0);
        self.shares.note(seen);
    }
}

#[cfg(test)]
mod tests {
    use api::VmDefinition;

    use super::*;

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
        assert!(window.is_some_and(|window| near(window.due) && near(window.got)), "{window:?}");
        uses(&mut small, &[0, 0]);
        assert!(small.settle().is_none());
        assert_eq!(small.asked[0], 0.0);
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
