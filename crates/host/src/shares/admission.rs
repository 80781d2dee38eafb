//! Whether guests and groups can be promised what they are to be, of each resource.
//!
//! What a group has reserved of processors and of the pool of memory is kept for it whether any of its members run or not. Of storage pools
//! and networks it is kept where a guest that runs in it, or in a group in it, has disks or cards: whoever is the first there brings the
//! reserves of the groups that it is in along.

use std::collections::{BTreeMap, BTreeSet};

use api::{BandwidthShare, Id, Invalid, Name, Problem, Processors, ShareGroup, Size, VmDefinition};
use serde_json::Value;
use share::admission::{Member, Promises, Refusal, Round};
use share::{Amount, Share};

use super::places::{self, Place};
use super::promises::{Capacity, Claimant, State};

/// Something of which guests and groups are promised parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource {
    Cpu,
    Memory,
    Place(Place),
}

impl Resource {
    /// What has it, as a person reads it.
    fn host(&self) -> String {
        match self {
            Self::Cpu => "the host".into(),
            Self::Memory => "the pool of memory".into(),
            Self::Place(place) => place.to_string(),
        }
    }

    /// The field of whatever says what is promised of it.
    fn field(&self) -> &'static str {
        match self {
            Self::Cpu => "/cpu_share",
            Self::Memory => "/memory_share",
            Self::Place(place) => place.field(),
        }
    }

    /// What a group is promised of it.
    fn share(&self, group: &ShareGroup) -> Share {
        match self {
            Self::Cpu => group.cpu_share.share(),
            Self::Memory => group.memory_share.share(),
            Self::Place(place) => place.share(&group.disk_share, &group.network_share).share(),
        }
    }

    /// What a guest has reserved of it.
    fn reserve(&self, definition: &VmDefinition) -> Amount {
        match self {
            Self::Cpu => definition.cpu_share.of(definition.cpus).reserve.get(),
            Self::Memory => definition.memory_share.reserve.0 as Amount,
            Self::Place(place) => {
                let share: &BandwidthShare = place.share(&definition.disk_share, &definition.network_share);
                share.reserve.0 as Amount
            }
        }
    }

    /// An amount as a person reads it.
    fn shown(&self, amount: Amount, round: Round) -> String {
        let size = match round {
            Round::Nearest => Size(amount as u64).to_string(),
            Round::Down => Size(amount as u64).at_most(),
            Round::Up => Size(amount as u64).at_least(),
        };
        match self {
            Self::Cpu => Processors::nearest(amount).to_string(),
            Self::Memory => size,
            Self::Place(_) => format!("{size}/s"),
        }
    }

    /// What is wrong, and of what: a group has several shares, and may use several pools.
    fn words(&self, refusal: &Refusal) -> String {
        let (words, host) = (refusal.in_words(|amount, round| self.shown(amount, round)), self.host());
        match refusal {
            Refusal::Short { place, .. } if *place == host => words,
            _ if *self == Self::Cpu => words,
            _ => format!("of {host} {words}"),
        }
    }

    fn value(&self, amount: Amount) -> Value {
        match self {
            Self::Cpu => amount.into(),
            Self::Memory | Self::Place(_) => (amount as u64).into(),
        }
    }

    /// How much of it there is; nothing if nobody is held to what is promised of it.
    fn capacity(&self, state: &State, has: Capacity) -> Option<Amount> {
        match self {
            Self::Cpu => Some(has.cpu),
            Self::Memory => has.memory.map(|pool| pool.0 as Amount),
            // Where nobody has said what is carried groups promise no more than they have all the same: their limits hold.
            Self::Place(place) => {
                let bandwidth = state.places.get(place).and_then(|carries| carries.bandwidth);
                Some(bandwidth.map_or(Amount::INFINITY, |bandwidth| bandwidth.0 as Amount))
            }
        }
    }
}

/// What a group is called among the members of others, as a person reads it.
fn called(group: &Name) -> String {
    format!("the group {group}")
}

/// A guest among the members of a group. No group is called as one.
fn member(id: Id, within: Option<&Name>, reserve: Amount) -> Member {
    let share = Share { reserve, ..Share::default() };
    Member { name: format!("guest {id}"), group: within.map(called), share, expandable: None }
}

/// The names of groups in which something is used; nothing where that makes no difference.
type Used<'a> = Option<BTreeSet<&'a Name>>;

