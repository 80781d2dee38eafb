//! What follows from what guests are promised of a pool or a network and did there: what each may do in the next window. Pure.
//!
//! Nobody knows what a guest would do if it could: only whether it was kept waiting. Who was wants everything; who was not wants a quarter
//! more than it did. That is divided by the rule ([`share::divide`]), and what is left goes by weight to those who may want more in the next
//! window: all allowances together are what there is.
//!
//! Who wants next to nothing keeps a little besides, and can always use at once what it would have in a window if all were busy. So one that
//! wakes does not wait; in the window after that it has its part.
//!
//! All of that goes through groups of groups ([`share::Tree`]): what the members of a group may do is what the group may.

use share::{Group, Share, Tree, above};

/// How long a window is, seconds.
pub const WINDOW: f64 = 0.25;
/// Who waited for so much of a window was kept from doing what it wanted.
pub const WAITED: f64 = 0.1;
/// How much more than it did one may do that was not kept waiting.
const MORE: f64 = 1.25;
/// For how long one may do at once what it may do each second, at least, seconds: nobody who waits is woken in the same moment.
const LATE: f64 = 0.03;
/// One that wants nothing may do this part of what it would have if all were busy.
const LEAST: f64 = 1.0 / 64.0;
/// A group that may do this part of its limit has all of it: what is lost in sums is not missed.
const FULL: f64 = 0.999;

/// Somebody among those that share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Member {
    /// What it is promised.
    pub share: Share,
    /// The number of the group that it is in; none is the host.
    pub group: Option<usize>,
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
    /// Whether a group that it is in has all that its limit lets it have.
    pub group_is_full: bool,
}

/// What each may do of so much a second. Where nobody has said how much there is, only limits hold; nothing is nobody's limit.
pub fn allowances(capacity: Option<f64>, groups: &[Group], members: &[Member]) -> Vec<Option<Allowance>> {
    if let Some(capacity) = capacity {
        return divided(capacity, groups, members).into_iter().map(Some).collect();
    }
    let in_limits =
        |member: &Member| above(groups, member.group).any(|of| groups[of].share.limit.amount().is_some());
    let inside: Vec<_> = members.iter().copied().filter(in_limits).collect();
    // As much as they could do together.
    let enough = groups.iter().filter_map(|group| group.share.limit.amount()).sum();
    let mut divided = divided(enough, groups, &inside).into_iter();
    let allowed = |member: &Member| match in_limits(member) {
        true => divided.next(),
        false => member.share.limit.amount().map(Allowance::steady),
    };
    members.iter().map(allowed).collect()
}

fn divided(capacity: f64, groups: &[Group], members: &[Member]) -> Vec<Allowance> {
    let (mut busy, mut wanted) = (Tree::with(capacity, groups), Tree::with(capacity, groups));
    // A guest has the same number in both.
    let add = |member: &Member| {
        let (group, (wants, besides)) = (Tree::number(member.group), member.wants(capacity));
        busy.guest(group, member.share, capacity);
        wanted.claimant(group, member.share, wants, besides)
    };
    let numbers: Vec<_> = members.iter().map(add).collect();
    let (busy, targets) = (busy.divide(), wanted.divide());
    let is_full = |group: usize| {
        let has = targets[Tree::number(Some(group))];
        groups[group].share.limit.amount().is_some_and(|limit| has >= limit * FULL)
    };
    let allowed = members.iter().zip(numbers).map(|(member, number)| {
        let (busy, rate) = (busy[number], targets[number].max(busy[number] * LEAST));
        let group_is_full = above(groups, member.group).any(is_full);
        Allowance { rate, burst: (busy * WINDOW).max(rate * LATE), alone: busy, group_is_full }
    });
    allowed.collect()
}

impl Allowance {
    /// So much each second, whoever else wants something.
    fn steady(rate: f64) -> Self {
        Self { rate, burst: rate * WINDOW, alone: rate, group_is_full: false }
    }
}

