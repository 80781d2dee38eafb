//! One resource among some, in one window of time.
//!
//! Everyone gets what they want of their reserve. What is left goes to those who want more, by weight, none above their limit; what one of
//! them does not take is shared again among the others, until nothing is left or nobody wants more. Last come those who want more than
//! their soft limit.

use crate::{Amount, Limit, Share};

/// What somebody wants in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// Always theirs when they want it.
    pub reserve: Amount,
    /// Their part of what is left.
    pub weight: u32,
    /// What they want up to their limit.
    pub wants: Amount,
    /// What they want besides, of what nobody else wants.
    pub besides: Amount,
}

impl Claim {
    /// That of somebody with a share who would take so much if they could.
    pub fn new(share: &Share, demand: Amount) -> Self {
        Self::of(share, demand, 0.0)
    }

    /// The same for a group whose members want so much, and so much besides.
    pub(crate) fn of(share: &Share, wants: Amount, besides: Amount) -> Self {
        let (wants, besides) = match share.limit {
            Limit::None => (wants, besides),
            Limit::Hard(limit) => (wants.min(limit), besides.min((limit - wants).max(0.0))),
            Limit::Soft(limit) => (wants.min(limit), besides + (wants - limit).max(0.0)),
        };
        Self { reserve: share.reserve, weight: share.weight, wants, besides }
    }
}

/// What each of some gets of `capacity`.
pub fn divide(capacity: Amount, claims: &[Claim]) -> Vec<Amount> {
    let mut got: Vec<Amount> = claims.iter().map(|claim| claim.wants.min(claim.reserve)).collect();
    let promised: Amount = got.iter().sum();
    if promised > capacity {
        // Nobody admits that; where it is so all the same, each loses the same part.
        got.iter_mut().for_each(|amount| *amount *= capacity / promised);
        return got;
    }
    let mut left = capacity - promised;
    for most in [|claim: &Claim| claim.wants, |claim: &Claim| claim.wants + claim.besides] {
        let room = |(claim, got): (&Claim, &Amount)| (most(claim) - got, claim.weight);
        let rooms: Vec<_> = claims.iter().zip(&got).map(room).collect();
        left = fill(left, &rooms, &mut got);
    }
    got
}

/// Adds an amount to `got` by weight, to each no more than there is room; gives what is left.
fn fill(mut amount: Amount, rooms: &[(Amount, u32)], got: &mut [Amount]) -> Amount {
    let mut open: Vec<usize> = (0..rooms.len()).filter(|&n| rooms[n].0 > 0.0).collect();
    // Whoever is full first for their weight comes first: then one pass is enough.
    let level = |n: usize| rooms[n].0 / f64::from(rooms[n].1);
    open.sort_by(|&a, &b| level(a).total_cmp(&level(b)));
    let mut weight: u64 = open.iter().map(|&n| u64::from(rooms[n].1)).sum();
    for n in open {
        let (room, own) = rooms[n];
        let part = amount * (f64::from(own) / weight as f64);
        let taken = part.min(room);
        got[n] += taken;
        amount = (amount - taken).max(0.0);
        weight -= u64::from(own);
    }
    amount
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All busy, on so many processors.
    fn busy(capacity: Amount, shares: &[Share]) -> Vec<Amount> {
        divide(capacity, &shares.iter().map(|share| Claim::new(share, 1000.0)).collect::<Vec<_>>())
    }

    fn close(got: &[Amount], wanted: &[Amount]) {
        assert_eq!(got.len(), wanted.len());
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((got - wanted).abs() < 5e-4, "{got} is not {wanted}");
        }
    }

    fn reserved(reserve: Amount, weight: u32) -> Share {
        Share { reserve, weight, limit: Limit::None }
    }

    #[test]
    fn powervm_three_uncapped_partitions_of_one_processor() {
        let got = busy(1.0, &[reserved(0.15, 150), reserved(0.10, 50), reserved(0.15, 100)]);
        close(&got, &[0.45, 0.20, 0.35]);
    }

    #[test]
    fn powervm_surplus_is_split_by_weight() {
        let got = busy(1.75, &[reserved(0.5, 200), reserved(0.5, 100)]);
        close(&got, &[0.5 + 0.5, 0.5 + 0.25]);
    }

    #[test]
    fn ten_and_twenty_partitions_to_a_processor() {
        close(&busy(1.0, &[Share::capped(0.10); 10]), &[0.10; 10]);
        close(&busy(1.0, &[Share::capped(0.05); 20]), &[0.05; 20]);
        close(&busy(2.0, &[reserved(0.05, 1000); 20]), &[0.10; 20]);
    }

    #[test]
    fn vsphere_shares_of_one_processor() {
        let got = busy(1.0, &[reserved(0.0, 4000), reserved(0.0, 2000), reserved(0.0, 1000)]);
        close(&got, &[0.571, 0.286, 0.143]);
    }

    #[test]
    fn zvm_absolute_and_relative_shares() {
        let got =
            busy(1.0, &[Share::capped(0.30), reserved(0.0, 100), reserved(0.0, 200), reserved(0.0, 300)]);
        close(&got, &[0.30, 0.117, 0.233, 0.35]);
    }

    #[test]
    fn what_one_does_not_take_is_shared_again() {
        let share = Share::default();
        let claims = [0.1, 5.0, 5.0, 5.0].map(|demand| Claim::new(&share, demand));
        close(&divide(1.0, &claims), &[0.1, 0.3, 0.3, 0.3]);
        let capped = Share { limit: Limit::Hard(0.2), ..share };
        let claims = [Claim::new(&capped, 5.0), Claim::new(&share, 5.0), Claim::new(&share, 0.3)];
        close(&divide(1.0, &claims), &[0.2, 0.5, 0.3]);
    }

    #[test]
    fn a_soft_limit_is_passed_only_when_nobody_else_wants_more() {
        let soft = Share { limit: Limit::Soft(0.2), ..Share::default() };
        let all =
            |others: Amount| divide(1.0, &[Claim::new(&soft, 5.0), Claim::new(&Share::default(), others)]);
        close(&all(5.0), &[0.2, 0.8]);
        close(&all(0.5), &[0.5, 0.5]);
    }
}
