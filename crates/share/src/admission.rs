//! Whether what somebody is promised can be kept.
//!
//! What the members of a group are promised never exceeds what the group is promised. A group that is expandable takes what it lacks from
//! the group above it, and so on, as far as each limit allows (vSphere's "expandable reservation"). The host is promised what it has.

use std::fmt;

use crate::{Amount, Share};

/// A group, or a guest, by its name and that of the group that it is in.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// What it is called.
    pub name: String,
    /// The group that it is in; none is the host.
    pub group: Option<String>,
    /// What it is promised.
    pub share: Share,
    /// Of a group: whether what its members are promised may come from above it. Nothing is a guest.
    pub expandable: Option<bool>,
}

/// A promise that cannot be kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There is not so much left to promise.
    Short {
        /// Where it ends: a group, or the host.
        place: String,
        /// What would have to be promised there.
        asked: Amount,
        /// What is left there.
        free: Amount,
    },
    /// A group may not have so much.
    Limit {
        /// The group.
        place: String,
        /// Its limit.
        limit: Amount,
        /// What would have to be promised there.
        asked: Amount,
        /// What its limit leaves.
        free: Amount,
    },
    /// What the members of a group are promised already is more than it would have for them.
    Members {
        /// The group.
        place: String,
        /// What its members are promised.
        promised: Amount,
        /// What it would have for them.
        has: Amount,
        /// Whether that is its limit.
        is_limit: bool,
    },
    /// There is no such group.
    NoGroup(String),
    /// A group would be in itself.
    Loop(String),
}

/// How an amount is rounded that cannot be written as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// As it comes: nobody acts by it.
    Nearest,
    /// What is left: whoever asks for what is written gets it.
    Down,
    /// What is needed: less would be refused.
    Up,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(|amount, _| told(amount).to_string()))
    }
}

impl Refusal {
    /// What is wrong and the way out, with amounts as `shown` writes them: each resource has its units.
    pub fn in_words(&self, shown: impl Fn(Amount, Round) -> String) -> String {
        match self {
            Self::Short { place, asked, free } => {
                let (short, asked, free) = (
                    shown(asked - free, Round::Up),
                    shown(*asked, Round::Nearest),
                    shown(*free, Round::Down),
                );
                format!(
                    "{place} has {free} left to promise, and {asked} is asked for: {short} too much; {free} would fit"
                )
            }
            Self::Limit { place, limit, asked, free } => {
                let (short, free) = (shown(asked - free, Round::Up), shown(*free, Round::Down));
                let (limit, asked) = (shown(*limit, Round::Nearest), shown(*asked, Round::Nearest));
                format!(
                    "{place} is limited to {limit}, of which {free} is left to promise, and {asked} is asked for: {short} too much; {free} would fit"
                )
            }
            Self::Members { place, promised, has, is_limit } => {
                let or = if *is_limit { " and limit it to no less" } else { ", or let it expand" };
                let (short, promised, has) = (
                    shown(promised - has, Round::Up),
                    shown(*promised, Round::Up),
                    shown(*has, Round::Nearest),
                );
                format!(
                    "what is in {place} is promised {promised}, and it would have {has} for that: {short} too little; reserve {promised}{or}"
                )
            }
            Self::NoGroup(name) => format!("there is no group {name}"),
            Self::Loop(name) => format!("the group {name} would be in itself: put it elsewhere"),
        }
    }

    /// The largest reserve that would fit in place of the one that was asked for.
    pub fn fits(&self) -> Option<Amount> {
        match self {
            Self::Short { free, .. } | Self::Limit { free, .. } => Some(*free),
            Self::Members { promised, .. } => Some(*promised),
            Self::NoGroup(_) | Self::Loop(_) => None,
        }
    }
}

/// What is promised on a host with so much of a resource.
#[derive(Debug, Clone)]
pub struct Promises<'a> {
    host: &'a str,
    capacity: Amount,
    members: &'a [Member],
}

impl<'a> Promises<'a> {
    /// What these are promised of `capacity`, of which `host` is what has it, as a person reads it: the host, or one of its pools.
    ///
    /// # Errors
    /// If one of them is in a group that is not there, or in itself.
    pub fn new(host: &'a str, capacity: Amount, members: &'a [Member]) -> Result<Self, Refusal> {
        let promises = Self { host, capacity, members };
        for member in members {
            promises.above(member.group.as_deref())?;
        }
        Ok(promises)
    }