/// All groups, of which those that are `used` have their reserves, and the guests for which something of a resource is kept, but for one
/// of them.
fn members(state: &State, resource: &Resource, but: Option<Id>, used: &Used<'_>) -> Vec<Member> {
    let there = |within: &Option<&Name>| within.is_none_or(|group| state.groups.contains_key(group));
    let guests = state.guests.iter().filter(|(id, _)| Some(**id) != but);
    let guests = guests.flat_map(|(id, claimant)| claimant.kept(resource).map(move |kept| (*id, kept)));
    let guests = guests.filter(|(_, (_, reserve))| *reserve > 0.0);
    // A guest whose group has been lost with a store is the host's.
    let guests =
        guests.map(|(id, (within, reserve))| member(id, Some(within).filter(there).flatten(), reserve));
    let groups = state.groups.values().map(|of| {
        let mut share = resource.share(of);
        if used.as_ref().is_some_and(|used| !used.contains(&of.name)) {
            share.reserve = 0.0;
        }
        let within = Some(of.within.as_ref()).filter(there).flatten();
        Member { name: called(&of.name), group: within.map(called), share, expandable: Some(of.expandable) }
    });
    // Groups first: they are looked for by name.
    groups.chain(guests).collect()
}

/// The groups from this one up; one that is in itself ends it.
fn above<'a>(groups: &'a BTreeMap<Name, ShareGroup>, from: Option<&'a Name>) -> Vec<&'a ShareGroup> {
    let find = |name: Option<&Name>| name.and_then(|name| groups.get(name));
    let up = std::iter::successors(find(from), |group| find(group.within.as_ref()));
    up.take(groups.len()).collect()
}

/// The groups, as they are or will be, in which guests use a pool or a network; what they have of other resources is theirs whoever runs.
fn used<'a>(state: &'a State, groups: &'a BTreeMap<Name, ShareGroup>, resource: &Resource) -> Used<'a> {
    let Resource::Place(place) = resource else { return None };
    let used = state.guests.values().flat_map(Claimant::used_in_groups);
    let nearest: BTreeSet<_> = used.filter(|(used, _)| *used == place).map(|(_, group)| group).collect();
    Some(nearest.into_iter().flat_map(|group| above(groups, Some(group))).map(|of| &of.name).collect())
}

/// The pools and networks that guests in groups use.
pub(super) fn used_places(state: &State) -> BTreeSet<&Place> {
    state.guests.values().flat_map(Claimant::used_in_groups).map(|(place, _)| place).collect()
}

/// What is promised at a moment, to which more can be added.
struct Standing<'a> {
    resource: &'a Resource,
    host: String,
    capacity: Amount,
    members: Vec<Member>,
}

impl<'a> Standing<'a> {
    fn new(
        state: &State,
        resource: &'a Resource,
        capacity: Amount,
        but: Option<Id>,
        used: &Used<'_>,
    ) -> Self {
        let members = members(state, resource, but, used);
        Self { resource, host: resource.host(), capacity, members }
    }

    fn admit(&self, wanted: &Member) -> Result<(), Refusal> {
        Promises::new(&self.host, self.capacity, &self.members)?.admit(wanted)
    }

    /// These groups, the nearest first, are used from now on, unless they are already.
    ///
    /// # Errors
    /// If one of them cannot be promised what it has reserved: which one, and why.
    fn used_in<'b>(
        &mut self,
        groups: &[&'b ShareGroup],
        used: &Used<'_>,
    ) -> Result<(), (&'b ShareGroup, Refusal)> {
        let Some(used) = used else { return Ok(()) };
        for group in groups.iter().rev().filter(|group| !used.contains(&group.name)) {
            let name = called(&group.name);
            let Some(place) = self.members.iter().position(|member| member.name == name) else { continue };
            let wanted = Member { share: self.resource.share(group), ..self.members[place].clone() };
            self.admit(&wanted).map_err(|refusal| (*group, refusal))?;
            self.members[place] = wanted;
        }
        Ok(())
    }
}

/// Whether a guest can be promised what its definition says beside what others are.
///
/// # Errors
/// If not: what is missing, and what would fit.
pub(super) fn guest(state: &State, id: Id, definition: &VmDefinition, has: Capacity) -> Result<(), Problem> {
    let refused = |wrong: Invalid| {
        let mut problem = Problem::conflict(format!("{}: {}", definition.name, wrong.detail));
        problem.errors.push(wrong);
        problem
    };
    if let Some(group) = definition.share_group.as_ref().filter(|group| !state.groups.contains_key(*group)) {
        let detail = format!("there is no group {group}: make it, or take the guest out of it");
        return Err(refused(Invalid::new("/share_group", group.as_str(), detail)));
    }
    own(state, id, definition, has.cpu).map_err(refused)?;
    let places = places::of(definition).into_iter().map(Resource::Place);
    for resource in std::iter::once(Resource::Cpu).chain(places).chain([Resource::Memory]) {
        let Some(capacity) = resource.capacity(state, has) else { continue };
        guest_of(state, id, definition, &resource, capacity).map_err(refused)?;
    }
    Ok(())
}

