//! One resource through groups of groups.
//!
//! A group's members share what the group gets. What they do not want is there for other groups: a group wants no more than its members do.

use crate::{Amount, Claim, Share, divide};

/// Where everything is: the host, of which groups and guests are members.
const HOST: usize = 0;

/// A group of guests and of other groups, among all groups of a host: those that others are in come before these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// What it is promised.
    pub share: Share,
    /// Whether what its members are promised may come from above it.
    pub expandable: bool,
    /// The number of the group that it is in; none is the host.
    pub within: Option<usize>,
}

/// The groups from this one up, by number.
///
/// # Panics
/// If there is no such group.
pub fn above(groups: &[Group], from: Option<usize>) -> impl Iterator<Item = usize> {
    std::iter::successors(from, |&group| groups[group].within)
}

#[derive(Debug, Clone)]
struct Node {
    share: Share,
    /// Whether what its members are promised may come from above it.
    expandable: bool,
    members: Vec<usize>,
    /// What a guest would take; of a group, nothing.
    demand: Amount,
    /// What a guest would take besides of what nobody else wants.
    besides: Amount,
}

impl Node {
    fn new(share: Share, expandable: bool) -> Self {
        Self { share, expandable, members: Vec::new(), demand: 0.0, besides: 0.0 }
    }
}