    fn group(&self, name: &str) -> Result<&'a Member, Refusal> {
        let is = |member: &&Member| member.name == name && member.expandable.is_some();
        self.members.iter().find(is).ok_or_else(|| Refusal::NoGroup(name.to_owned()))
    }

    /// The groups from this one up.
    fn above(&self, from: Option<&str>) -> Result<Vec<&'a Member>, Refusal> {
        let mut all: Vec<&'a Member> = Vec::new();
        let mut next = from.map(|name| self.group(name)).transpose()?;
        while let Some(group) = next {
            if all.iter().any(|other| other.name == group.name) {
                return Err(Refusal::Loop(group.name.clone()));
            }
            all.push(group);
            next = group.group.as_deref().map(|name| self.group(name)).transpose()?;
        }
        Ok(all)
    }

    /// What the members of a group, or of the host, are promised, but for one of them.
    fn promised(&self, group: Option<&str>, but: &str) -> Amount {
        let theirs =
            self.members.iter().filter(|member| member.group.as_deref() == group && member.name != but);
        theirs.map(|member| self.claim(member, but)).sum()
    }

    /// What somebody takes of what the group that they are in can promise.
    fn claim(&self, member: &Member, but: &str) -> Amount {
        match member.expandable {
            Some(true) => member.share.reserve.max(self.promised(Some(&member.name), but)),
            _ => member.share.reserve,
        }
    }

    /// What the host has promised of what it has.
    pub fn taken(&self) -> Amount {
        self.promised(None, "")
    }

    /// What a group has promised its members.
    pub fn taken_in(&self, group: &str) -> Amount {
        self.promised(Some(group), "")
    }

    /// Whether a group would still have what its members are promised already.
    fn holds_its_members(&self, group: &Member) -> Result<(), Refusal> {
        let Some(expandable) = group.expandable else { return Ok(()) };
        let promised = self.promised(Some(&group.name), "");
        let lacks = |has: Amount, is_limit| match promised > has + SMALL {
            true => Err(Refusal::Members { place: group.name.clone(), promised, has, is_limit }),
            false => Ok(()),
        };
        if let Some(limit) = group.share.limit.amount() {
            lacks(limit, true)?;
        }
        if expandable { Ok(()) } else { lacks(group.share.reserve, false) }
    }

    /// Whether somebody can be promised so much, in place of what they are promised now if they are there.
    ///
    /// # Errors
    /// If not: where it ends, and what would fit.
    pub fn admit(&self, member: &Member) -> Result<(), Refusal> {
        let groups = self.above(member.group.as_deref())?;
        if groups.iter().any(|group| group.name == member.name && member.expandable.is_some()) {
            return Err(Refusal::Loop(member.name.clone()));
        }
        self.holds_its_members(member)?;
        // Of a group that has members already, what these are promised.
        let mut asked = self.claim(member, "").max(member.share.reserve);
        // What has been found for it below already.
        let mut found = 0.0;
        for group in groups {
            let promised = self.promised(Some(&group.name), &member.name);
            // What is always somebody's is nothing that others might want.
            if let Some(limit) = group.share.limit.amount()
                && promised + asked > limit + SMALL
            {
                let free = (limit - promised).max(0.0) + found;
                return Err(Refusal::Limit { place: group.name.clone(), limit, asked: asked + found, free });
            }
            let free = (group.share.reserve - promised).max(0.0);
            if asked <= free + SMALL {
                return Ok(());
            }
            if group.expandable != Some(true) {
                let place = group.name.clone();
                return Err(Refusal::Short { place, asked: asked + found, free: free + found });
            }
            (asked, found) = (asked - free, found + free);
        }
        let free = (self.capacity - self.promised(None, &member.name)).max(0.0);
        // What an expandable group on the way takes already is in there.
        if asked <= free + SMALL {
            return Ok(());
        }
        Err(Refusal::Short { place: self.host.to_owned(), asked: asked + found, free: free + found })
    }
}

/// What is lost in sums of what nobody can tell apart.
const SMALL: Amount = 1e-9;

