//! What is promised, and to whom.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::{
    BandwidthShare, CpuShare, Id, Invalid, MemoryShare, Name, Problem, Processors, ShareGroup, Size,
    VmDefinition,
};
use share::Amount;

use super::admission::{self, Resource};
use super::places::{self, Carries, Place};
use super::seen::Seen;

/// A guest that is promised something.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimant {
    /// What it is promised.
    pub share: CpuShare,
    /// How many processors it has.
    pub cpus: u32,
    /// What it is promised of the pool of memory.
    pub memory: MemoryShare,
    /// The most memory that it can believe to have.
    pub most_memory: Size,
    /// Whether pages of it that are equal to others' may be kept once.
    pub merges: bool,
    /// What it is promised of each pool.
    pub disks: BandwidthShare,
    /// What it is promised of each network.
    pub networks: BandwidthShare,
    /// The pools and networks that it uses.
    pub places: Vec<Place>,
    /// The group that it is in.
    pub group: Option<Name>,
    /// Its process, while it has one.
    pub pid: Option<u32>,
    /// Whether it is not to wait for many others: see [`Shares::hurry`].
    pub hurries: bool,
    /// What is kept for it: more than it has reserved while it is being changed.
    kept: Kept,
}

/// What is kept for somebody, whoever else wants it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Kept {
    now: Reserves,
    /// What is kept for it in the group that it is about to leave, if it is.
    before: Option<Reserves>,
}

/// What is reserved for somebody in a group.
#[derive(Debug, Clone, Default, PartialEq)]
struct Reserves {
    /// None is the host.
    group: Option<Name>,
    cpu: Processors,
    /// Processors that it has to itself.
    own: u32,
    memory: Size,
    /// Bytes each second of the pools and networks that it uses.
    places: BTreeMap<Place, Size>,
}

impl Claimant {
    /// What is kept for it of a resource, in which groups.
    pub(super) fn kept<'a>(
        &'a self,
        resource: &'a Resource,
    ) -> impl Iterator<Item = (Option<&'a Name>, Amount)> {
        self.reserves().map(move |kept| (kept.group.as_ref(), kept.of(resource)))
    }

    /// The groups in which something is kept for it.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Name> {
        self.reserves().filter_map(|kept| kept.group.as_ref())
    }

    /// The pools and networks that it uses or is about to, each with the group in which it does.
    pub(super) fn used_in_groups(&self) -> impl Iterator<Item = (&Place, &Name)> {
        let both = self.reserves().filter_map(|kept| Some((kept.group.as_ref()?, &kept.places)));
        both.flat_map(|(group, places)| places.keys().map(move |place| (place, group)))
    }

    /// So many processors it has to itself, or is about to.
    pub(super) fn own(&self) -> u32 {
        self.reserves().map(|kept| kept.own).max().unwrap_or(0)
    }

    fn reserves(&self) -> impl Iterator<Item = &Reserves> {
        std::iter::once(&self.kept.now).chain(&self.kept.before)
    }
}

impl Reserves {
    fn of(&self, resource: &Resource) -> Amount {
        match resource {
            Resource::Cpu => self.cpu.get(),
            Resource::Memory => self.memory.0 as Amount,
            Resource::Place(place) => self.places.get(place).copied().unwrap_or_default().0 as Amount,
        }
    }
}

impl Kept {
    fn of(definition: &VmDefinition) -> Self {
        let now = Reserves {
            group: definition.share_group.clone(),
            cpu: definition.cpu_share.of(definition.cpus).reserve,
            own: if definition.cpu_share.dedicated { definition.cpus } else { 0 },
            memory: definition.memory_share.reserve,
            places: places::reserves(definition),
        };
        Self { now, before: None }
    }

    /// This, and `other` besides: one of the two will be.
    fn and(self, other: Self) -> Self {
        let (before, mut now) = (self.now, other.now);
        if before.group != now.group {
            return Self { now, before: Some(before) };
        }
        now.own = now.own.max(before.own);
        (now.cpu, now.memory) = (now.cpu.max(before.cpu), now.memory.max(before.memory));
        for (place, reserve) in before.places {
            let kept = now.places.entry(place).or_default();
            *kept = (*kept).max(reserve);
        }
        Self { now, before: None }
    }
}

/// What there is to promise, besides what pools and networks carry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    /// Processors.
    pub(super) cpu: f64,
    /// The pool of memory, if there is one.
    pub(super) memory: Option<Size>,
}

/// What guests are promised, and what they get.
#[derive(Debug, Default)]
pub struct Shares {
    pool: Option<Size>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) guests: HashMap<Id, Claimant>,
    pub(super) groups: BTreeMap<Name, ShareGroup>,
    pub(super) places: BTreeMap<Place, Carries>,
    /// Whether that is other than whoever follows it knows.
    news: bool,
    /// How often something has changed, for whoever else follows it.
    changes: u64,
    /// Whether nobody is to follow it any more.
    over: bool,
    seen: Seen,
}

