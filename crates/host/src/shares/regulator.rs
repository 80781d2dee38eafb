//! The thread that measures what guests get and want, and has their control groups follow the rule.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::{Id, Name};
use share::{Group, above};

use super::control::{Controls, Part, Version};
use super::debt;
use super::followed::{Followed, MEMORY, part, steady};
use super::groups::Nested;
use super::own::Own;
use super::promises::{Claimant, Shares, Woken, capacity};
use super::rule::{self, Due, Want};
use super::seen::{GroupSeen, Seen};
use super::slices::Slices;
use super::ticks::Ticks;
use crate::figures::Figures;
use crate::machine;

/// How often it is looked while anything is promised.
const WINDOW: Duration = Duration::from_millis(250);
/// How often the part of the machine that the guests have is set again.
const RENEWED: Duration = Duration::from_secs(10);
/// How often otherwise: somebody may want to know.
const IDLE_WINDOW: Duration = Duration::from_secs(1);
/// Changes that come together are taken together.
const TOGETHER: Duration = Duration::from_millis(2);
/// Windows in that second, after which debts are settled.
const SECOND: u32 = 4;

/// What there is new when it is worked out what each is to have.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Looked {
    /// Guests, or what they are promised.
    News,
    /// What those did who have more than next to nothing.
    Window,
    /// What all did, and a second has passed by then.
    Second(Instant),
}

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

/// What the thread knows.
struct Loop {
    shares: Arc<Shares>,
    figures: Arc<Figures>,
    controls: Result<Controls, String>,
    guests: HashMap<Id, Followed>,
    groups: Nested,
    own: Own,
    ticks: Ticks,
    slices: Slices,
    /// How many windows there have been.
    windows: u32,
    /// When debts were settled.
    settled: Instant,
    /// The part of the machine that the guests have, and since when, if it has been set.
    part: Option<(Part, Instant)>,
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
            ticks: Ticks::none(),
            slices: Slices::none(),
            windows: 0,
            settled: Instant::now(),
            part: None,
            machine: VecDeque::new(),
        }
    }

    fn run(&mut self) {
        let mut next = Instant::now();
        loop {
            let looked = match self.shares.wait(next.saturating_duration_since(Instant::now())) {
                Woken::Over => return self.leave(),
                Woken::News => {
                    std::thread::sleep(TOGETHER);
                    self.follow();
                    Looked::News
                }
                Woken::Time => {
                    let now = Instant::now();
                    next = now + if self.is_promised() { WINDOW } else { IDLE_WINDOW };
                    self.measure(now)
                }
            };
            self.divide(looked);
        }
    }

    /// Nobody tells processors to look from now on: the kernel keeps them to their limits.
    fn leave(&mut self) {
        self.ticks = Ticks::none();
        self.guests.values_mut().for_each(Followed::untold);
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

    /// Looks at what guests did.
    fn measure(&mut self, now: Instant) -> Looked {
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
            self.find();
            self.own.keep();
            self.ticks.keep(|id| self.guests.contains_key(id), true);
            self.slices.keep(|id| self.guests.contains_key(id));
        }
        while self.machine.front().is_some_and(|(time, _)| now - *time > MEMORY) {
            self.machine.pop_front();
        }
        self.machine.push_back((now, machine::times().busy));
        if second { Looked::Second(now) } else { Looked::Window }
    }

    /// Takes up again whom it could not be seen to.
    fn find(&mut self) {
        if let Ok(controls) = &self.controls {
            self.guests.values_mut().for_each(|guest| guest.find(controls));
        }
    }

    /// Works out what each is to have, and sees to it.
    fn divide(&mut self, looked: Looked) {
        let groups = self.groups.promised(|group| group.cpu_share.share());
        let wants: Vec<_> = self.guests.values().map(|guest| guest.want(&self.groups)).collect();
        let due = rule::due(capacity(), &groups, &wants);
        for ((guest, want), due) in self.guests.values_mut().zip(&wants).zip(&due) {
            guest.is_to_have(want, due);
        }
        if let Looked::Second(now) = looked {
            self.settle(now);
        }
        self.enforce(&due, &groups, looked != Looked::Window);
        let seen = self.groups_seen(&groups, &wants, &due);
        self.tell(&due, seen);
    }

    /// Books what guests were due and did not get since this was done last.
    fn settle(&mut self, now: Instant) {
        let windows: Vec<_> = self.guests.values_mut().map(Followed::settle).collect();
        let since = std::mem::replace(&mut self.settled, now);
        debt::settle(now - since, self.guests.values_mut().map(|guest| &mut guest.debt).zip(windows));
    }

    /// Has the control groups follow what each is to have, also of those, or not, who are looked at once a second.
    fn enforce(&mut self, due: &[Due], groups: &[Group], all: bool) {
        let Ok(controls) = &self.controls else { return };
        let now = Instant::now();
        let weights = self.weights(controls.version, due);
        for (((id, guest), weight), due) in self.guests.iter_mut().zip(weights).zip(due) {
            guest.limit = steady(guest.limit, due.limit);
            if !all && guest.is_small() && guest.is_set(weight) {
                continue;
            }
            guest.follow_page(self.figures.of(*id));
            let pid = guest.claimant.pid;
            self.ticks.set(*id, pid, guest.tick(now));
            self.slices.set(*id, pid, guest.slice());
            if let Err(error) = guest.set(weight, self.ticks.is_whole(*id)) {
                guest.lose(&error);
            }
        }
        let part = if self.is_reserved(groups) { Part::Most } else { Part::Usual };
        let is_due = match self.part {
            None => !self.guests.is_empty(),
            // systemd sets weights of its own anew when its units are read again.
            Some((set, since)) => set != part || set == Part::Most && now - since >= RENEWED,
        };
        if is_due {
            if let Err(error) = controls.set_part(part) {
                tracing::warn!("{}: {error}", controls.folder.display());
            }
            self.part = Some((part, now));
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
        if groups.is_empty() {
            return HashMap::new();
        }
        let mut seen = vec![GroupSeen::default(); groups.len()];
        for ((guest, want), due) in self.guests.values().zip(wants).zip(due) {
            for group in above(groups, want.group) {
                seen[group].add(guest.asked[0], due.target, guest.got_10s);
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
        let lost = self.guests.iter().filter_map(|(id, guest)| Some((*id, guest.lost()?.to_owned())));
        let mut seen = Seen {
            guests,
            ledgers,
            lost: lost.collect(),
            groups,
            besides: 0.0,
            not_enforced: self.controls.as_ref().err().cloned(),
        };
        seen.besides = (machine - seen.all()).max(0.0);
        self.shares.note(seen);
    }
}
