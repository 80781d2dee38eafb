//! Groups in which guests share, and what is promised through them.

use api::{Id, Invalid, Name, Problem, Processors, ShareGroup, VmDefinition};
use share::Share;
use share::admission::{Member, Promises, Refusal};

use super::promises::{Shares, State, capacity};
use super::rule;

/// What a group is called among the members of others, as a person reads it.
fn called(group: &Name) -> String {
    format!("the group {group}")
}

fn group(of: &ShareGroup) -> Member {
    Member {
        name: called(&of.name),
        group: of.within.as_ref().map(called),
        share: of.cpu_share.share(),
        expandable: Some(of.expandable),
    }
}

/// A guest among the members of a group. No group is called as one.
pub(super) fn guest(id: Id, within: Option<&Name>, share: Share) -> Member {
    Member { name: format!("guest {id}"), group: within.map(called), share, expandable: None }
}

/// All groups, and the guests for which something is kept, but for one of them.
pub(super) fn members(state: &State, but: Option<Id>) -> Vec<Member> {
    let there = |within: &Option<&Name>| within.is_none_or(|group| state.groups.contains_key(group));
    let guests = state.guests.iter().filter(|(id, _)| Some(**id) != but);
    let guests = guests.flat_map(|(id, claimant)| claimant.kept().map(move |kept| (*id, kept)));
    let guests = guests.map(|(id, (within, reserve))| {
        let share = Share { reserve: reserve.get(), ..Share::default() };
        // A guest whose group has been lost with a store is the host's.
        guest(id, Some(within).filter(there).flatten(), share)
    });
    let groups = state.groups.values().map(|of| {
        let mut member = group(of);
        if !there(&of.within.as_ref()) {
            member.group = None;
        }
        member
    });
    groups.chain(guests).collect()
}

/// What a refusal of a group is to whoever asked.
fn refused(of: &ShareGroup, refusal: &Refusal) -> Problem {
    let share = &of.cpu_share;
    let (pointer, value) = match refusal {
        Refusal::Members { is_limit: true, .. } => {
            ("/cpu_share/limit", share.limit.unwrap_or_default().get().into())
        }
        Refusal::Loop(_) | Refusal::NoGroup(_) => {
            ("/within", of.within.as_ref().map_or("", Name::as_str).into())
        }
        _ => ("/cpu_share/reserve", serde_json::Value::from(share.reserve.get())),
    };
    let detail = match refusal {
        Refusal::Loop(_) => format!("{} would be in itself: put it elsewhere", called(&of.name)),
        other => other.to_string(),
    };
    Problem::conflict_of(Invalid::new(pointer, value, detail))
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
        self.set_group_of(capacity(), new)
    }

    fn set_group_of(&self, has: f64, new: ShareGroup) -> Result<Option<ShareGroup>, Problem> {
        let mut wrong = new.check();
        for (field, amount) in [("reserve", Some(new.cpu_share.reserve)), ("limit", new.cpu_share.limit)] {
            if let Some(amount) = amount.filter(|amount| amount.get() > has) {
                let detail = format!("guests may use {has} processors of this host: at most {has}");
                wrong.push(Invalid::new(format!("/cpu_share/{field}"), amount.get(), detail));
            }
        }
        if !wrong.is_empty() {
            return Err(Problem::invalid(wrong));
        }
        self.change(|state| {
            if let Some(within) = new.within.as_ref().filter(|within| !state.groups.contains_key(*within)) {
                let detail = format!("there is no group {within}: make it first");
                return Err(Problem::invalid(vec![Invalid::new("/within", within.as_str(), detail)]));
            }
            let members = members(state, None);
            let admitted = Promises::new(has, &members).and_then(|promises| promises.admit(&group(&new)));
            admitted.map_err(|refusal| refused(&new, &refusal))?;
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
            if state.guests.values().any(|claimant| claimant.kept().any(|(within, _)| within == Some(name))) {
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
    pub fn groups(&self) -> Vec<(ShareGroup, Processors)> {
        let state = self.state();
        let members = members(&state, None);
        let promises = Promises::new(capacity(), &members);
        let promised = |group: &ShareGroup| {
            promises.as_ref().map_or(0.0, |promises| promises.taken_in(&called(&group.name)))
        };
        let told = |group: &ShareGroup| (group.clone(), Processors::nearest(promised(group)));
        state.groups.values().map(told).collect()
    }

    /// The groups as the rule has them, those that others are in before these, with their names.
    pub(super) fn tree(&self) -> (Vec<Name>, Vec<rule::Group>) {
        let state = self.state();
        let (mut names, mut groups) = (Vec::<Name>::new(), Vec::new());
        // Each turn finds those whose place is known.
        loop {
            let place = |within: &Option<Name>| match within {
                Some(within) if state.groups.contains_key(within) => {
                    names.iter().position(|name| name == within).map(Some)
                }
                _ => Some(None),
            };
            let open = state.groups.values().filter(|group| !names.contains(&group.name));
            let found: Vec<_> = open.filter_map(|group| Some((group, place(&group.within)?))).collect();
            if found.is_empty() {
                return (names, groups);
            }
            for (group, within) in found {
                names.push(group.name.clone());
                let share = group.cpu_share.share();
                groups.push(rule::Group { share, expandable: group.expandable, within });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        shares.set_group_of(1.0, eng(0.6, None, false)).unwrap();
        shares.set_group_of(1.0, eng(0.0, Some("eng"), true)).unwrap();
        // One processor is less than any machine has that this runs on.
        shares.promise(a, &definition(Some("test"), 0.4)).unwrap();
        let refused = shares.promise(b, &definition(Some("test"), 0.3)).unwrap_err();
        assert_eq!(
            refused.detail,
            "a: the group eng has 0.2 left to promise, and 0.3 is asked for: 0.1 too much; 0.2 would fit"
        );
        let refused = shares.set_group_of(1.0, eng(0.3, None, false)).unwrap_err();
        assert_eq!(
            refused.detail,
            "what is in the group eng is promised 0.4, and it would have 0.3 for that: 0.1 too little; reserve 0.4, or let it expand"
        );
        assert_eq!(shares.groups()[0].0, eng(0.6, None, false), "nothing has changed");
        assert_eq!(shares.groups()[0].1, Processors::nearest(0.4));
        assert_eq!(shares.reserved(), Processors::nearest(0.6));
        let refused = shares.set_group_of(1.0, eng(1.5, None, false)).unwrap_err();
        assert_eq!(refused.errors[0].detail, "guests may use 1 processors of this host: at most 1");
        let mut turned = eng(0.6, None, false);
        turned.within = Some("test".parse().unwrap());
        let refused = shares.set_group_of(1.0, turned).unwrap_err();
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
    fn a_guest_that_goes_to_another_group_is_kept_in_both_until_it_is_there() {
        let (shares, a, b) = (Shares::default(), Id::new(), Id::new());
        shares.set_group_of(1.0, eng(0.5, None, false)).unwrap();
        shares.settle(a, &definition(Some("eng"), 0.4), Some(1));
        shares.promise_besides(a, &definition(None, 0.4)).unwrap();
        assert!(shares.promise(b, &definition(Some("eng"), 0.2)).is_err(), "it may be undone");
        shares.settle(a, &definition(None, 0.4), Some(1));
        shares.promise(b, &definition(Some("eng"), 0.2)).unwrap();
        let (names, groups) = shares.tree();
        assert_eq!((names[0].as_str(), groups[0].within), ("eng", None));
    }
}