/// Why whoever followed the guests is woken.
#[derive(Debug, PartialEq)]
pub enum Woken {
    /// Something has changed.
    News,
    /// It is time to look again.
    Time,
    /// There is nothing more to do.
    Over,
}

/// Processors of the host that guests may use.
pub fn capacity() -> f64 {
    f64::from(crate::machine::cpus())
}

impl Shares {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        state.news = true;
        state.changes += 1;
        self.changed.notify_all();
        result
    }

    /// What is to be promised on a host whose pool of memory is so large, if it has one.
    pub fn new(pool: Option<Size>) -> Self {
        Self { pool, ..Self::default() }
    }

    /// How large the pool of memory is, if there is one.
    pub fn pool(&self) -> Option<Size> {
        self.pool
    }

    pub(super) fn capacity(&self) -> Capacity {
        Capacity { cpu: capacity(), memory: self.pool }
    }

    /// What is wrong with a definition on this host.
    pub fn check(&self, definition: &VmDefinition) -> Vec<Invalid> {
        let (share, has) = (&definition.cpu_share, capacity());
        let mut wrong = Vec::new();
        let mut say = |field: &str, value: Processors, detail: String| {
            wrong.push(Invalid::new(format!("/cpu_share/{field}"), value.get(), detail));
        };
        let cpus = f64::from(definition.cpus);
        if share.reserve.get() > has {
            say(
                "reserve",
                share.reserve,
                format!("guests may use {has} processors of this host: at most {has}"),
            );
        } else if share.reserve.get() > cpus {
            say(
                "reserve",
                share.reserve,
                format!("the guest has {cpus} processors and cannot use more: at most {cpus}"),
            );
        }
        if let Some(limit) = share.limit.filter(|limit| limit.get() > has) {
            say(
                "limit",
                limit,
                format!("guests may use {has} processors of this host: at most {has}, or none"),
            );
        }
        if share.dedicated && cpus > has - 1.0 {
            let detail = format!(
                "guests may use {has} processors of this host, and one stays everybody's: a guest can have {} to itself at most, and this one has {cpus}",
                has - 1.0
            );
            wrong.push(Invalid::new("/cpu_share/dedicated", true, detail));
        }
        let state = self.state();
        let is_lost = |group: &&Name| !state.groups.contains_key(*group);
        if let Some(group) = definition.share_group.as_ref().filter(is_lost) {
            let detail = format!("there is no group {group}: make it first");
            wrong.push(Invalid::new("/share_group", group.as_str(), detail));
        }
        let reserve = definition.memory_share.reserve;
        if let Some(pool) = self.pool.filter(|pool| reserve > *pool) {
            let detail =
                format!("this host's pool of memory is {pool}: at most {} can be reserved", pool.at_most());
            wrong.push(Invalid::new("/memory_share/reserve", reserve.0, detail));
        }
        wrong.extend(places::check(&state, definition));
        wrong
    }

    /// Promises a guest what its definition says, from now on; nothing changes if that cannot be kept.
    ///
    /// # Errors
    /// If not enough is left: what is missing, and what would fit.
    pub fn promise(&self, id: Id, definition: &VmDefinition) -> Result<(), Problem> {
        self.take(id, definition, self.capacity(), |_| Kept::of(definition))
    }

    /// The same for a guest that is being changed: until that is done, or undone, it keeps what it was promised, too.
    ///
    /// # Errors
    /// As [`promise`](Self::promise).
    pub fn promise_besides(&self, id: Id, definition: &VmDefinition) -> Result<(), Problem> {
        self.take(id, definition, self.capacity(), |before| before.and(Kept::of(definition)))
    }

    fn take(
        &self,
        id: Id,
        definition: &VmDefinition,
        capacity: Capacity,
        keep: impl FnOnce(Kept) -> Kept,
    ) -> Result<(), Problem> {
        self.change(|state| {
            admission::guest(state, id, definition, capacity)?;
            let before = state.guests.get(&id);
            // What it gets changes when all is done.
            let claimant = match before {
                Some(before) => {
                    let kept = keep(before.kept.clone());
                    let is =
                        if before.pid.is_some() { before.clone() } else { Claimant::new(definition, None) };
                    Claimant { kept, ..is }
                }
                None => Claimant::new(definition, None),
            };
            state.guests.insert(id, claimant);
            Ok(())
        })
    }

    /// What a guest has been promised is what its definition says, whatever else is: it has been admitted with that.
    pub fn settle(&self, id: Id, definition: &VmDefinition, pid: Option<u32>) {
        self.change(|state| state.guests.insert(id, Claimant::new(definition, pid)));
    }

    /// A guest's machine uses what this definition says, too, until it is started again: what is to be otherwise then it has still.
    pub fn uses(&self, id: Id, machine: &VmDefinition) {
        self.change(|state| {
            if let Some(claimant) = state.guests.get_mut(&id) {
                claimant.also_in(machine);
            }
        });
    }

    /// A guest's process has ended; it keeps what it is promised.
    pub fn ended(&self, id: Id) {
        self.change(|state| {
            if let Some(claimant) = state.guests.get_mut(&id) {
                claimant.pid = None;
            }
        });
    }

    /// A guest is promised nothing any more.
    pub fn give_back(&self, id: Id) {
        self.change(|state| state.guests.remove(&id));
    }

    /// Has a guest that runs not wait for many others as long as what is given is there: it gets half of a processor at least, if it may have
    /// that and the kernel knows so large a weight.
    pub fn hurry(self: &Arc<Self>, id: Id) -> Hurry {
        self.set_hurry(id, true);
        Hurry { shares: Arc::clone(self), id }
    }

    fn set_hurry(&self, id: Id, hurries: bool) {
        self.change(|state| {
            if let Some(claimant) = state.guests.get_mut(&id) {
                claimant.hurries = hurries;
            }
        });
    }

    /// What all guests and groups together have reserved.
    pub fn reserved(&self) -> Processors {
        Processors::nearest(admission::reserved(&self.state(), &Resource::Cpu))
    }

    /// What all guests and groups together have reserved of the pool of memory.
    pub fn memory_reserved(&self) -> Size {
        // As much as anybody can say is more than any pool is.
        Size(admission::reserved(&self.state(), &Resource::Memory) as u64)
    }

    /// Waits until something changes, or for so long.
    pub fn wait(&self, most: Duration) -> Woken {
        let until = Instant::now() + most;
        let mut state = self.state();
        loop {
            if state.over {
                return Woken::Over;
            }
            if std::mem::take(&mut state.news) {
                return Woken::News;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Time;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The same for one more who follows them; `known` is what it knows.
    pub fn wait_besides(&self, known: &mut u64, most: Duration) -> Woken {
        let state = self.state();
        let same = |state: &mut State| !state.over && state.changes == *known;
        let waited = self.changed.wait_timeout_while(state, most, same);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let woken = match (state.over, state.changes == *known) {
            (true, _) => Woken::Over,
            (false, true) => Woken::Time,
            (false, false) => Woken::News,
        };
        *known = state.changes;
        woken
    }

    /// The guests that have processes.
    pub fn running(&self) -> Vec<(Id, Claimant)> {
        let state = self.state();
        state
            .guests
            .iter()
            .filter(|(_, claimant)| claimant.pid.is_some())
            .map(|(id, of)| (*id, of.clone()))
            .collect()
    }

    /// Nobody is to follow it any more.
    pub fn end(&self) {
        self.state().over = true;
        self.changed.notify_all();
    }

    /// What guests get has been looked at.
    pub fn note(&self, seen: Seen) {
        self.state().seen = seen;
    }

    /// What guests got when it was looked at last.
    pub fn seen<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.state().seen)
    }
}