/// Whether a guest can have its processors to itself, if it is to: one of the host's stays everybody's.
fn own(state: &State, id: Id, definition: &VmDefinition, host: Amount) -> Result<(), Invalid> {
    let others = state.guests.iter().filter(|(other, _)| **other != id);
    let taken: u32 = others.map(|(_, claimant)| claimant.own()).sum();
    let left = (host as u32).saturating_sub(taken + 1);
    if !definition.cpu_share.dedicated || definition.cpus <= left {
        return Ok(());
    }
    let detail = format!(
        "of {host} processors of the host other guests have {taken} to themselves, and one stays everybody's: a guest can have {left} at most, and this one has {}",
        definition.cpus
    );
    Err(Invalid::new("/cpu_share/dedicated", true, detail))
}

fn guest_of(
    state: &State,
    id: Id,
    definition: &VmDefinition,
    resource: &Resource,
    capacity: Amount,
) -> Result<(), Invalid> {
    let (group, reserve) = (definition.share_group.as_ref(), resource.reserve(definition));
    let used = used(state, &state.groups, resource);
    let mut standing = Standing::new(state, resource, capacity, Some(id), &used);
    standing.used_in(&above(&state.groups, group), &used).map_err(|(group, refusal)| {
        let reserve = resource.shown(resource.share(group).reserve, Round::Nearest);
        let name = called(&group.name);
        let words = resource.words(&refusal);
        let detail = format!("{name}, which has {reserve} reserved wherever it is used: {words}");
        Invalid::new("/share_group", group.name.as_str(), detail)
    })?;
    // Nothing can always be promised.
    if reserve <= 0.0 {
        return Ok(());
    }
    standing.admit(&member(id, group, reserve)).map_err(|refusal| {
        let detail = resource.words(&refusal);
        Invalid::new(format!("{}/reserve", resource.field()), resource.value(reserve), detail)
    })
}

/// Whether a group can be promised what it says, and what is in it what that is, beside what others are.
///
/// # Errors
/// If not: what is missing, and what would fit.
pub(super) fn group(state: &State, new: &ShareGroup, has: Capacity) -> Result<(), Problem> {
    let places = used_places(state).into_iter().cloned().map(Resource::Place);
    for resource in [Resource::Cpu, Resource::Memory].into_iter().chain(places) {
        let Some(capacity) = resource.capacity(state, has) else { continue };
        let refused = |refusal: &Refusal| Problem::conflict_of(wrong(new, &resource, refusal));
        group_of(state, new, &resource, capacity).map_err(|refusal| refused(&refusal))?;
    }
    Ok(())
}

fn group_of(state: &State, new: &ShareGroup, resource: &Resource, capacity: Amount) -> Result<(), Refusal> {
    let mut groups = state.groups.clone();
    groups.insert(new.name.clone(), new.clone());
    let after = used(state, &groups, resource);
    if after.as_ref().is_some_and(|used| !used.contains(&new.name)) {
        return Ok(());
    }
    let before = used(state, &state.groups, resource);
    let both = before.zip(after).map(|(before, after)| before.intersection(&after).copied().collect());
    let mut standing = Standing::new(state, resource, capacity, None, &both);
    // Where it goes it may bring the first who use this.
    let groups: Vec<_> = above(&state.groups, new.within.as_ref())
        .into_iter()
        .filter(|group| group.name != new.name)
        .collect();
    standing.used_in(&groups, &both).map_err(|(_, refusal)| refusal)?;
    standing.admit(&Member {
        name: called(&new.name),
        group: new.within.as_ref().map(called),
        share: resource.share(new),
        expandable: Some(new.expandable),
    })
}

/// What a refusal of a group is to whoever asked.
fn wrong(of: &ShareGroup, resource: &Resource, refusal: &Refusal) -> Invalid {
    let share = resource.share(of);
    let at = |field: &str| format!("{}/{field}", resource.field());
    let (pointer, value) = match refusal {
        Refusal::Members { is_limit: true, .. } => {
            (at("limit"), resource.value(share.limit.amount().unwrap_or_default()))
        }
        Refusal::Loop(_) | Refusal::NoGroup(_) => {
            ("/within".into(), of.within.as_ref().map_or("", Name::as_str).into())
        }
        _ => (at("reserve"), resource.value(share.reserve)),
    };
    let detail = match refusal {
        Refusal::Loop(_) => format!("{} would be in itself: put it elsewhere", called(&of.name)),
        other => resource.words(other),
    };
    Invalid::new(pointer, value, detail)
}

/// What all guests and groups together have reserved of a resource.
pub(super) fn reserved(state: &State, resource: &Resource) -> Amount {
    let members = members(state, resource, None, &used(state, &state.groups, resource));
    // Whoever is in a group that is not there has been refused.
    Promises::new("", Amount::INFINITY, &members).map_or(0.0, |all| all.taken())
}

/// What each group has promised its members of a resource.
pub(super) fn promised<'a>(state: &'a State, resource: &Resource) -> Vec<(&'a Name, Amount)> {
    let members = members(state, resource, None, &used(state, &state.groups, resource));
    let Ok(promises) = Promises::new("", Amount::INFINITY, &members) else { return Vec::new() };
    state.groups.keys().map(|name| (name, promises.taken_in(&called(name)))).collect()
}