impl Member {
    /// What it wants, and what besides of what nobody else wants.
    fn wants(&self, capacity: f64) -> (f64, f64) {
        let most = self.share.most(capacity);
        let waited = self.waited >= WAITED && !self.for_other;
        let wants = if waited { most } else { (self.did * MORE).min(most) };
        (wants, most - wants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use share::Limit;

    const BUSY: f64 = 1.0;

    fn member(weight: u32, did: f64, waited: f64) -> Member {
        Member { share: Share { weight, ..Share::default() }, group: None, did, waited, for_other: false }
    }

    fn rates(capacity: f64, members: &[Member]) -> Vec<f64> {
        allowances(Some(capacity), &[], members).into_iter().map(|allowed| allowed.unwrap().rate).collect()
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
            Member { share: Share { reserve, weight: 1000, limit }, ..member(1, did, waited) }
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
        let allowed = allowances(None, &[], &[limited, member(1000, 5.0, BUSY)]);
        assert_eq!(allowed, [Some(Allowance::steady(100.0)), None]);
    }

    fn group(reserve: f64, weight: u32, limit: Limit, within: Option<usize>) -> Group {
        Group { share: Share { reserve, weight, limit }, expandable: true, within }
    }

    #[test]
    fn groups_share_by_their_own_weights_and_what_one_leaves_is_first_for_those_beside_it() {
        let groups = [group(0.0, 3000, Limit::None, None), group(0.0, 1000, Limit::None, Some(0))];
        let inside = |group, did, waited| Member { group, ..member(1000, did, waited) };
        let all = [
            inside(Some(0), 0.0, BUSY),
            inside(Some(1), 0.0, BUSY),
            inside(Some(1), 0.0, BUSY),
            member(1000, 0.0, BUSY),
        ];
        let rates = |members: &[Member]| -> Vec<f64> {
            allowances(Some(800.0), &groups, members)
                .into_iter()
                .map(|allowed| allowed.unwrap().rate)
                .collect()
        };
        close(&rates(&all), &[300.0, 150.0, 150.0, 200.0]);
        let mut sleeps = all;
        sleeps[0] = inside(Some(0), 0.0, 0.0);
        close(&rates(&sleeps), &[300.0 * LEAST, 300.0, 300.0, 200.0]);
        // A reserve of the group comes before all that others want.
        let reserved = [Group { share: Share { reserve: 700.0, ..groups[0].share }, ..groups[0] }, groups[1]];
        let got = allowances(Some(800.0), &reserved, &all);
        assert!(got[..3].iter().map(|allowed| allowed.unwrap().rate).sum::<f64>() >= 700.0);
    }

    #[test]
    fn what_a_group_never_passes_its_members_share_whether_anybody_has_said_what_there_is_or_not() {
        let groups = [group(0.0, 1000, Limit::Hard(100.0), None), group(0.0, 1000, Limit::None, Some(0))];
        let inside = |group, waited| Member { group: Some(group), ..member(1000, 0.0, waited) };
        for capacity in [Some(1e6), None] {
            let all = [inside(0, BUSY), inside(1, BUSY), member(1000, 0.0, BUSY)];
            let got = allowances(capacity, &groups, &all);
            let rates: Vec<_> = got[..2].iter().map(|allowed| allowed.unwrap().rate).collect();
            close(&rates, &[50.0, 50.0]);
            assert!(got[..2].iter().all(|allowed| allowed.unwrap().group_is_full));
            assert_eq!(got[2].map(|allowed| allowed.group_is_full), capacity.map(|_| false), "{capacity:?}");
            // One sleeps: the other one has what it leaves, and both together at once no more than in a window.
            let got = allowances(capacity, &groups, &[inside(0, BUSY), inside(1, 0.0), all[2]]);
            close(&[got[0].unwrap().rate, got[1].unwrap().rate], &[100.0, 50.0 * LEAST]);
            close(&[got[0].unwrap().burst + got[1].unwrap().burst], &[100.0 * WINDOW]);
        }
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
            let allowed = allowances(Some(900.0), &[], &members);
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
            let allowed = allowances(Some(1000.0), &[], &members);
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
