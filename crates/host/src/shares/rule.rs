//! What each guest is to have, and the weight of its control group that follows.
//!
//! The kernel divides among those who are busy by their weights. With weights in proportion to what each is to have, that is the rule while
//! what is wanted stays as it was measured. Somebody who was idle may become busy before it is measured again: the weight of such a one is what
//! gives it, beside all others, what it would have if all were busy. That costs the others nothing while it sleeps.

use share::{Claim, Limit, Share, divide};

/// What a guest may have and wants.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// What it is promised.
    pub share: Share,
    /// The most it could use: its processors.
    pub most: f64,
    /// What it would take if it were alone.
    pub asks: f64,
}

/// What a guest is to have, and the weight for that; only proportions of weights mean anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Due {
    /// Processors.
    pub target: f64,
    /// Above 0.
    pub weight: f64,
}

/// More weight than this, of all that there is, has no use: nearly everything is had with it.
const MOST: f64 = 4.0;
/// What a guest that does nothing is taken to want, so that nobody has no weight.
const LEAST: f64 = 0.001;

/// What each is to have of so many processors.
pub fn due(capacity: f64, wants: &[Want]) -> Vec<Due> {
    let claims = |amount: fn(&Want) -> f64| -> Vec<Claim> {
        wants.iter().map(|want| Claim::new(&want.share, amount(want))).collect()
    };
    let targets = divide(capacity, &claims(|want| want.asks.min(want.most)));
    let busy = divide(capacity, &claims(|want| want.most));
    let each = wants.iter().zip(targets).zip(busy);
    each.map(|((want, target), busy)| {
        let is_satisfied = want.asks.min(want.share.most(want.most)) <= target * 1.02 + LEAST;
        let weight = match is_satisfied && target < busy {
            // With w beside the capacity - target of others, w / (w + capacity - target) of the capacity is what it is to have.
            true => (busy * (capacity - target) / (capacity - busy).max(1e-6)).min(capacity * MOST),
            false => target,
        };
        Due { target, weight: weight.max(LEAST) }
    })
    .collect()
}

/// Weights as a kernel takes them, `least` to `most`, for these proportions.
pub fn weights(due: &[Due], (least, most): (u64, u64)) -> Vec<u64> {
    let largest = due.iter().map(|due| due.weight).fold(LEAST, f64::max);
    let scaled = |due: &Due| (due.weight / largest * most as f64).round() as u64;
    due.iter().map(|due| scaled(due).clamp(least, most)).collect()
}

/// The quota and its period, µs, of somebody who never passes so many processors: the kernel takes no quota below 1 ms and no period above
/// 1 s (kernel/sched/core.c, tg_set_cfs_bandwidth).
pub fn quota(limit: f64) -> (u64, u64) {
    let period = (1_000.0 / limit).clamp(10_000.0, 1_000_000.0).round();
    ((period * limit).round().max(1_000.0) as u64, period as u64)
}

/// The limit that somebody never passes.
pub fn hard(share: &Share) -> Option<f64> {
    match share.limit {
        Limit::Hard(limit) => Some(limit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(reserve: f64, weight: u32, limit: Limit, asks: f64) -> Want {
        Want { share: Share { reserve, weight, limit }, most: 1.0, asks }
    }

    /// What the kernel gives to those who are busy by their weights, none above a hard limit.
    fn delivered(capacity: f64, wants: &[Want], busy: impl Fn(usize) -> bool, range: (u64, u64)) -> Vec<f64> {
        let weights = weights(&due(capacity, wants), range);
        let claims = wants.iter().zip(&weights).enumerate().map(|(n, (want, weight))| {
            let amount = if busy(n) { hard(&want.share).unwrap_or(want.most) } else { want.asks };
            Claim::new(&Share { weight: *weight as u32, ..Share::default() }, amount)
        });
        divide(capacity, &claims.collect::<Vec<_>>())
    }

    fn close(got: &[f64], wanted: &[f64], part: f64) {
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((got - wanted).abs() <= part * wanted, "{got} is not {wanted}");
        }
    }

    #[test]
    fn while_all_are_busy_the_kernels_fair_division_is_the_rule() {
        let golden: [(&[Want], &[f64]); 4] = [
            (
                &[
                    want(0.15, 150, Limit::None, 1.0),
                    want(0.10, 50, Limit::None, 1.0),
                    want(0.15, 100, Limit::None, 1.0),
                ],
                &[0.45, 0.20, 0.35],
            ),
            (&[want(0.125, 200, Limit::None, 1.0), want(0.125, 100, Limit::None, 1.0)], &[0.625, 0.375]),
            (
                &[
                    want(0.0, 4000, Limit::None, 1.0),
                    want(0.0, 2000, Limit::None, 1.0),
                    want(0.0, 1000, Limit::None, 1.0),
                ],
                &[4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0],
            ),
            (
                &[
                    want(0.3, 1000, Limit::Hard(0.3), 1.0),
                    want(0.0, 100, Limit::None, 1.0),
                    want(0.0, 200, Limit::None, 1.0),
                    want(0.0, 300, Limit::None, 1.0),
                ],
                &[0.3, 0.7 / 6.0, 1.4 / 6.0, 0.35],
            ),
        ];
        for (wants, wanted) in golden {
            // Weights of version 1 and 2.
            for range in [(2, 65_536), (1, 10_000)] {
                close(&delivered(1.0, wants, |_| true, range), wanted, 0.002);
            }
        }
        let many = [want(0.05, 1000, Limit::Hard(0.05), 1.0); 20];
        close(&delivered(1.0, &many, |_| true, (1, 10_000)), &[0.05; 20], 0.001);
    }

    #[test]
    fn somebody_idle_who_wakes_has_their_reserve_before_anybody_looks_again() {
        let wants = [
            want(0.5, 1000, Limit::None, 0.01),
            want(0.0, 1000, Limit::None, 1.0),
            want(0.0, 1000, Limit::None, 1.0),
        ];
        let got = delivered(1.0, &wants, |_| true, (1, 10_000));
        assert!(got[0] >= 0.5, "{got:?}");
        // While it sleeps, the others have what it leaves.
        close(&delivered(1.0, &wants, |n| n > 0, (1, 10_000)), &[0.01, 0.495, 0.495], 0.01);
    }

    #[test]
    fn a_soft_limit_gives_way_only_while_nobody_else_wants_more() {
        let soft = |others: f64| {
            due(1.0, &[want(0.0, 1000, Limit::Soft(0.2), 1.0), want(0.0, 1000, Limit::None, others)])
        };
        assert!((soft(1.0)[0].target - 0.2).abs() < 1e-9 && (soft(1.0)[0].weight - 0.2).abs() < 1e-9);
        assert!((soft(0.3)[0].target - 0.7).abs() < 1e-9);
    }

    #[test]
    fn a_quota_is_never_below_a_millisecond_and_its_period_is_ten_where_it_can_be() {
        for (limit, wanted) in [
            (0.05, (1_000, 20_000)),
            (0.1, (1_000, 10_000)),
            (0.5, (5_000, 10_000)),
            (0.01, (1_000, 100_000)),
            (2.0, (20_000, 10_000)),
        ] {
            assert_eq!(quota(limit), wanted, "{limit}");
        }
    }

    #[test]
    fn weights_stay_what_the_kernel_takes() {
        let due = [1000.0, 1.0, 1e-9].map(|weight| Due { target: 0.0, weight });
        assert_eq!(weights(&due, (1, 10_000)), [10_000, 10, 1]);
        assert_eq!(weights(&[], (1, 10_000)), [0u64; 0]);
    }
}