/// An amount without what is lost in sums.
fn told(amount: Amount) -> Amount {
    (amount * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limit;

    fn group(name: &str, within: Option<&str>, reserve: Amount, expandable: bool) -> Member {
        let share = Share { reserve, ..Share::default() };
        Member { name: name.into(), group: within.map(Into::into), share, expandable: Some(expandable) }
    }

    fn guest(name: &str, within: Option<&str>, reserve: Amount) -> Member {
        Member { expandable: None, ..group(name, within, reserve, false) }
    }

    fn admit(members: &[Member], new: &Member) -> Result<(), Refusal> {
        Promises::new("the host", 4.0, members).unwrap().admit(new)
    }

    fn short(place: &str, asked: Amount, free: Amount) -> Result<(), Refusal> {
        Err(Refusal::Short { place: place.into(), asked, free })
    }

    /// The host, an engineering group, a test group in it.
    fn three_levels(outer: bool, inner: bool) -> Vec<Member> {
        vec![
            group("eng", None, 2.0, outer),
            group("test", Some("eng"), 1.0, inner),
            guest("vm1", Some("test"), 0.75),
        ]
    }

    #[test]
    fn a_fixed_group_promises_what_it_has_and_no_more() {
        assert_eq!(admit(&three_levels(false, false), &guest("vm2", Some("test"), 0.25)), Ok(()));
        let refused = admit(&three_levels(true, false), &guest("vm2", Some("test"), 0.5));
        assert_eq!(refused, short("test", 0.5, 0.25));
        let said = refused.unwrap_err().to_string();
        assert_eq!(
            said,
            "test has 0.25 left to promise, and 0.5 is asked for: 0.25 too much; 0.25 would fit"
        );
        let refused =
            Promises::new("the host", 1.0, &[guest("a", None, 0.7)]).unwrap().admit(&guest("b", None, 0.4));
        let said = refused.unwrap_err().to_string();
        assert_eq!(
            said,
            "the host has 0.3 left to promise, and 0.4 is asked for: 0.1 too much; 0.3 would fit"
        );
    }

    #[test]
    fn an_expandable_group_takes_what_it_lacks_from_above() {
        // eng has 2, of which test has 1: 1 more is to be had there.
        assert_eq!(admit(&three_levels(false, true), &guest("vm2", Some("test"), 1.25)), Ok(()));
        assert_eq!(
            admit(&three_levels(false, true), &guest("vm2", Some("test"), 1.5)),
            short("eng", 1.5, 1.25)
        );
    }

    #[test]
    fn two_expandable_groups_reach_the_host() {
        assert_eq!(admit(&three_levels(true, true), &guest("vm2", Some("test"), 3.25)), Ok(()));
        assert_eq!(
            admit(&three_levels(true, true), &guest("vm2", Some("test"), 3.5)),
            short("the host", 3.5, 3.25)
        );
        let mut full = three_levels(true, true);
        full.push(guest("other", None, 2.0));
        assert_eq!(admit(&full, &guest("vm2", Some("test"), 1.25)), Ok(()));
        assert_eq!(admit(&full, &guest("vm2", Some("test"), 1.5)), short("the host", 1.5, 1.25));
    }

    #[test]
    fn a_limit_on_the_way_ends_it() {
        let mut members = three_levels(true, true);
        members[0].share.limit = Limit::Hard(2.5);
        assert_eq!(admit(&members, &guest("vm2", Some("test"), 1.75)), Ok(()));
        let refused = admit(&members, &guest("vm2", Some("test"), 2.0)).unwrap_err();
        assert!(
            matches!(&refused, Refusal::Limit { place, limit, .. } if place == "eng" && *limit == 2.5),
            "{refused}"
        );
        assert_eq!(refused.fits(), Some(1.75));
        assert_eq!(admit(&members, &guest("vm2", Some("test"), 1.75)), Ok(()));
    }

    #[test]
    fn what_somebody_had_is_theirs_to_change() {
        assert_eq!(admit(&three_levels(false, false), &guest("vm1", Some("test"), 1.0)), Ok(()));
        assert_eq!(
            admit(&three_levels(false, false), &guest("vm1", Some("test"), 1.5)),
            short("test", 1.5, 1.0)
        );
    }

    #[test]
    fn a_group_is_admitted_with_what_its_members_are_promised() {
        let members = three_levels(true, true);
        assert_eq!(admit(&members, &group("eng", None, 4.0, true)), Ok(()));
        assert_eq!(admit(&members, &group("eng", None, 4.5, true)), short("the host", 4.5, 4.0));
        let mut full = members;
        full.push(guest("vm2", Some("test"), 2.5));
        full.push(guest("other", None, 0.75));
        assert_eq!(admit(&full, &guest("third", None, 0.5)), short("the host", 0.5, 0.0));
    }

    #[test]
    fn a_group_never_has_less_than_its_members_are_promised() {
        let members = three_levels(false, false);
        let lacks =
            |has, is_limit| Err(Refusal::Members { place: "test".into(), promised: 0.75, has, is_limit });
        assert_eq!(admit(&members, &group("test", Some("eng"), 0.75, false)), Ok(()));
        assert_eq!(admit(&members, &group("test", Some("eng"), 0.5, false)), lacks(0.5, false));
        // What it lacks comes from above if it may.
        assert_eq!(admit(&members, &group("test", Some("eng"), 0.5, true)), Ok(()));
        let mut limited = group("test", Some("eng"), 0.5, true);
        limited.share.limit = Limit::Hard(0.6);
        let refused = admit(&members, &limited);
        assert_eq!(refused, lacks(0.6, true));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "what is in test is promised 0.75, and it would have 0.6 for that: 0.15 too little; reserve 0.75 and limit it to no less"
        );
        assert_eq!(
            admit(&members, &group("test", Some("eng"), 0.5, false)).unwrap_err().to_string(),
            "what is in test is promised 0.75, and it would have 0.5 for that: 0.25 too little; reserve 0.75, or let it expand"
        );
        assert_eq!(Promises::new("the host", 4.0, &members).unwrap().taken(), 2.0);
        assert_eq!(Promises::new("the host", 4.0, &members).unwrap().taken_in("test"), 0.75);
    }

    #[test]
    fn groups_that_are_not_there_or_in_themselves_are_refused() {
        assert_eq!(admit(&[], &guest("a", Some("x"), 0.1)), Err(Refusal::NoGroup("x".into())));
        let members = three_levels(false, false);
        let inside = group("eng", Some("test"), 2.0, false);
        assert_eq!(admit(&members, &inside), Err(Refusal::Loop("eng".into())));
        let turning = [group("a", Some("b"), 0.0, true), group("b", Some("a"), 0.0, true)];
        assert!(matches!(Promises::new("the host", 1.0, &turning), Err(Refusal::Loop(_))));
    }
}
