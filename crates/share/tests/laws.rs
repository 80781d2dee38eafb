//! What holds for whatever shares and demands there are.

use proptest::prelude::*;
use share::admission::{Member, Promises};
use share::{Amount, Claim, Limit, Share, Tree, divide};

const SMALL: Amount = 1e-6;

fn limit(reserve: Amount) -> impl Strategy<Value = Limit> {
    let above = reserve + 0.001..reserve + 4.0;
    prop_oneof![Just(Limit::None), above.clone().prop_map(Limit::Hard), above.prop_map(Limit::Soft)]
}

fn shares() -> impl Strategy<Value = Share> {
    let reserve = prop_oneof![Just(0.0), 0.01..0.3];
    let weight = prop_oneof![1u32..20, 500u32..2000, 1u32..1_000_000];
    (reserve, weight).prop_flat_map(|(reserve, weight)| {
        limit(reserve).prop_map(move |limit| Share { reserve, weight, limit })
    })
}

fn demands() -> impl Strategy<Value = Amount> {
    prop_oneof![Just(0.0), 0.0..0.2, 0.0..8.0]
}

/// Some, and what each would take; no more is promised than there is.
fn some() -> impl Strategy<Value = (Amount, Vec<(Share, Amount)>)> {
    prop::collection::vec((shares(), demands()), 1..24).prop_flat_map(|some| {
        let promised: Amount = some.iter().map(|(share, _)| share.reserve).sum();
        (promised..promised + 8.0, Just(some))
    })
}

fn claims(some: &[(Share, Amount)]) -> Vec<Claim> {
    some.iter().map(|(share, demand)| Claim::new(share, *demand)).collect()
}

/// A guest, or a group that may be expandable: which of the groups before it it is in, what it is promised, what it would take.
type Node = (Option<bool>, usize, Share, Amount);

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let group = prop_oneof![Just(None), Just(None), any::<bool>().prop_map(Some)];
    prop::collection::vec((group, 0usize..8, shares(), demands()), 1..40)
}

