//! Memory of a pool through groups of groups.

use super::{Wants, targets};
use crate::{Amount, Group, Limit, Share};

/// What everybody is to have, bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Divided {
    /// Each group, for all of its members together.
    pub groups: Vec<Amount>,
    /// Each guest.
    pub guests: Vec<Amount>,
}

/// Somebody in a group, or at the host.
#[derive(Debug, Clone, Copy)]
enum Member {
    Group(usize),
    Guest(usize),
}

/// What each guest, with the number of the group that it is in, is to have of `pool` bytes.
///
/// A group is to those beside it what a guest is, with its own share: it believes to have what its members can have together and uses what
/// they use, where what they have reserved counts as used, for nobody else can have it. So it has its reserve as far as its members are so
/// large, never more than its limit, and is taxed for what is idle in it. What it has its members divide in the same way ([`targets`]).
///
/// # Panics
/// If somebody is in a group that is not there, or a group in one that does not come before it.
pub fn divide(pool: Amount, groups: &[Group], guests: &[(Wants, Option<usize>)]) -> Divided {
    let tree = Tree::new(groups, guests);
    let mut divided = Divided { groups: vec![0.0; groups.len()], guests: vec![0.0; guests.len()] };
    for (number, members) in tree.members.iter().enumerate() {
        let amount = number.checked_sub(1).map_or(pool, |group| divided.groups[group]);
        for (member, target) in members.iter().zip(targets(amount, &tree.wants(members))) {
            match *member {
                Member::Group(group) => divided.groups[group] = target,
                Member::Guest(guest) => divided.guests[guest] = target,
            }
        }
    }
    divided
}

/// The bytes of a pool that all of these are promised together, as far as they are so large.
///
/// # Panics
/// As [`divide`].
pub fn promised(groups: &[Group], guests: &[(Wants, Option<usize>)]) -> Amount {
    let tree = Tree::new(groups, guests);
    tree.wants(&tree.members[0]).iter().map(|wants| wants.bounds().0).sum()
}

/// Who is in which group, and what each group wants.
struct Tree<'a> {
    /// Of the host, and then of each group.
    members: Vec<Vec<Member>>,
    groups: Vec<Wants>,
    guests: &'a [(Wants, Option<usize>)],
}

impl<'a> Tree<'a> {
    fn new(groups: &[Group], guests: &'a [(Wants, Option<usize>)]) -> Self {
        let mut members = vec![Vec::new(); groups.len() + 1];
        let place = |group: Option<usize>| group.map_or(0, |group| group + 1);
        for (number, (_, group)) in guests.iter().enumerate() {
            members[place(*group)].push(Member::Guest(number));
        }
        for (number, group) in groups.iter().enumerate() {
            members[place(group.within)].push(Member::Group(number));
        }
        let nothing = Wants { share: Share::default(), size: 0.0, active: 0.0 };
        let mut tree = Self { members, groups: vec![nothing; groups.len()], guests };
        // Whatever is in a group comes after it.
        for (number, group) in groups.iter().enumerate().rev() {
            tree.groups[number] = together(group, &tree.wants(&tree.members[number + 1]));
        }
        tree
    }

    fn wants(&self, members: &[Member]) -> Vec<Wants> {
        let of = |member: &Member| match *member {
            Member::Group(group) => self.groups[group],
            Member::Guest(guest) => self.guests[guest].0,
        };
        members.iter().map(of).collect()
    }
}

/// What a group wants whose members want this.
fn together(group: &Group, members: &[Wants]) -> Wants {
    let (mut least, mut most, mut active) = (0.0, 0.0, 0.0);
    for member in members {
        let bounds = member.bounds();
        least += bounds.0;
        most += bounds.1;
        active += member.active.clamp(bounds.0, bounds.1);
    }
    let reserve = if group.expandable { group.share.reserve.max(least) } else { group.share.reserve };
    Wants { share: Share { reserve, ..group.share }, size: most, active }
}

