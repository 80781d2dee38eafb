//! Groups in which guests share, and what is promised through them.

use std::collections::BTreeMap;

use api::{Invalid, Name, Problem, Processors, ShareGroup, Size, VmDefinition};
use share::{Group, Share};

use super::admission::{self, Resource};
use super::places::Place;
use super::promises::{Capacity, Shares};

/// What is promised in a group to its members that run, and to groups in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Promised {
    /// Processors.
    pub cpu: Processors,
    /// Of the pool of memory.
    pub memory: Size,
    /// Bytes each second of the pools and networks that guests in groups use.
    pub places: BTreeMap<Place, Size>,
}

/// Groups, those that others are in before these, with the numbers of those that they are in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Nested {
    groups: Vec<(ShareGroup, Option<usize>)>,
}

impl Nested {
    /// Those of a host by name. One that is in itself, which nobody admits, is left out with what is in it.
    fn of(groups: &BTreeMap<Name, ShareGroup>) -> Self {
        let mut nested = Self::default();
        // Each turn finds those whose place is known.
        loop {
            let place = |within: &Option<Name>| match within {
                Some(within) if groups.contains_key(within) => nested.number(Some(within)).map(Some),
                _ => Some(None),
            };
            let open = groups.values().filter(|group| nested.number(Some(&group.name)).is_none());
            let found: Vec<_> =
                open.filter_map(|group| Some((group.clone(), place(&group.within)?))).collect();
            if found.is_empty() {
                return nested;
            }
            nested.groups.extend(found);
        }
    }

    /// The number of the group of this name.
    pub fn number(&self, name: Option<&Name>) -> Option<usize> {
        name.and_then(|name| self.groups.iter().position(|(group, _)| group.name == *name))
    }

    /// The names of the groups from this one up.
    pub fn above(&self, from: Option<&Name>) -> impl Iterator<Item = &Name> {
        let up = std::iter::successors(self.number(from), |&group| self.groups[group].1);
        up.map(|group| &self.groups[group].0.name)
    }

    /// Their names, by number.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.groups.iter().map(|(group, _)| &group.name)
    }

    /// Whether one of them never passes so much of pools or networks.
    pub fn limits_bandwidth(&self) -> bool {
        let is_limited =
            |group: &ShareGroup| group.disk_share.limit.is_some() || group.network_share.limit.is_some();
        self.groups.iter().any(|(group, _)| is_limited(group))
    }

    /// The groups as the rule has them, by number, with what `share` says that each is promised.
    pub fn promised(&self, share: impl Fn(&ShareGroup) -> Share) -> Vec<Group> {
        let told = |(group, within): &(ShareGroup, Option<usize>)| Group {
            share: share(group),
            expandable: group.expandable,
            within: *within,
        };
        self.groups.iter().map(told).collect()
    }
}

impl Shares {
    /// The groups are these, whatever is promised in them: they were admitted with that.
    pub fn load_groups(&self, groups: Vec<ShareGroup>) {
        self.change(|state| {
            state.groups = groups.into_iter().map(|group| (group.name.clone(), group)).collect()
        });
    }

    /// Makes a group, or makes one another one; gives what it was.
    ///
    /// # Errors
    /// If what it is in is not there or in it, or what it is to be promised, or is promised in it, cannot be kept: then nothing has
    /// changed.
    pub fn set_group(&self, new: ShareGroup) -> Result<Option<ShareGroup>, Problem> {
        self.set_group_of(self.capacity(), new)
    }

    fn set_group_of(&self, has: Capacity, new: ShareGroup) -> Result<Option<ShareGroup>, Problem> {
        let mut wrong = new.check();
        let cpus = has.cpu;
        for (field, amount) in [("reserve", Some(new.cpu_share.reserve)), ("limit", new.cpu_share.limit)] {
            if let Some(amount) = amount.filter(|amount| amount.get() > cpus) {
                let detail = format!("guests may use {cpus} processors of this host: at most {cpus}");
                wrong.push(Invalid::new(format!("/cpu_share/{field}"), amount.get(), detail));
            }
        }
        let memory = new.memory_share.reserve;
        if let Some(pool) = has.memory.filter(|pool| memory > *pool) {
            let detail =
                format!("this host's pool of memory is {pool}: at most {} can be reserved", pool.at_most());
            wrong.push(Invalid::new("/memory_share/reserve", memory.0, detail));
        }
        if !wrong.is_empty() {
            return Err(Problem::invalid(wrong));
        }
        self.change(|state| {
            if let Some(within) = new.within.as_ref().filter(|within| !state.groups.contains_key(*within)) {
                let detail = format!("there is no group {within}: make it first");
                return Err(Problem::invalid(vec![Invalid::new("/within", within.as_str(), detail)]));
            }
            admission::group(state, &new, has)?;
            Ok(state.groups.insert(new.name.clone(), new))
        })
    }

    /// Takes back what was done to a group.
    pub fn undo_group(&self, name: &Name, before: Option<ShareGroup>) {
        self.change(|state| match before {
            Some(before) => state.groups.insert(name.clone(), before),
            None => state.groups.remove(name),
        });
    }