/// A guest does not wait for many others while this is there.
pub struct Hurry {
    shares: Arc<Shares>,
    id: Id,
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.shares.set_hurry(self.id, false);
    }
}

impl Claimant {
    /// It has the processors of this machine, and is on its pools and networks as well, with the reserve that it has wherever it is.
    fn also_in(&mut self, machine: &VmDefinition) {
        (self.cpus, self.share) = (machine.cpus, self.share.of(machine.cpus));
        if self.share.dedicated {
            self.kept.now.own = self.kept.now.own.max(machine.cpus);
            self.kept.now.cpu = self.kept.now.cpu.max(self.share.reserve);
        }
        for place in places::of(machine) {
            if self.places.contains(&place) {
                continue;
            }
            let reserve = place.share(&self.disks, &self.networks).reserve;
            self.kept.now.places.insert(place.clone(), reserve);
            self.places.push(place);
        }
    }

    /// Somebody whose process that is.
    #[cfg(test)]
    pub(super) fn of_process(definition: &VmDefinition, pid: u32) -> Self {
        Self::new(definition, Some(pid))
    }

    fn new(definition: &VmDefinition, pid: Option<u32>) -> Self {
        Self {
            share: definition.cpu_share.of(definition.cpus),
            cpus: definition.cpus,
            memory: definition.memory_share,
            most_memory: definition.memory_max.unwrap_or_default().max(definition.memory),
            merges: definition.merge_memory,
            disks: definition.disk_share,
            networks: definition.network_share,
            places: places::of(definition),
            group: definition.share_group.clone(),
            pid,
            hurries: false,
            kept: Kept::of(definition),
        }
    }
}

#[cfg(test)]
mod tests;
