//! One resource through groups of groups.
//!
//! A group's members share what the group gets. What they do not want is there for other groups: a group wants no more than its members do.

use crate::{Amount, Claim, Share, divide};

/// Where everything is: the host, of which groups and guests are members.
const HOST: usize = 0;

#[derive(Debug, Clone)]
struct Node {
    share: Share,
    /// Whether what its members are promised may come from above it.
    expandable: bool,
    members: Vec<usize>,
    /// What a guest would take; of a group, nothing.
    demand: Amount,
}

/// A host's groups and guests, and what the guests want of a resource. Each has a number; the host has 0.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// A host that has so much of the resource, and no guests.
    pub fn new(capacity: Amount) -> Self {
        let host =
            Node { share: Share::capped(capacity), expandable: false, members: Vec::new(), demand: 0.0 };
        Self { nodes: vec![host] }
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
        self.add(parent, Node { share, expandable, members: Vec::new(), demand: 0.0 })
    }

    /// Adds a guest that would take so much; gives its number.
    ///
    /// # Panics
    /// If there is no such parent.
    pub fn guest(&mut self, parent: usize, share: Share, demand: Amount) -> usize {
        self.add(parent, Node { share, expandable: false, members: Vec::new(), demand })
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
            let mut claim = Claim::of(&node.share, wants, theirs().map(|claim| claim.besides).sum());
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