    /// Removes a group that nothing is in; gives what it was.
    ///
    /// # Errors
    /// If a group or a guest is in it.
    pub fn remove_group(&self, name: &Name) -> Result<Option<ShareGroup>, Problem> {
        self.change(|state| {
            let inside = state.groups.values().find(|group| group.within.as_ref() == Some(name));
            if let Some(inside) = inside {
                let detail =
                    format!("the group {} is in {name}: put it elsewhere, or delete it, first", inside.name);
                return Err(Problem::conflict(detail));
            }
            if state.guests.values().any(|claimant| claimant.groups().any(|within| within == name)) {
                return Err(Problem::conflict(format!("a guest that runs is in {name}: take it out first")));
            }
            Ok(state.groups.remove(name))
        })
    }

    /// Takes a guest out of a group that is not there.
    pub fn forget_lost_group(&self, definition: &mut VmDefinition) {
        let state = self.state();
        definition.share_group =
            definition.share_group.take().filter(|group| state.groups.contains_key(group));
    }

    /// The groups, by name, each with what is promised in it.
    pub fn groups(&self) -> Vec<(ShareGroup, Promised)> {
        let state = self.state();
        let mut all: BTreeMap<&Name, Promised> =
            state.groups.keys().map(|name| (name, Promised::default())).collect();
        for (name, cpu) in admission::promised(&state, &Resource::Cpu) {
            all.entry(name).or_default().cpu = Processors::nearest(cpu);
        }
        for (name, bytes) in admission::promised(&state, &Resource::Memory) {
            all.entry(name).or_default().memory = Size(bytes as u64);
        }
        for place in admission::used_places(&state) {
            for (name, bytes) in admission::promised(&state, &Resource::Place(place.clone())) {
                all.entry(name).or_default().places.insert(place.clone(), Size(bytes as u64));
            }
        }
        let told = |group: &ShareGroup| (group.clone(), all.remove(&group.name).unwrap_or_default());
        state.groups.values().map(told).collect()
    }

