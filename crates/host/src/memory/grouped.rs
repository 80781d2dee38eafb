//! The guests of a pool in the groups in which they share it.

use std::cmp::Reverse;
use std::collections::HashMap;

use api::Id;
use share::memory::{Divided, Wants, divide, on_device, promised, without};
use share::{Amount, Group, above};

use super::heard::Heard;
use crate::shares::Nested;

/// The groups, and in which each guest is.
pub struct Grouped {
    groups: Vec<Group>,
    guests: HashMap<Id, usize>,
}

impl Grouped {
    /// These guests in these groups.
    pub fn new(nested: &Nested, heard: &[Heard]) -> Self {
        let number = |guest: &Heard| Some((guest.id, nested.number(guest.group.as_ref())?));
        let guests = heard.iter().filter_map(number).collect();
        Self { groups: nested.promised(|group| group.memory_share.share()), guests }
    }

    fn of(&self, guest: &Heard) -> Option<usize> {
        self.guests.get(&guest.id).copied()
    }

    /// The same, where these keep so many bytes of what their groups are promised and limited to.
    pub fn beside(&self, kept: &[(&Heard, Amount)]) -> Self {
        let taken = kept.iter().map(|(guest, bytes)| (*bytes, self.of(guest)));
        Self { groups: without(&self.groups, taken), guests: self.guests.clone() }
    }

