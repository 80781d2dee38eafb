//! The thread that measures what guests get and want, and has their control groups follow the rule.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::{CpuNow, Id, Name};
use share::{Group, above};

use super::control::{Control, Controls, Part, Throttled, Usage, Version};
use super::debt::{self, Debt};
use super::groups::Nested;
use super::ledger::Ledger;
use super::look::Look;
use super::promises::{Claimant, Shares, Woken, capacity};
use super::rule::{self, Due, Want};
use super::seen::{GroupSeen, Seen, bound};
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
/// Whoever used less than this part of a window wants no more than that, where it would have more if all were busy.
const QUIET: f64 = 0.01;
/// Whoever has no more than this if all are busy is looked at once a second: a window is a slice or two of what it gets, and there may be a thousand of them.
const SMALL: f64 = 0.01;
/// Windows in that second.
const SMALL_EVERY: u32 = 4;

/// The thread.
pub struct Regulator {
    shares: Arc<Shares>,
    thread: Option<JoinHandle<()>>,
}

impl Regulator {
    /// Begins to hold to what is promised; `controls` are where the groups are, or why there are none.
    ///
    /// # Errors
    /// If there cannot be one more thread.
    pub fn begin(shares: Arc<Shares>, controls: Result<Controls, String>) -> std::io::Result<Self> {
        if let Err(why) = &controls {
            tracing::warn!("what guests are promised of processors is not held to: {why}");
        }
        let mut loops = Loop::new(Arc::clone(&shares), controls);
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
    debt: Debt,
    ledger: Ledger,
    throttled: Option<Throttled>,
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
            asked: [busy; 2],
            got: 0.0,
            limit: None,
            due: 0.0,
            busy,
            hungry: false,
            debt: Debt::default(),
            ledger: Ledger::default(),
            throttled: controls.and_then(|controls| controls.throttled(id).ok()),
        }
    }

    fn want(&self, groups: &Nested) -> Want {
        let asks = self.asked[0].max(self.asked[1]);
        let group = groups.number(self.claimant.group.as_ref());
        let most = f64::from(self.claimant.cpus).max(self.got);
        Want { share: self.claimant.share.share(), most, asks, group }
    }

    /// Looks at what it did, and gives what came of the window.
    fn measure(&mut self, now: Instant) -> debt::Window {
        let Some(used) = self.usage.as_ref().and_then(|usage| usage.now().ok()) else {
            return debt::Window::Content;
        };
        let before = self.used.back().copied();
        while self.used.front().is_some_and(|(time, _)| now - *time > MEMORY) {
            self.used.pop_front();
        }
        self.used.push_back((now, used));
        let Some((time, before)) = before else { return debt::Window::Content };
        let length = now - time;
        self.got = part(length, used.saturating_sub(before));
        let is_stopped = self.is_stopped();
        self.asked = [self.ask(now, used.saturating_sub(before), is_stopped), self.asked[0]];
        let reserve = self.claimant.share.reserve.get();
        self.ledger.add(length, reserve, self.asked[0], self.due, self.got);
        match self.hungry && self.asked[0] > self.due {
            true => debt::Window::Hungry { length, due: self.due, got: self.got },
            false => debt::Window::Content,
        }
    }

    /// What can be said of a window in which nobody looks.
    fn unseen(&self) -> debt::Window {
        debt::Window::Unseen(if self.hungry { self.due } else { 0.0 })
    }

    fn is_small(&self) -> bool {
        self.busy < SMALL && self.used.len() > 1
    }

    /// Whether its limit kept it from more in the last window.
    fn is_stopped(&mut self) -> bool {
        // Whoever has no limit is not throttled.
        let Some(limit) = self.limit else { return false };
        let throttled = self.throttled.as_ref().and_then(|throttled| throttled.now().ok());
        let before = self.ledger.throttled;
        self.ledger.throttled = throttled.unwrap_or(before);
        rule::is_stopped(limit, self.got, self.ledger.throttled.saturating_sub(before))
    }

    /// What it would have taken in the last window.
    fn ask(&mut self, now: Instant, used: u64, is_stopped: bool) -> f64 {
        let cpus = f64::from(self.claimant.cpus);
        if used == 0 && self.is_small() {
            return 0.0;
        }
        if self.got < QUIET && !is_stopped && !self.is_small() {
            // Nobody has to ask its threads.
            self.look = None;
            return self.got;
        }
        let since = now - self.looked;
        (self.looked, self.looks) = (now, self.looks + 1);
        let did = self.look.as_mut().filter(|_| !self.looks.is_multiple_of(LOOKS));
        match did.and_then(|look| look.again(nanos(since)).ok()) {
            Some(did) => {
                // A quota that is used up is no wait that is counted. What its devices took comes besides.
                let asked = if is_stopped { cpus } else { did.asked };
                asked + part(since, used.saturating_sub(did.ran))
            }
            None => {
                self.look = self.claimant.pid.and_then(|pid| Look::at(pid).ok());
                cpus
            }
        }
    }

    fn got_10s(&self) -> f64 {
        match (self.used.front(), self.used.back()) {
            (Some((from, before)), Some((to, after))) => part(*to - *from, after.saturating_sub(*before)),
            _ => 0.0,
        }
    }

    fn now(&self, due: &Due) -> CpuNow {
        let asked = self.asked[0];
        let bound = bound(asked, due.target, rule::hard(&self.claimant.share.share()), due.group_is_full);
        CpuNow { asked, target: due.target, got: self.got, got_10s: self.got_10s(), bound }
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
    controls: Result<Controls, String>,
    guests: HashMap<Id, Followed>,
    groups: Nested,
    /// How many windows there have been.
    windows: u32,
    /// The part of the machine that the guests have, if it has been set.
    part: Option<Part>,
    /// What the whole machine had done when.
    machine: VecDeque<(Instant, u64)>,
}

impl Loop {
    fn new(shares: Arc<Shares>, controls: Result<Controls, String>) -> Self {
        let groups = shares.nested();
        Self {
            shares,
            controls,
            guests: HashMap::new(),
            groups,
            windows: 0,
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
    }

    fn measure(&mut self, now: Instant) {
        self.windows = self.windows.wrapping_add(1);
        let all = !self.is_promised() || self.windows.is_multiple_of(SMALL_EVERY);
        let looked = |guest: &mut Followed| match all || !guest.is_small() {
            true => guest.measure(now),
            false => guest.unseen(),
        };
        let windows: Vec<_> = self.guests.values_mut().map(looked).collect();
        debt::settle(self.guests.values_mut().map(|guest| &mut guest.debt).zip(windows));
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
        let weights = self.weights(controls.version, due);
        for (((id, guest), weight), due) in self.guests.iter_mut().zip(weights).zip(due) {
            guest.limit = steady(guest.limit, due.limit);
            let (limit, Some(control)) = (guest.limit, &mut guest.control) else { continue };
            if let Err(error) = control.set_weight(weight).and_then(|()| control.set_limit(limit)) {
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
        let guests: HashMap<_, _> =
            self.guests.iter().zip(due).map(|((id, guest), due)| (*id, guest.now(due))).collect();
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