/// Those of them that can be promised what they are to be, in their groups, with their numbers in a tree.
fn admitted(capacity: Amount, nodes: &[Node]) -> (Tree, Vec<(usize, Member, Amount)>) {
    let (mut tree, mut all) = (Tree::new(capacity), Vec::<(usize, Member, Amount)>::new());
    for (n, (expandable, within, share, demand)) in nodes.iter().enumerate() {
        let groups: Vec<_> = all.iter().filter(|(_, member, _)| member.expandable.is_some()).collect();
        let within = within.checked_rem(groups.len() + 1).and_then(|pick| groups.get(pick).copied());
        let (parent, group) =
            within.map_or((0, None), |(number, member, _)| (*number, Some(member.name.clone())));
        let member = Member { name: n.to_string(), group, share: *share, expandable: *expandable };
        let members: Vec<_> = all.iter().map(|(_, member, _)| member.clone()).collect();
        if Promises::new("the host", capacity, &members).unwrap().admit(&member).is_err() {
            continue;
        }
        let number = match expandable {
            Some(expandable) => tree.group(parent, *share, *expandable),
            None => tree.guest(parent, *share, *demand),
        };
        all.push((number, member, *demand));
    }
    (tree, all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whoever_is_admitted_has_what_they_are_promised_however_deep_they_are(
        capacity in 0.1..8.0f64, nodes in nodes(),
    ) {
        let (tree, all) = admitted(capacity, &nodes);
        let got = tree.divide();
        prop_assert!(got[0] <= capacity + SMALL);
        let mut theirs = vec![0.0; got.len()];
        for (number, member, demand) in &all {
            let parent = member.group.as_ref().and_then(|group| {
                all.iter().find(|(_, other, _)| other.name == *group).map(|(number, ..)| *number)
            });
            theirs[parent.unwrap_or(0)] += got[*number];
            prop_assert!(got[*number] <= member.share.most(capacity) + SMALL, "{member:?} has {}", got[*number]);
            if member.expandable.is_none() {
                let least = demand.min(member.share.reserve);
                prop_assert!(got[*number] >= least - SMALL, "{member:?} has {} of {demand}", got[*number]);
                prop_assert!(got[*number] <= demand + SMALL);
            }
        }
        // What a group has its members have, and nothing is left while somebody may have more.
        for (number, member, _) in all.iter().filter(|(_, member, _)| member.expandable.is_some()) {
            prop_assert!((theirs[*number] - got[*number]).abs() < SMALL, "{member:?}");
        }
        prop_assert!((theirs[0] - got[0]).abs() < SMALL);
    }

    #[test]
    fn more_weight_is_never_less_however_deep(
        capacity in 0.1..8.0f64, nodes in nodes(), pick in 0usize..40, more in 2u32..50,
    ) {
        let (tree, all) = admitted(capacity, &nodes);
        let pick = pick % nodes.len();
        let mut heavier = nodes.clone();
        heavier[pick].2.weight = heavier[pick].2.weight.saturating_mul(more);
        let after = admitted(capacity, &heavier).0.divide();
        for (number, ..) in all.iter().filter(|(_, member, _)| member.name == pick.to_string()) {
            prop_assert!(after[*number] >= tree.divide()[*number] - SMALL);
        }
    }

    #[test]
    fn nothing_is_left_that_somebody_could_have_however_deep(capacity in 0.1..8.0f64, nodes in nodes()) {
        let (tree, all) = admitted(capacity, &nodes);
        let got = tree.divide();
        // What each could have of all that there is.
        let mut could = vec![0.0; got.len()];
        for (number, member, demand) in all.iter().rev() {
            could[*number] = member.share.most(could[*number] + demand * f64::from(member.expandable.is_none()));
            let group = all.iter().find(|(_, other, _)| Some(&other.name) == member.group.as_ref());
            could[group.map_or(0, |(number, ..)| *number)] += could[*number];
        }
        let most = could[0].min(capacity);
        prop_assert!((got[0] - most).abs() < SMALL, "{} of {most}", got[0]);
    }

    #[test]
    fn nobody_is_above_what_they_may_have_or_below_what_is_theirs((capacity, some) in some()) {
        let got = divide(capacity, &claims(&some));
        prop_assert!(got.iter().sum::<Amount>() <= capacity + SMALL);
        for ((share, demand), got) in some.iter().zip(&got) {
            prop_assert!(*got <= demand + SMALL && *got <= share.most(capacity) + SMALL);
            prop_assert!(*got >= demand.min(share.reserve) - SMALL);
        }
    }

    #[test]
    fn nothing_is_left_while_somebody_may_have_more((capacity, some) in some()) {
        let got = divide(capacity, &claims(&some));
        let left = capacity - got.iter().sum::<Amount>();
        for ((share, demand), got) in some.iter().zip(&got) {
            prop_assert!(left < SMALL || *got >= share.most(*demand) - SMALL, "{left} is left");
        }
    }

    #[test]
    fn more_weight_is_never_less((capacity, some) in some(), more in 2u32..50) {
        let before = divide(capacity, &claims(&some))[0];
        let mut heavier = some.clone();
        heavier[0].0.weight = heavier[0].0.weight.saturating_mul(more);
        prop_assert!(divide(capacity, &claims(&heavier))[0] >= before - SMALL);
    }

    #[test]
    fn the_order_does_not_matter((capacity, some) in some(), turn in 0usize..24) {
        let turn = turn % some.len();
        let got = divide(capacity, &claims(&some));
        let mut turned = some.clone();
        turned.rotate_left(turn);
        let mut back = divide(capacity, &claims(&turned));
        back.rotate_right(turn);
        for (got, back) in got.iter().zip(&back) {
            prop_assert!((got - back).abs() < SMALL);
        }
    }

    #[test]
    fn what_is_left_goes_by_weight((capacity, some) in some()) {
        let got = divide(capacity, &claims(&some));
        // Of those who want more and may have it, each has the same for its weight.
        let surplus = |((share, demand), got): (&(Share, Amount), &Amount)| {
            let firm = match share.limit {
                Limit::None => *demand,
                Limit::Hard(limit) | Limit::Soft(limit) => demand.min(limit),
            };
            (*got < firm - SMALL).then(|| (got - demand.min(share.reserve)) / f64::from(share.weight))
        };
        let levels: Vec<_> = some.iter().zip(&got).filter_map(surplus).collect();
        for level in &levels {
            prop_assert!((level - levels[0]).abs() <= SMALL * (1.0 + levels[0]), "{levels:?}");
        }
    }

    #[test]
    fn groups_get_what_their_members_get(
        capacity in 0.1..16.0, groups in prop::collection::vec((shares(), any::<bool>(), some()), 1..6),
    ) {
        let mut tree = Tree::new(capacity);
        let mut all = Vec::new();
        for (share, expandable, (_, members)) in &groups {
            // What is promised is not looked at here.
            let share = Share { reserve: 0.0, ..*share };
            let group = tree.group(0, share, *expandable);
            let members: Vec<_> = members.iter().map(|(share, demand)| {
                let share = Share { reserve: 0.0, ..*share };
                (tree.guest(group, share, *demand), share, *demand)
            }).collect();
            all.push((group, share, members));
        }
        let got = tree.divide();
        prop_assert!(got[0] <= capacity + SMALL);
        let mut wants = 0.0;
        for (group, share, members) in &all {
            let theirs: Amount = members.iter().map(|(guest, ..)| got[*guest]).sum();
            prop_assert!((theirs - got[*group]).abs() < SMALL);
            prop_assert!(got[*group] <= share.most(capacity) + SMALL);
            let want: Amount = members.iter().map(|(_, share, demand)| share.most(*demand)).sum();
            wants += share.most(want);
            for (guest, share, demand) in members {
                prop_assert!(got[*guest] <= share.most(*demand) + SMALL);
            }
        }
        prop_assert!((got[0] - wants.min(capacity)).abs() < SMALL, "{} of {}", got[0], wants.min(capacity));
    }
}