    /// What each of some guests, which want this, is to have of so many bytes, and their groups.
    pub fn divide<'a>(&self, pool: Amount, all: impl IntoIterator<Item = (&'a Heard, Wants)>) -> Divided {
        divide(pool, &self.groups, &self.placed(all))
    }

    /// What some guests, which want this, are promised together, bytes.
    pub fn promised<'a>(&self, all: impl IntoIterator<Item = (&'a Heard, Wants)>) -> Amount {
        promised(&self.groups, &self.placed(all))
    }

    fn placed<'a>(&self, all: impl IntoIterator<Item = (&'a Heard, Wants)>) -> Vec<(Wants, Option<usize>)> {
        all.into_iter().map(|(guest, wants)| (wants, self.of(guest))).collect()
    }

    /// What of what each guest lacks it may have without its groups passing their limits, if `divided` is what they are to have already.
    pub fn within_limits(&self, guests: &[&Heard], divided: &Divided, lacks: Vec<Amount>) -> Vec<Amount> {
        let mut lacks = lacks;
        // What is in a group comes after it.
        for (number, group) in self.groups.iter().enumerate().rev() {
            let Some(limit) = group.share.limit.amount() else { continue };
            let is_in = |guest: &Heard| above(&self.groups, self.of(guest)).any(|group| group == number);
            let inside: Vec<_> = (0..guests.len()).filter(|n| is_in(guests[*n])).collect();
            let theirs: Vec<_> = inside.iter().map(|n| lacks[*n]).collect();
            for (n, part) in inside.iter().zip(on_device(limit - divided.groups[number], &theirs)) {
                lacks[*n] = lacks[*n].min(part);
            }
        }
        lacks
    }

    /// The limit of each group that has one, bytes, with its number and all guests in it: what is in a group comes before it.
    pub fn limits(&self) -> impl Iterator<Item = (usize, Amount, impl Iterator<Item = Id>)> {
        let limited = self.groups.iter().enumerate().rev();
        let limited = limited.filter_map(|(number, group)| Some((number, group.share.limit.amount()?)));
        limited.map(move |(number, limit)| {
            let is_in = move |of: usize| above(&self.groups, Some(of)).any(|group| group == number);
            let inside = self.guests.iter().filter(move |(_, of)| is_in(**of)).map(|(id, _)| *id);
            (number, limit, inside)
        })
    }

    /// Whom the others are better off without: of those that have more than they are promised, and whose groups have, the one with the least
    /// weight, and of those the one that has the most beyond that. Groups are chosen among as guests are, from the outermost.
    /// Who does not go (`goes`) is passed over.
    pub fn least(&self, heard: &[Heard], goes: impl Fn(Id) -> bool) -> Option<Id> {
        let mut own = vec![0u64; self.groups.len()];
        for guest in heard {
            above(&self.groups, self.of(guest)).for_each(|group| own[group] += guest.own);
        }
        let rank = |guest: &Heard| {
            let beyond = guest.own.saturating_sub(guest.share.reserve.0);
            let groups = above(&self.groups, self.of(guest)).map(|number| {
                let share = &self.groups[number].share;
                (share.weight, Reverse(own[number].saturating_sub(share.reserve as u64)))
            });
            let mut path: Vec<_> =
                std::iter::once((guest.share.weight, Reverse(beyond))).chain(groups).collect();
            path.reverse();
            path.iter().all(|(_, Reverse(beyond))| *beyond > 0).then_some(path)
        };
        let some = heard.iter().filter(|guest| goes(guest.id));
        let some = some.filter_map(|guest| Some((rank(guest)?, guest.id)));
        some.min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, id)| id)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, Instant};

    use api::{MemoryShare, Size};

    use super::super::turn::Looks;
    use super::super::turn::tests::guest;
    use super::*;
    use crate::shares::Shares;

    const MIB: u64 = 1 << 20;

    /// Groups of which the memory is shared so.
    pub fn groups(all: &[(&str, MemoryShare)]) -> Nested {
        let shares = Shares::default();
        let group = |(name, share): &(&str, MemoryShare)| {
            serde_json::from_value(serde_json::json!({ "name": name, "memory_share": share })).unwrap()
        };
        shares.load_groups(all.iter().map(group).collect());
        shares.nested()
    }

    #[test]
    fn whoever_says_nothing_counts_in_its_group() {
        let limited = MemoryShare { limit: Some(Size(300 * MIB)), ..MemoryShare::default() };
        let nested = groups(&[("eng", limited)]);
        let (a, b) = (Id::new(), Id::new());
        let mut heard = [guest(a, 0, 200, None), guest(b, 0, 60, Some(450))];
        heard.iter_mut().for_each(|guest| guest.group = Some("eng".parse().unwrap()));
        let (mut looks, now) = (Looks::new(4096 * MIB), Instant::now());
        let target = |looks: &mut Looks, now| looks.look(now, &nested, &heard, 0).1[&b].target;
        assert_eq!(
            target(&mut looks, now),
            Some(Size(0)),
            "the other one starts, and may touch all of its memory"
        );
        assert_eq!(target(&mut looks, now + Duration::from_secs(120)), Some(Size(100 * MIB)));
    }

    #[test]
    fn nobody_goes_whose_group_has_no_more_than_it_is_promised() {
        let share = |mib: u64, weight| MemoryShare { reserve: Size(mib * MIB), weight, limit: None };
        let nested = groups(&[("heavy", share(0, 5000)), ("kept", share(300, 1))]);
        let ids = [(); 3].map(|()| Id::new());
        let mut heard: Vec<_> = ids.iter().map(|id| guest(*id, 0, 300, None)).collect();
        heard[0].group = Some("kept".parse().unwrap());
        // In a group that weighs more than it does at the host.
        (heard[1].group, heard[1].share.weight) = (Some("heavy".parse().unwrap()), 1);
        assert_eq!(Grouped::new(&nested, &heard).least(&heard, |_| true), Some(ids[2]));
        heard[0].own = 301 * MIB;
        assert_eq!(Grouped::new(&nested, &heard).least(&heard, |_| true), Some(ids[0]));
        assert_eq!(Grouped::new(&nested, &heard).least(&heard, |id| id != ids[0]), Some(ids[2]));
        assert_eq!(Grouped::new(&Nested::default(), &heard).least(&heard, |_| true), Some(ids[1]));
    }
}