/// A host's groups and guests, and what the guests want of a resource. Each has a number; the host has 0.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// A host that has so much of the resource, and no guests.
    pub fn new(capacity: Amount) -> Self {
        Self { nodes: vec![Node::new(Share::capped(capacity), false)] }
    }

    /// The same with these groups. A group's number here is one more than among `groups`.
    ///
    /// # Panics
    /// If one is in another one that does not come before it.
    pub fn with(capacity: Amount, groups: &[Group]) -> Self {
        let mut tree = Self::new(capacity);
        for group in groups {
            tree.group(Self::number(group.within), group.share, group.expandable);
        }
        tree
    }

    /// The number of a group of those that a tree was made with; of none, the host's.
    pub fn number(group: Option<usize>) -> usize {
        group.map_or(HOST, |group| group + 1)
    }

    fn add(&mut self, parent: usize, node: Node) -> usize {
        let number = self.nodes.len();
        self.nodes.push(node);
        self.nodes[parent].members.push(number);
        number
    }

    /// Adds a group to the host (0) or to another group; gives its number.
    ///
    /// # Panics
    /// If there is no such parent.
    pub fn group(&mut self, parent: usize, share: Share, expandable: bool) -> usize {
        self.add(parent, Node::new(share, expandable))
    }

    /// Adds a guest that would take so much; gives its number.
    ///
    /// # Panics
    /// If there is no such parent.
    pub fn guest(&mut self, parent: usize, share: Share, demand: Amount) -> usize {
        self.claimant(parent, share, demand, 0.0)
    }

    /// The same for one that would take so much besides, of what nobody else wants.
    ///
    /// # Panics
    /// If there is no such parent.
    pub fn claimant(&mut self, parent: usize, share: Share, demand: Amount, besides: Amount) -> usize {
        self.add(parent, Node { demand, besides, ..Node::new(share, false) })
    }

    /// Changes what a guest would take.
    ///
    /// # Panics
    /// If there is no such guest.
    pub fn set_demand(&mut self, guest: usize, demand: Amount) {
        self.nodes[guest].demand = demand;
    }

    /// What each gets, by number; the host what all of its guests get together.
    pub fn divide(&self) -> Vec<Amount> {
        let claims = self.claims();
        let mut got = vec![0.0; self.nodes.len()];
        got[HOST] = claims[HOST].wants;
        for (number, node) in self.nodes.iter().enumerate() {
            let theirs: Vec<_> = node.members.iter().map(|&member| claims[member]).collect();
            for (&member, amount) in node.members.iter().zip(divide(got[number], &theirs)) {
                got[member] = amount;
            }
        }
        got
    }

    /// What each claims, by number. Members come after their group.
    fn claims(&self) -> Vec<Claim> {
        let none = Claim { reserve: 0.0, weight: 1, wants: 0.0, besides: 0.0 };
        let mut claims = vec![none; self.nodes.len()];
        for (number, node) in self.nodes.iter().enumerate().rev() {
            let theirs = || node.members.iter().map(|&member| &claims[member]);
            let wants = node.demand + theirs().map(|claim| claim.wants).sum::<Amount>();
            let besides = node.besides + theirs().map(|claim| claim.besides).sum::<Amount>();
            let mut claim = Claim::of(&node.share, wants, besides);
            if number == HOST {
                // There is nobody else: what is wanted besides is wanted.
                claim.wants = (claim.wants + claim.besides).min(node.share.reserve);
            }
            if node.expandable {
                claim.reserve = claim.reserve.max(theirs().map(|claim| claim.reserve).sum());
            }
            claims[number] = claim;
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limit;

    fn close(got: Amount, wanted: Amount) {
        assert!((got - wanted).abs() < 1e-9, "{got} is not {wanted}");
    }

    #[test]
    fn members_share_first_and_offer_the_rest_to_other_groups() {
        let mut tree = Tree::new(4.0);
        let share = |weight| Share { weight, ..Share::default() };
        let (blue, red) = (tree.group(0, share(1000), false), tree.group(0, share(1000), false));
        let (a, b) = (tree.guest(blue, share(3000), 8.0), tree.guest(blue, share(1000), 8.0));
        let c = tree.guest(red, share(1000), 8.0);
        let got = tree.divide();
        for (who, amount) in [(a, 1.5), (b, 0.5), (c, 2.0), (0, 4.0)] {
            close(got[who], amount);
        }
        // What a does not take is b's before it is c's.
        tree.set_demand(a, 0.5);
        let got = tree.divide();
        for (who, amount) in [(a, 0.5), (b, 1.5), (c, 2.0)] {
            close(got[who], amount);
        }
        tree.set_demand(b, 0.25);
        let got = tree.divide();
        for (who, amount) in [(a, 0.5), (b, 0.25), (c, 3.25), (blue, 0.75)] {
            close(got[who], amount);
        }
    }

    #[test]
    fn a_groups_limit_holds_for_all_of_its_members_together() {
        let mut tree = Tree::new(4.0);
        let pool = tree.group(0, Share { limit: Limit::Hard(1.0), ..Share::default() }, false);
        let guests: Vec<_> = (0..3).map(|_| tree.guest(pool, Share::default(), 2.0)).collect();
        let got = tree.divide();
        guests.iter().for_each(|&guest| close(got[guest], 1.0 / 3.0));
        close(got[0], 1.0);
    }

    #[test]
    fn what_members_are_promised_comes_through_a_group_that_has_no_reserve_of_its_own() {
        let mut tree = Tree::new(1.0);
        let pool = tree.group(0, Share { weight: 1, ..Share::default() }, true);
        let promised = tree.guest(pool, Share { reserve: 0.6, ..Share::default() }, 1.0);
        let other = tree.guest(0, Share { weight: 1_000_000, ..Share::default() }, 1.0);
        let got = tree.divide();
        assert!(got[promised] >= 0.6 && got[other] <= 0.4, "{got:?}");
    }

    #[test]
    fn what_is_wanted_besides_comes_after_what_anybody_wants_and_not_beyond_a_groups_limit() {
        let limited = Share { limit: Limit::Hard(4.0), ..Share::default() };
        let groups = [Group { share: limited, expandable: true, within: None }];
        let mut tree = Tree::with(10.0, &groups);
        let group = Tree::number(Some(0));
        let a = tree.claimant(group, Share::default(), 1.0, 9.0);
        let b = tree.claimant(group, Share::default(), 2.0, 8.0);
        let c = tree.claimant(0, Share::default(), 5.0, 5.0);
        let got = tree.divide();
        for (who, amount) in [(a, 1.5), (b, 2.5), (c, 6.0), (group, 4.0)] {
            close(got[who], amount);
        }
        let others = tree.guest(0, Share::default(), 10.0);
        let got = tree.divide();
        for (who, amount) in [(group, 3.0), (c, 3.5), (others, 3.5)] {
            close(got[who], amount);
        }
    }

    #[test]
    fn a_soft_limit_deep_down_is_passed_only_when_nobody_on_the_host_wants_more() {
        let mut tree = Tree::new(1.0);
        let pool = tree.group(0, Share::default(), false);
        let soft = tree.guest(pool, Share { limit: Limit::Soft(0.1), ..Share::default() }, 1.0);
        let other = tree.guest(0, Share::default(), 1.0);
        let got = tree.divide();
        for (who, amount) in [(soft, 0.1), (other, 0.9)] {
            close(got[who], amount);
        }
        tree.set_demand(other, 0.3);
        close(tree.divide()[soft], 0.7);
    }
}
