//! What each guest is to have, and the weight of its control group that follows.
//!
//! The kernel divides among those who are busy by their weights. With weights in proportion to what each is to have, that is the rule while
//! what is wanted stays as it was measured. Somebody who was idle may become busy before it is measured again: the weight of such a one is what
//! gives it, beside all others, what it would have if all were busy. That costs the others nothing while it sleeps.
//!
//! Guests in groups have weights like all others, in proportion to what the whole tree gives them. What a group never passes becomes a limit
//! of each of its members: what it is to have, what it would have if all were busy if that is more, and what the group leaves.

use std::time::Duration;

use share::{Group, Limit, Share, Tree, above};
use vmm::figures::LIMIT_WINDOW;

/// What a guest may have and wants.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// What it is promised.
    pub share: Share,
    /// The most it could use: its processors.
    pub most: f64,
    /// What it would take if it were alone.
    pub asks: f64,
    /// The number of the group that it is in.
    pub group: Option<usize>,
}

/// What a guest is to have, and the weight for that; only proportions of weights mean anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Due {
    /// Processors.
    pub target: f64,
    /// What it would have if all were busy.
    pub busy: f64,
    /// Above 0.
    pub weight: f64,
    /// What it never passes.
    pub limit: Option<f64>,
    /// Whether a group that it is in has all that it may have.
    pub group_is_full: bool,
}

/// More weight than this, of all that there is, has no use: nearly everything is had with it.
const MOST: f64 = 4.0;
/// What a guest that does nothing is taken to want, so that nobody has no weight.
const LEAST: f64 = 0.001;
/// The smallest limit that the kernel takes ([`quota`]), processors. Guests have no smaller one than ten times that, but a group with hundreds of busy members leaves each of them less.
const LEAST_LIMIT: f64 = 0.001;
/// What a group may leave that has all that it may have.
const FULL: f64 = 0.01;

/// What everybody gets.
struct Division {
    groups: Vec<f64>,
    guests: Vec<f64>,
}

fn divide(capacity: f64, groups: &[Group], wants: &[Want], amount: impl Fn(&Want) -> f64) -> Division {
    let mut tree = Tree::with(capacity, groups);
    let guest = |want: &Want| tree.guest(Tree::number(want.group), want.share, amount(want));
    let guests: Vec<_> = wants.iter().map(guest).collect();
    let got = tree.divide();
    let groups = (0..groups.len()).map(|group| got[Tree::number(Some(group))]).collect();
    Division { groups, guests: guests.into_iter().map(|number| got[number]).collect() }
}

/// What each is to have of so many processors.
pub fn due(capacity: f64, groups: &[Group], wants: &[Want]) -> Vec<Due> {
    let targets = divide(capacity, groups, wants, |want| want.asks.min(want.most));
    let busy = divide(capacity, groups, wants, |want| want.most);
    // What the groups above somebody leave of what they may have, if one of them is limited.
    let left = |want: &Want| {
        let limited = above(groups, want.group)
            .filter_map(|group| Some((hard(&groups[group].share)? - targets.groups[group]).max(0.0)));
        limited.reduce(f64::min)
    };
    let each = wants.iter().zip(&targets.guests).zip(&busy.guests);
    each.map(|((want, &target), &busy)| {
        let weight = match is_satisfied(want, target) && target < busy {
            // With w beside the capacity - target of others, w / (w + capacity - target) of the capacity is what it is to have.
            true => (busy * (capacity - target) / (capacity - busy).max(1e-6)).min(capacity * MOST),
            false => target,
        };
        let left = left(want);
        let in_group = left.map(|left| (target.max(busy) + left).max(LEAST_LIMIT));
        let limit = match (hard(&want.share), in_group) {
            (Some(own), Some(groups)) => Some(own.min(groups)),
            (own, groups) => own.or(groups),
        };
        let group_is_full = left.is_some_and(|left| left < FULL);
        Due { target, busy, weight: weight.max(LEAST), limit, group_is_full }
    })
    .collect()
}