    /// The groups, those that others are in before these.
    pub fn nested(&self) -> Nested {
        Nested::of(&self.state().groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::Carries;
    use api::Id;

    /// One processor is less than any machine has that this runs on.
    const ONE: Capacity = Capacity { cpu: 1.0, memory: None };

    fn eng(reserve: f64, within: Option<&str>, expandable: bool) -> ShareGroup {
        let name = if within.is_some() { "test" } else { "eng" };
        let text = serde_json::json!({
            "name": name, "within": within, "expandable": expandable, "cpu_share": { "reserve": reserve },
        });
        serde_json::from_value(text).unwrap()
    }

    fn definition(group: Option<&str>, reserve: f64) -> VmDefinition {
        let mut definition = VmDefinition::named("a".parse().unwrap());
        definition.cpu_share.reserve = Processors::nearest(reserve);
        definition.share_group = group.map(|group| group.parse().unwrap());
        definition
    }

    #[test]
    fn groups_are_admitted_with_what_is_in_them_and_guests_with_what_their_groups_have() {
        let (shares, a, b) = (Shares::default(), Id::new(), Id::new());
        shares.set_group_of(ONE, eng(0.6, None, false)).unwrap();
        shares.set_group_of(ONE, eng(0.0, Some("eng"), true)).unwrap();
        shares.promise(a, &definition(Some("test"), 0.4)).unwrap();
        let refused = shares.promise(b, &definition(Some("test"), 0.3)).unwrap_err();
        assert_eq!(
            refused.detail,
            "a: the group eng has 0.2 left to promise, and 0.3 is asked for: 0.1 too much; 0.2 would fit"
        );
        let refused = shares.set_group_of(ONE, eng(0.3, None, false)).unwrap_err();
        assert_eq!(
            refused.detail,
            "what is in the group eng is promised 0.4, and it would have 0.3 for that: 0.1 too little; reserve 0.4, or let it expand"
        );
        assert_eq!(shares.groups()[0].0, eng(0.6, None, false), "nothing has changed");
        assert_eq!(shares.groups()[0].1.cpu, Processors::nearest(0.4));
        assert_eq!(shares.reserved(), Processors::nearest(0.6));
        let refused = shares.set_group_of(ONE, eng(1.5, None, false)).unwrap_err();
        assert_eq!(refused.errors[0].detail, "guests may use 1 processors of this host: at most 1");
        let mut turned = eng(0.6, None, false);
        turned.within = Some("test".parse().unwrap());
        let refused = shares.set_group_of(ONE, turned).unwrap_err();
        assert_eq!(
            (refused.errors[0].pointer.as_str(), refused.detail.as_str()),
            ("/within", "the group eng would be in itself: put it elsewhere")
        );
        assert!(
            shares
                .remove_group(&"eng".parse().unwrap())
                .unwrap_err()
                .detail
                .contains("the group test is in eng")
        );
        assert!(
            shares
                .remove_group(&"test".parse().unwrap())
                .unwrap_err()
                .detail
                .contains("a guest that runs is in test")
        );
        shares.give_back(a);
        shares.remove_group(&"test".parse().unwrap()).unwrap();
        let refused = shares.promise(a, &definition(Some("test"), 0.0)).unwrap_err();
        assert_eq!(refused.errors[0].pointer, "/share_group");
    }

    #[test]
    fn what_a_group_has_reserved_of_a_pool_comes_with_its_first_guest_there_and_goes_with_its_last() {
        let (shares, a, b) = (Shares::default(), Id::new(), Id::new());
        let pool = Place::Pool(api::default_pool());
        let reserved = || shares.of_place(&pool).1.0 >> 20;
        let mib = |mib: u64| Some(Size(mib << 20));
        shares.set_place(pool.clone(), Carries { bandwidth: mib(8), operations: None }).unwrap();
        let group = |name: &str, within: Option<&str>, reserve: &str| -> ShareGroup {
            let text =
                serde_json::json!({ "name": name, "within": within, "disk_share": { "reserve": reserve } });
            serde_json::from_value(text).unwrap()
        };
        shares.set_group_of(ONE, group("eng", None, "6M")).unwrap();
        shares.set_group_of(ONE, group("ops", None, "4M")).unwrap();
        let guest = |group: &str| {
            let disks = serde_json::json!({ "name": "a", "share_group": group, "disks": [{ "size": "1M" }] });
            serde_json::from_value::<VmDefinition>(disks).unwrap()
        };
        assert_eq!(reserved(), 0);
        shares.promise(a, &guest("eng")).unwrap();
        assert_eq!(reserved(), 6);
        let refused = shares.promise(b, &guest("ops")).unwrap_err();
        assert_eq!(refused.errors[0].pointer, "/share_group");
        assert_eq!(
            refused.detail,
            "a: the group ops, which has 4M/s reserved wherever it is used: the pool default has 2M/s left to promise, and 4M/s is asked for: 2M/s too much; 2M/s would fit"
        );
        // In the other one it takes what that has reserved.
        shares.set_group_of(ONE, group("ops", Some("eng"), "4M")).unwrap();
        shares.promise(b, &guest("ops")).unwrap();
        assert_eq!(reserved(), 6);
        let eng = &shares.groups()[0];
        assert_eq!((eng.0.name.as_str(), eng.1.places[&pool]), ("eng", Size(4 << 20)));
        // Out of it both are more than there is; without the one that is left by all it fits.
        let refused = shares.set_group_of(ONE, group("ops", None, "4M")).unwrap_err();
        assert_eq!(refused.errors[0].pointer, "/disk_share/reserve");
        shares.give_back(a);
        shares.set_group_of(ONE, group("ops", None, "4M")).unwrap();
        assert_eq!(reserved(), 4);
        shares.give_back(b);
        assert_eq!(reserved(), 0);
    }

    #[test]
    fn a_groups_part_of_the_pool_of_memory_is_kept_whoever_runs() {
        let shares = Shares::new(Some(Size(1 << 30)));
        let group = |reserve: &str| -> ShareGroup {
            let text = serde_json::json!({ "name": "eng", "expandable": false, "memory_share": { "reserve": reserve } });
            serde_json::from_value(text).unwrap()
        };
        shares.set_group(group("768M")).unwrap();
        assert_eq!(shares.memory_reserved(), Size(768 << 20));
        let guest = |group: Option<&str>, mib: u64| {
            let mut definition = definition(group, 0.0);
            definition.memory_share.reserve = Size(mib << 20);
            definition
        };
        let refused = shares.promise(Id::new(), &guest(None, 512)).unwrap_err();
        assert!(refused.detail.ends_with("256M too much; 256M would fit"), "{refused}");
        shares.promise(Id::new(), &guest(Some("eng"), 512)).unwrap();
        let refused = shares.promise(Id::new(), &guest(Some("eng"), 512)).unwrap_err();
        assert_eq!(
            refused.detail,
            "a: of the pool of memory the group eng has 256M left to promise, and 512M is asked for: 256M too much; 256M would fit"
        );
        let refused = shares.set_group(group("2G")).unwrap_err();
        assert_eq!(refused.errors[0].detail, "this host's pool of memory is 1G: at most 1G can be reserved");
        assert_eq!(shares.groups()[0].1.memory, Size(512 << 20));
    }

    #[test]
    fn a_guest_that_goes_to_another_group_is_kept_in_both_until_it_is_there() {
        let (shares, a, b) = (Shares::default(), Id::new(), Id::new());
        shares.set_group_of(ONE, eng(0.5, None, false)).unwrap();
        shares.settle(a, &definition(Some("eng"), 0.4), Some(1));
        shares.promise_besides(a, &definition(None, 0.4)).unwrap();
        assert!(shares.promise(b, &definition(Some("eng"), 0.2)).is_err(), "it may be undone");
        shares.settle(a, &definition(None, 0.4), Some(1));
        shares.promise(b, &definition(Some("eng"), 0.2)).unwrap();
        let nested = shares.nested();
        let groups = nested.promised(|group| group.cpu_share.share());
        assert_eq!((nested.names().next().unwrap().as_str(), groups[0].within), ("eng", None));
    }
}
