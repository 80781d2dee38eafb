//! What follows from what guests are promised of a pool or a network and did there: what each may do in the next window. Pure.
//!
//! Nobody knows what a guest would do if it could: only whether it was kept waiting. Who was wants everything; who was not wants a quarter
//! more than it did. That is divided by the rule ([`share::divide`]), and what is left goes by weight to those who may want more in the next
//! window: all allowances together are what there is.
//!
//! Who wants next to nothing keeps a little besides, and can always use at once what it would have in a window if all were busy. So one that
//! wakes does not wait; in the window after that it has its part.

use share::{Claim, Limit, Share, divide};

/// How long a window is, seconds.
pub const WINDOW: f64 = 0.25;
/// Who waited for so much of a window was kept from doing what it wanted.
const WAITED: f64 = 0.1;
/// How much more than it did one may do that was not kept waiting.
const MORE: f64 = 1.25;
/// For how long one may do at once what it may do each second, at least, seconds: nobody who waits is woken in the same moment.
const LATE: f64 = 0.03;
/// One that wants nothing may do this part of what it would have if all were busy.
const LEAST: f64 = 1.0 / 64.0;

/// Somebody among those that share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Member {
    /// What it is promised.
    pub share: Share,
    /// What it did each second: the most of the last windows.
    pub did: f64,
    /// The part of the last window in which something of it waited for its allowance.
    pub waited: f64,
    /// Whether that was for the other one of bytes and operations.
    pub for_other: bool,
}

/// What somebody may do, each second and at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Each second.
    pub rate: f64,
    /// At once after a silence.
    pub burst: f64,
    /// Each second if nobody says anything any more: what it would have if all were busy.
    pub alone: f64,
}

/// What each may do of so much a second. Where nobody has said how much there is, only limits hold; nothing is nobody's limit.
pub fn allowances(capacity: Option<f64>, members: &[Member]) -> Vec<Option<Allowance>> {
    let Some(capacity) = capacity else {
        return members.iter().map(|member| limit(&member.share).map(Allowance::steady)).collect();
    };
    let busy: Vec<_> = members.iter().map(|member| Claim::new(&member.share, capacity)).collect();
    let busy = divide(capacity, &busy);
    let claims: Vec<_> = members.iter().map(|member| member.claim(capacity)).collect();
    let targets = divide(capacity, &claims);
    let allowed = busy.iter().zip(targets).map(|(&busy, target)| {
        let rate = target.max(busy * LEAST);
        Some(Allowance { rate, burst: (busy * WINDOW).max(rate * LATE), alone: busy })
    });
    allowed.collect()
}

/// What one never passes.
fn limit(share: &Share) -> Option<f64> {
    match share.limit {
        Limit::None => None,
        Limit::Hard(limit) | Limit::Soft(limit) => Some(limit),
    }
}

impl Allowance {
    /// So much each second, whoever else wants something.
    fn steady(rate: f64) -> Self {
        Self { rate, burst: rate * WINDOW, alone: rate }
    }
}

impl Member {
    fn claim(&self, capacity: f64) -> Claim {
        let most = self.share.most(capacity);
        let waited = self.waited >= WAITED && !self.for_other;
        let wants = if waited { most } else { (self.did * MORE).min(most) };
        let besides = most - wants;
        Claim { reserve: self.share.reserve, weight: self.share.weight, wants, besides }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: f64 = 1.0;

    fn member(weight: u32, did: f64, waited: f64) -> Member {
        Member { share: Share { weight, ..Share::default() }, did, waited, for_other: false }
    }

    fn rates(capacity: f64, members: &[Member]) -> Vec<f64> {
        allowances(Some(capacity), members).into_iter().map(|allowed| allowed.unwrap().rate).collect()
    }

    fn close(got: &[f64], wanted: &[f64]) {
        assert_eq!(got.len(), wanted.len());
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((got - wanted).abs() <= wanted * 0.02 + 1e-6, "{got} is not {wanted}");
        }
    }

    #[test]
    fn those_that_are_kept_waiting_share_by_weight() {
        close(&rates(900.0, &[member(2000, 100.0, BUSY), member(1000, 500.0, BUSY)]), &[600.0, 300.0]);
        close(&rates(900.0, &[member(1000, 0.0, BUSY); 9]), &[100.0; 9]);
    }

    #[test]
    fn who_wants_little_has_a_little_more_and_the_others_have_all_the_rest() {
        let members = [member(1000, 80.0, 0.0), member(2000, 0.0, BUSY), member(1000, 0.0, BUSY)];
        close(&rates(1000.0, &members), &[100.0, 600.0, 300.0]);
        let members = [member(1000, 0.0, 0.0), member(1000, 900.0, BUSY)];
        close(&rates(1000.0, &members), &[1000.0 * LEAST / 2.0, 1000.0]);
    }

    #[test]
    fn who_waits_for_operations_has_no_more_bytes_for_that() {
        let small = Member { for_other: true, ..member(1000, 40.0, BUSY) };
        close(&rates(500.0, &[small, member(1000, 250.0, BUSY)]), &[50.0, 450.0]);
    }