/// Weights as a kernel takes them, `least` to `most`, for these proportions.
pub fn weights(due: &[Due], (least, most): (u64, u64)) -> Vec<u64> {
    let largest = due.iter().map(|due| due.weight).fold(LEAST, f64::max);
    let scaled = |due: &Due| (due.weight / largest * most as f64).round() as u64;
    due.iter().map(|due| scaled(due).clamp(least, most)).collect()
}

/// A weight times that, as a kernel takes it.
pub fn trimmed(weight: u64, times: f64, (least, most): (u64, u64)) -> u64 {
    ((weight as f64 * times).round() as u64).clamp(least, most)
}

/// Whether somebody wants more than it is to have, and only its weight keeps it from that.
pub fn is_hungry(want: &Want, due: &Due) -> bool {
    has_room(due) && !is_satisfied(want, due.target)
}

/// Whether somebody always wants to run on all of its processors, and is to have that. Who wants less and waits a little has what it wants all the same; but of this one each wait is
/// something that it was due.
pub fn is_full(want: &Want, due: &Due) -> bool {
    let all = want.most * 0.98;
    has_room(due) && want.asks >= all && due.target >= all
}

/// Whether no limit keeps somebody from what it is to have, and a little more.
fn has_room(due: &Due) -> bool {
    due.limit.is_none_or(|limit| due.target < limit * 0.95)
}

/// Whether so much is all that somebody wants, or may ever have.
fn is_satisfied(want: &Want, target: f64) -> bool {
    want.asks.min(want.share.most(want.most)) <= target * 1.02 + LEAST
}

/// Whether a limit kept somebody from more in a window, who got so much and was throttled for so many ns of it. Of a small limit a window has so few slices that what was
/// got in one says little.
pub fn is_stopped(limit: f64, got: f64, throttled: u64) -> bool {
    throttled > 0 || got > limit * 0.9
}

/// The quota and its period, µs, of somebody who never passes so many processors: the kernel takes no quota below 1 ms and no period above
/// 1 s (kernel/sched/core.c, tg_set_cfs_bandwidth).
pub fn quota(limit: f64) -> (u64, u64) {
    quota_in(limit, 10_000.0)
}

/// The same of somebody who keeps to his limit himself in shorter times, and whom the kernel is not to stop in the midst of them: what he may have saved and what he passes it by for a moment is little in so long a time.
pub fn loose_quota(limit: f64) -> (u64, u64) {
    quota_in(limit, LOOSE_PERIOD)
}

/// The same, whose period is at least so long, µs.
fn quota_in(limit: f64, shortest: f64) -> (u64, u64) {
    let period = (1_000.0 / limit).clamp(shortest, 1_000_000.0).round();
    ((period * limit).round().max(1_000.0) as u64, period as u64)
}

/// Who has less than this keeps to it himself, if he can: of more the kernel's shortest quota is for no more than 10 ms.
pub fn keeps_himself(limit: f64) -> bool {
    limit < 0.1
}

/// How long one who keeps to a limit himself runs until others have their turn: what he has in 10 ms, however much he has saved.
pub fn turn(limit: f64) -> Duration {
    share_of_window(limit).max(SHORTEST_LOOK)
}

/// How long one who has a limit runs until it is looked whether he has reached it: a part of what he has in 10 ms.
pub fn look(limit: f64) -> Duration {
    (share_of_window(limit) / 4).max(SHORTEST_LOOK)
}

fn share_of_window(limit: f64) -> Duration {
    Duration::from_nanos((LIMIT_WINDOW.as_nanos() as f64 * limit) as u64)
}

const SHORTEST_LOOK: Duration = Duration::from_micros(100);

/// A time that is long for somebody who keeps to his limit himself, µs.
const LOOSE_PERIOD: f64 = 100_000.0;