/// Groups from whose part of a pool something is taken before it is divided: `taken` are bytes, and the number of the group of whoever has
/// them. What is taken counts as theirs: of what each is promised and limited to, the rest is left.
///
/// # Panics
/// If somebody is in a group that is not there.
pub fn without(groups: &[Group], taken: impl IntoIterator<Item = (Amount, Option<usize>)>) -> Vec<Group> {
    let mut rest = groups.to_vec();
    for (bytes, group) in taken {
        for group in crate::above(groups, group) {
            let share = &mut rest[group].share;
            share.reserve = (share.reserve - bytes).max(0.0);
            if let Limit::Hard(limit) | Limit::Soft(limit) = &mut share.limit {
                *limit = (*limit - bytes).max(0.0);
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(share: Share, within: Option<usize>) -> Group {
        Group { share, expandable: true, within }
    }

    fn guest(active: Amount, group: Option<usize>) -> (Wants, Option<usize>) {
        (Wants { share: Share::default(), size: 100.0, active }, group)
    }

    fn weight(weight: u32) -> Share {
        Share { weight, ..Share::default() }
    }

    fn close(got: &[Amount], wanted: &[Amount]) {
        assert_eq!(got.len(), wanted.len());
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((got - wanted).abs() < 1e-6, "{got} is not {wanted}");
        }
    }

    #[test]
    fn groups_compete_by_their_own_weights_whatever_is_in_them() {
        let groups = [group(weight(3000), None), group(weight(1000), None)];
        let busy = |group| guest(100.0, Some(group));
        let got = divide(120.0, &groups, &[busy(0), busy(1), busy(1), busy(1)]);
        close(&got.groups, &[90.0, 30.0]);
        close(&got.guests, &[90.0, 10.0, 10.0, 10.0]);
        // What one cannot use is the other one's.
        let got = divide(220.0, &groups, &[busy(0), busy(1), busy(1), busy(1)]);
        close(&got.guests, &[100.0, 40.0, 40.0, 40.0]);
    }

    #[test]
    fn a_group_has_its_reserve_and_never_more_than_its_limit() {
        let reserved = Share { reserve: 80.0, weight: 1, limit: Limit::None };
        let groups = [group(reserved, None)];
        let guests = [guest(100.0, Some(0)), guest(0.0, Some(0)), guest(100.0, None)];
        let got = divide(100.0, &groups, &guests);
        assert!(got.groups[0] >= 80.0 && got.groups[0] < 80.1, "{got:?}");
        // Inside who is idle keeps a fifth.
        assert!((got.guests[0] / got.guests[1] - 4.0).abs() < 1e-6, "{got:?}");
        let limited = [group(Share { limit: Limit::Hard(30.0), ..weight(1_000_000) }, None)];
        let got = divide(200.0, &limited, &guests);
        close(&got.groups, &[30.0]);
        close(&got.guests[2..], &[100.0]);
    }

    #[test]
    fn a_group_is_taxed_for_what_is_idle_in_it_but_not_for_what_is_reserved() {
        let groups = [group(Share::default(), None), group(Share::default(), None)];
        let got = divide(100.0, &groups, &[guest(0.0, Some(0)), guest(100.0, Some(1))]);
        close(&got.groups, &[20.0, 80.0]);
        let mut kept = guest(0.0, Some(0));
        kept.0.share.reserve = 40.0;
        let got = divide(100.0, &groups, &[kept, guest(100.0, Some(0)), guest(100.0, Some(1))]);
        close(&got.guests, &[40.0 + 6.0, 24.0, 30.0]);
    }

    #[test]
    fn what_all_are_promised_is_what_groups_are_or_more_if_their_members_are_and_they_can_get_it() {
        let reserved = |reserve: Amount| Share { reserve, ..Share::default() };
        let mut groups =
            [group(reserved(50.0), None), group(reserved(20.0), Some(0)), group(reserved(70.0), None)];
        let mut guests = [guest(0.0, Some(1)), guest(0.0, Some(2)), guest(0.0, None)];
        assert_eq!(promised(&groups, &guests), 120.0);
        guests[0].0.share.reserve = 80.0;
        guests[2].0.share.reserve = 5.0;
        assert_eq!(promised(&groups, &guests), 80.0 + 70.0 + 5.0);
        groups[0].expandable = false;
        assert_eq!(promised(&groups, &guests), 50.0 + 70.0 + 5.0);
        assert_eq!(promised(&groups, &guests[1..]), 70.0 + 5.0, "one without members is not so large");
    }

    #[test]
    fn what_is_taken_is_what_a_group_has_already() {
        let share = Share { reserve: 50.0, limit: Limit::Hard(60.0), ..Share::default() };
        let groups = [group(share, None), group(share, Some(0)), group(share, None)];
        let rest = without(&groups, [(20.0, Some(1)), (70.0, None)]);
        assert_eq!((rest[0].share.reserve, rest[0].share.limit), (30.0, Limit::Hard(40.0)));
        assert_eq!(rest[1].share, rest[0].share);
        assert_eq!(rest[2], groups[2]);
        let rest = without(&groups, [(90.0, Some(0))]);
        assert_eq!((rest[0].share.reserve, rest[0].share.limit), (0.0, Limit::Hard(0.0)));
    }
}