    #[test]
    fn what_nobody_was_kept_from_is_for_whoever_wants_it_next() {
        let members = [member(2000, 40.0, 0.0), member(1000, 0.0, 0.0)];
        let rates = rates(1000.0, &members);
        close(&[rates.iter().sum()], &[1000.0]);
        close(&rates, &[50.0 + 950.0 * 2.0 / 3.0, 950.0 / 3.0]);
        close(&self::rates(1000.0, &[member(1, 0.0, 0.0)]), &[1000.0]);
    }

    #[test]
    fn reserves_come_first_and_limits_are_never_passed() {
        let with = |reserve, limit, did, waited| {
            let limit = if limit > 0.0 { Limit::Hard(limit) } else { Limit::None };
            Member { share: Share { reserve, weight: 1000, limit }, did, waited, for_other: false }
        };
        let members = [with(700.0, 0.0, 0.0, BUSY), with(0.0, 0.0, 0.0, BUSY), with(0.0, 0.0, 0.0, BUSY)];
        close(&rates(1000.0, &members), &[800.0, 100.0, 100.0]);
        // One that does not use its reserve lends it.
        let members = [with(700.0, 0.0, 80.0, 0.0), with(0.0, 0.0, 0.0, BUSY)];
        close(&rates(1000.0, &members), &[100.0, 900.0]);
        for waited in [0.0, BUSY] {
            let members = [with(0.0, 200.0, 150.0, waited), with(0.0, 0.0, 0.0, BUSY)];
            assert!(rates(1000.0, &members)[0] <= 200.0);
        }
        close(&rates(1000.0, &[with(0.0, 200.0, 0.0, BUSY), with(0.0, 0.0, 0.0, BUSY)]), &[200.0, 800.0]);
        close(&rates(1000.0, &[with(0.0, 200.0, 0.0, BUSY), with(0.0, 0.0, 0.0, 0.0)]), &[200.0, 800.0]);
    }

    #[test]
    fn where_nobody_has_said_what_there_is_only_limits_hold() {
        let limited =
            Member { share: Share { limit: Limit::Hard(100.0), ..Share::default() }, ..member(1, 0.0, 0.0) };
        let allowed = allowances(None, &[limited, member(1000, 5.0, BUSY)]);
        assert_eq!(allowed, [Some(Allowance { rate: 100.0, burst: 25.0, alone: 100.0 }), None]);
    }

    /// A guest that wants more than it may passes what its burst is, and then its rate.
    fn play(
        wants: &[f64],
        members: &mut [Member],
        level: &mut [f64],
        allowed: &[Option<Allowance>],
    ) -> Vec<f64> {
        let mut did = Vec::new();
        for (n, (member, wants)) in members.iter_mut().zip(wants).enumerate() {
            let allowed = allowed[n].unwrap();
            let room = level[n] + allowed.rate * WINDOW;
            let bytes = (wants * WINDOW).min(room);
            level[n] = (room - bytes).min(allowed.burst);
            (member.did, member.waited) = (bytes / WINDOW, if wants * WINDOW > room { BUSY } else { 0.0 });
            did.push(bytes / WINDOW);
        }
        did
    }

    #[test]
    fn one_that_wakes_has_its_part_in_two_windows_and_one_that_stops_leaves_it_in_two() {
        let mut members = [member(2000, 0.0, 0.0), member(1000, 0.0, 0.0)];
        let mut level = [0.0; 2];
        let mut all = Vec::new();
        for turn in 0..60 {
            let allowed = allowances(Some(900.0), &members);
            // The first one works from the tenth window to the thirtieth, the other one always.
            let first = if (10..30).contains(&turn) { 1e9 } else { 0.0 };
            all.push(play(&[first, 1e9], &mut members, &mut level, &allowed));
        }
        close(&all[8], &[0.0, 900.0]);
        for did in &all[12..30] {
            close(did, &[600.0, 300.0]);
        }
        for did in &all[32..] {
            close(did, &[0.0, 900.0]);
        }
        // In the very first window it uses what it may at once, if it has been silent for long enough.
        assert!(all[10][0] > 60.0, "{:?}", all[10]);
    }

    #[test]
    fn demands_that_change_all_the_time_never_have_more_than_there_is_for_long() {
        let mut members = [member(1000, 0.0, 0.0), member(500, 0.0, 0.0), member(4000, 0.0, 0.0)];
        let (mut level, mut sum, mut seed) = ([0.0; 3], 0.0, 1u64);
        for _ in 0..4000 {
            let allowed = allowances(Some(1000.0), &members);
            let wants: Vec<_> = (0..3)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 33) as f64 / f64::from(u32::MAX) * 2000.0
                })
                .collect();
            sum += play(&wants, &mut members, &mut level, &allowed).iter().sum::<f64>() * WINDOW;
        }
        let second = sum / (4000.0 * WINDOW);
        assert!((900.0..=1000.0 * (1.0 + LEAST)).contains(&second), "{second} a second");
    }
}