/// The limit that somebody never passes.
pub fn hard(share: &Share) -> Option<f64> {
    match share.limit {
        Limit::Hard(limit) => Some(limit),
        _ => None,
    }
}

/// Has those of these weights who hurry not wait for many others: each has as much as there is on one of so many processors, and so half of it, but no
/// more than `most`.
pub fn hurry(weights: &mut [u64], hurries: impl Iterator<Item = bool>, processors: f64, most: u64) {
    let on_one = (weights.iter().sum::<u64>() as f64 / processors) as u64;
    for (weight, hurries) in weights.iter_mut().zip(hurries) {
        if hurries {
            *weight = (*weight).max(on_one.min(most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use share::Claim;

    fn want(reserve: f64, weight: u32, limit: Limit, asks: f64) -> Want {
        Want { share: Share { reserve, weight, limit }, most: 1.0, asks, group: None }
    }

    /// What the kernel gives to those who are busy by their weights, none above a hard limit.
    fn delivered(capacity: f64, wants: &[Want], busy: impl Fn(usize) -> bool, range: (u64, u64)) -> Vec<f64> {
        delivered_in(capacity, &[], wants, busy, range)
    }

    fn delivered_in(
        capacity: f64,
        groups: &[Group],
        wants: &[Want],
        busy: impl Fn(usize) -> bool,
        range: (u64, u64),
    ) -> Vec<f64> {
        let due = due(capacity, groups, wants);
        let weights = weights(&due, range);
        let claims =
            wants.iter().zip(due.iter().zip(&weights)).enumerate().map(|(n, (want, (due, weight)))| {
                let amount = if busy(n) { due.limit.unwrap_or(want.most).min(want.most) } else { want.asks };
                Claim::new(&Share { weight: *weight as u32, ..Share::default() }, amount)
            });
        share::divide(capacity, &claims.collect::<Vec<_>>())
    }

    #[test]
    fn who_hurries_has_half_of_a_processor_beside_however_many() {
        for (guests, processors) in [(2, 2.0), (3, 2.0), (100, 2.0), (100, 16.0)] {
            let mut weights = vec![1024; guests];
            hurry(&mut weights, (0..guests).map(|guest| guest == 1), processors, 65_536);
            let others = (guests - 1) as f64 * 1024.0 / processors;
            let got = weights[1] as f64 / (weights[1] as f64 + others);
            assert!(weights[1] >= 1024 && (0.5..0.67).contains(&got), "{guests} on {processors}: {got}");
            assert!(weights.iter().enumerate().all(|(guest, weight)| guest == 1 || *weight == 1024));
        }
        let mut weights = vec![1024; 1000];
        hurry(&mut weights, std::iter::repeat(true), 2.0, 65_536);
        assert_eq!(weights, vec![65_536; 1000]);
    }

    #[test]
    fn a_group_with_very_many_busy_members_has_no_more_than_its_limit() {
        for (limit, members) in [(0.05, 20), (0.2, 40), (1.0, 200)] {
            let groups = [group(0.0, 1000, Limit::Hard(limit), None)];
            let wants = vec![Want { group: Some(0), ..want(0.0, 1000, Limit::None, 1.0) }; members];
            let quotas = due(16.0, &groups, &wants).into_iter().map(|due| quota(due.limit.unwrap()));
            let all: f64 = quotas.map(|(quota, period)| quota as f64 / period as f64).sum();
            assert!((limit * 0.98..limit * 1.02).contains(&all), "{members} in {limit}: {all}");
        }
    }

    fn group(reserve: f64, weight: u32, limit: Limit, within: Option<usize>) -> Group {
        Group { share: Share { reserve, weight, limit }, expandable: true, within }
    }

    #[test]
    fn groups_have_what_they_are_to_have_whatever_is_in_them() {
        let groups = [group(0.0, 3000, Limit::None, None), group(0.0, 1000, Limit::None, None)];
        let busy = |group| Want { group: Some(group), ..want(0.0, 1000, Limit::None, 1.0) };
        let wants = [busy(0), busy(1), busy(1), busy(1)];
        let got = delivered_in(1.0, &groups, &wants, |_| true, (1, 10_000));
        close(&got, &[0.75, 1.0 / 12.0, 1.0 / 12.0, 1.0 / 12.0], 0.002);
    }

    #[test]
    fn what_a_group_never_passes_its_members_do_not_either_and_one_has_what_the_others_leave() {
        let limited = [group(0.0, 1000, Limit::Hard(0.5), None), group(0.0, 1000, Limit::None, Some(0))];
        let inside = |group, asks| Want { group: Some(group), ..want(0.0, 1000, Limit::None, asks) };
        let wants = [inside(0, 1.0), inside(1, 1.0), want(0.0, 1, Limit::None, 0.0)];
        let all = due(1.0, &limited, &wants);
        close(&[all[0].limit.unwrap(), all[1].limit.unwrap()], &[0.25, 0.25], 1e-9);
        assert!(all[0].group_is_full && all[2].limit.is_none() && !all[2].group_is_full);
        // One sleeps: the other has all that the group may have, and both together little more when it wakes, until somebody looks.
        let all = due(1.0, &limited, &[inside(0, 1.0), inside(1, 0.0), want(0.0, 1, Limit::None, 0.0)]);
        close(&[all[0].limit.unwrap(), all[1].limit.unwrap()], &[0.5, 0.25], 1e-9);
        // What it does not want is left for who wants more the next moment.
        let all = due(1.0, &limited, &[inside(0, 0.1), inside(1, 0.1), want(0.0, 1, Limit::None, 0.0)]);
        close(&[all[0].limit.unwrap()], &[0.25 + 0.3], 1e-9);
        assert!(!all[0].group_is_full);
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
            due(1.0, &[], &[want(0.0, 1000, Limit::Soft(0.2), 1.0), want(0.0, 1000, Limit::None, others)])
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
    fn who_was_throttled_wanted_more_however_little_it_got_in_a_window() {
        // Of 0.03 processors a window of 250 ms is not two slices of 4 ms.
        assert!(is_stopped(0.03, 0.016, 200_000_000) && is_stopped(0.5, 0.48, 0));
        assert!(!is_stopped(0.5, 0.4, 0));
    }

    #[test]
    fn weights_are_trimmed_within_what_the_kernel_takes() {
        assert_eq!([trimmed(1024, 1.0, (2, 65_536)), trimmed(1024, 1.1, (2, 65_536))], [1024, 1126]);
        assert_eq!([trimmed(60_000, 1.5, (2, 65_536)), trimmed(2, 0.7, (2, 65_536))], [65_536, 2]);
    }

    #[test]
    fn who_has_all_it_wants_or_may_have_is_not_hungry() {
        let all = |wants: [Want; 2]| {
            due(1.0, &[], &wants)
                .iter()
                .zip(&wants)
                .map(|(due, want)| is_hungry(want, due))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            all([want(0.0, 1000, Limit::None, 1.0), want(0.0, 1000, Limit::None, 0.2)]),
            [true, false]
        );
        assert_eq!(
            all([want(0.0, 1000, Limit::None, 1.0), want(0.0, 1000, Limit::Hard(0.2), 1.0)]),
            [true, false]
        );
    }

    #[test]
    fn weights_stay_what_the_kernel_takes() {
        let due = [1000.0, 1.0, 1e-9].map(|weight| Due {
            target: 0.0,
            busy: 0.0,
            weight,
            limit: None,
            group_is_full: false,
        });
        assert_eq!(weights(&due, (1, 10_000)), [10_000, 10, 1]);
        assert_eq!(weights(&[], (1, 10_000)), [0u64; 0]);
    }
}
