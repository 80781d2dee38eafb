//! What holds for whatever guests there are in a pool of memory.

use proptest::prelude::*;
use share::admission::{Member, Promises};
use share::memory::{Divided, IDLE_TAX, Place, Wants, divide, steps, targets};
use share::{Amount, Group, Limit, Share};

/// Bytes that nobody misses.
const SMALL: Amount = 1.0;

fn guests() -> impl Strategy<Value = Wants> {
    let bytes = 32e6..8e9;
    let weight = prop_oneof![1u32..20, 500u32..2000, 1u32..1_000_000];
    (bytes, weight, 0.0..0.3, 0.0..1.0, prop::option::of(0.3..1.2)).prop_map(
        |(size, weight, reserve, active, limit)| {
            let limit = limit.map_or(Limit::None, |limit| Limit::Hard(size * limit));
            Wants { share: Share { reserve: size * reserve, weight, limit }, size, active: size * active }
        },
    )
}

/// Some, and a pool that has room for what they are promised.
fn some() -> impl Strategy<Value = (Amount, Vec<Wants>)> {
    prop::collection::vec(guests(), 1..24).prop_flat_map(|some| {
        let promised: Amount = some.iter().map(|guest| guest.share.reserve).sum();
        let all: Amount = some.iter().map(|guest| guest.size).sum();
        (promised..promised + all, Just(some))
    })
}

fn most(guest: &Wants) -> Amount {
    guest.share.most(guest.size)
}

/// A pool, its groups and the guests in them, of which each can be promised what it is to be.
type Nested = (Amount, Vec<Group>, Vec<(Wants, Option<usize>)>);

fn groups() -> impl Strategy<Value = (Share, bool, usize)> {
    let reserve = prop_oneof![Just(0.0), 1e6..4e9];
    let weight = prop_oneof![1u32..20, 500u32..2000, 1u32..1_000_000];
    let limit = prop::option::of(1e6..8e9);
    (reserve, weight, limit, any::<bool>(), 0usize..8).prop_map(
        |(reserve, weight, limit, expandable, within)| {
            let limit = limit.map_or(Limit::None, |more| Limit::Hard(reserve + more));
            (Share { reserve, weight, limit }, expandable, within)
        },
    )
}

fn nested() -> impl Strategy<Value = Nested> {
    let groups = prop::collection::vec(groups(), 0..8);
    let guests = prop::collection::vec((guests(), 0usize..9), 1..24);
    (1e8..4e10f64, groups, guests).prop_map(|(pool, groups, guests)| admitted(pool, &groups, &guests))
}

/// Those of them that can be promised what they are to be, one after the other.
fn admitted(pool: Amount, groups: &[(Share, bool, usize)], guests: &[(Wants, usize)]) -> Nested {
    let (mut members, mut nested) = (Vec::<Member>::new(), (pool, Vec::<Group>::new(), Vec::new()));
    let within = |pick: usize, count: usize| (pick % (count + 1)).checked_sub(1);
    let admit = |members: &mut Vec<Member>, group: Option<usize>, share: Share, expandable: Option<bool>| {
        let group = group.map(|group| format!("group {group}"));
        let kind = if expandable.is_some() { "group" } else { "guest" };
        let of_kind = members.iter().filter(|member| member.expandable.is_some() == expandable.is_some());
        let name = format!("{kind} {}", of_kind.count());
        let member = Member { name, group, share, expandable };
        let fits = Promises::new("the pool", pool, members).unwrap().admit(&member).is_ok();
        if fits {
            members.push(member);
        }
        fits
    };
    for (share, expandable, pick) in groups {
        let within = within(*pick, nested.1.len());
        if admit(&mut members, within, *share, Some(*expandable)) {
            nested.1.push(Group { share: *share, expandable: *expandable, within });
        }
    }
    for (wants, pick) in guests {
        let group = within(*pick, nested.1.len());
        if admit(&mut members, group, wants.share, None) {
            nested.2.push((*wants, group));
        }
    }
    nested
}

/// What is in a group, or at the host, has together; and what it could have.
fn inside(group: Option<usize>, (_, groups, guests): &Nested, got: &Divided) -> (Amount, Amount) {
    let of_groups = (0..groups.len()).filter(|n| groups[*n].within == group).map(|n| {
        let could = inside(Some(n), &(0.0, groups.clone(), guests.clone()), got).1;
        (got.groups[n], groups[n].share.most(could))
    });
    let of_guests = guests.iter().zip(&got.guests).filter(|((_, of), _)| *of == group);
    let of_guests = of_guests.map(|((wants, _), got)| (*got, most(wants)));
    of_groups.chain(of_guests).fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn in_groups_everyone_is_within_bounds_and_nothing_is_left_that_somebody_could_have(nested in nested()) {
        let (pool, groups, guests) = &nested;
        let got = divide(*pool, groups, guests);
        for ((guest, _), got) in guests.iter().zip(&got.guests) {
            let least = guest.share.reserve.min(guest.size);
            prop_assert!(*got >= least - SMALL && *got <= most(guest) + SMALL, "{guest:?} {got}");
        }
        for (n, group) in groups.iter().enumerate() {
            let (theirs, could) = inside(Some(n), &nested, &got);
            let has = got.groups[n];
            prop_assert!(has <= group.share.most(could) + SMALL, "{group:?} {has}");
            prop_assert!(has >= group.share.reserve.min(could) - SMALL, "{group:?} {has}");
            prop_assert!((theirs - has).abs() < SMALL * 24.0, "{group:?} has {has}, what is in it {theirs}");
        }
        let (all, could) = inside(None, &nested, &got);
        prop_assert!((all - could.min(*pool)).abs() < SMALL * 24.0, "{all} of {}", could.min(*pool));
    }

    #[test]
    fn in_groups_more_weight_or_use_is_never_less(nested in nested(), pick in 0usize..32, more in 2u32..50) {
        let (pool, groups, guests) = nested;
        let before = divide(pool, &groups, &guests);
        let heavier = |share: &mut Share| share.weight = share.weight.saturating_mul(more);
        if !groups.is_empty() {
            let pick = pick % groups.len();
            let mut changed = groups.clone();
            heavier(&mut changed[pick].share);
            let after = divide(pool, &changed, &guests);
            prop_assert!(after.groups[pick] >= before.groups[pick] - SMALL);
            for (n, (_, group)) in guests.iter().enumerate().filter(|(_, (_, group))| *group == Some(pick)) {
                prop_assert!(after.guests[n] >= before.guests[n] - SMALL, "{group:?}");
            }
        }
        if !guests.is_empty() {
            let pick = pick % guests.len();
            let mut changed = guests.clone();
            heavier(&mut changed[pick].0.share);
            prop_assert!(divide(pool, &groups, &changed).guests[pick] >= before.guests[pick] - SMALL);
            let mut changed = guests.clone();
            changed[pick].0.active = changed[pick].0.size;
            prop_assert!(divide(pool, &groups, &changed).guests[pick] >= before.guests[pick] - SMALL);
        }
    }

    #[test]
    fn in_groups_the_order_does_not_matter(nested in nested(), turn in 0usize..24) {
        let (pool, groups, guests) = nested;
        let got = divide(pool, &groups, &guests);
        let depth = |n: usize| share::above(&groups, Some(n)).count();
        let mut order: Vec<_> = (0..groups.len()).collect();
        order.sort_by_key(|n| (depth(*n), std::cmp::Reverse(*n)));
        let place = |group: Option<usize>| group.map(|group| order.iter().position(|n| *n == group).unwrap());
        let turned = |n: &usize| Group { within: place(groups[*n].within), ..groups[*n] };
        let moved: Vec<_> = order.iter().map(turned).collect();
        let turn = turn % guests.len().max(1);
        let mut others: Vec<_> = guests.iter().map(|(wants, group)| (*wants, place(*group))).collect();
        others.rotate_left(turn);
        let mut again = divide(pool, &moved, &others);
        again.guests.rotate_right(turn);
        for (got, again) in got.guests.iter().zip(&again.guests) {
            prop_assert!((got - again).abs() < SMALL * 8.0, "{got} {again}");
        }
        for (n, got) in got.groups.iter().enumerate() {
            prop_assert!((got - again.groups[place(Some(n)).unwrap()]).abs() < SMALL * 8.0);
        }
    }

    #[test]
    fn without_groups_all_is_as_among_guests((pool, some) in some()) {
        let guests: Vec<_> = some.iter().map(|guest| (*guest, None)).collect();
        prop_assert_eq!(divide(pool, &[], &guests).guests, targets(pool, &some));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_more_is_given_than_there_is_and_everyone_is_within_bounds((pool, some) in some()) {
        let got = targets(pool, &some);
        prop_assert!(got.iter().sum::<Amount>() <= pool + SMALL);
        for (guest, got) in some.iter().zip(&got) {
            prop_assert!(*got >= guest.share.reserve - SMALL && *got <= most(guest) + SMALL, "{guest:?} {got}");
        }
    }

    #[test]
    fn nothing_is_left_while_somebody_could_have_it((pool, some) in some()) {
        let got = targets(pool, &some);
        let left = pool - got.iter().sum::<Amount>();
        let full = some.iter().zip(&got).all(|(guest, got)| *got >= most(guest) - SMALL);
        prop_assert!(full || left < SMALL * some.len() as Amount, "{left}");
    }

    #[test]
    fn more_weight_or_use_is_never_less((pool, some) in some(), more in 2u32..50) {
        let before = targets(pool, &some)[0];
        let mut heavier = some.clone();
        heavier[0].share.weight = heavier[0].share.weight.saturating_mul(more);
        prop_assert!(targets(pool, &heavier)[0] >= before - SMALL);
        let mut busier = some;
        busier[0].active = busier[0].size;
        prop_assert!(targets(pool, &busier)[0] >= before - SMALL);
    }

    #[test]
    fn the_order_does_not_matter((pool, some) in some(), turn in 0usize..24) {
        let turn = turn % some.len();
        let got = targets(pool, &some);
        let mut turned = some.clone();
        turned.rotate_left(turn);
        let mut back = targets(pool, &turned);
        back.rotate_right(turn);
        for (got, back) in got.iter().zip(&back) {
            prop_assert!((got - back).abs() < SMALL);
        }
    }

    #[test]
    fn who_is_idle_gives_up_to_the_tax_and_no_more(pool in 1e8..1e10f64, part in 0.0..1.0f64) {
        let size = pool;
        let guest = |active| Wants { share: Share::default(), size, active };
        let got = targets(pool, &[guest(size * part), guest(size)]);
        // What the other one pays for all of it, this one pays for what is idle four times.
        prop_assert!(got[0] >= (1.0 - IDLE_TAX) * got[1] - SMALL, "{got:?}");
        prop_assert!(got[0] >= (size * part).min(got[1]) - SMALL, "what is used is not taxed: {got:?}");
    }

    #[test]
    fn no_step_overfills_a_pool_or_takes_what_a_guest_needs(
        all in prop::collection::vec((1e8..1e9, 0.0..1.0, 0.0..1.0, 0.0..1.0), 1..16), pace in 0.0..0.5, room in 0.5..1.5,
    ) {
        let place = |&(size, held, target, spare): &(f64, f64, f64, f64)| Place {
            size, held: size * held, target: size * target, spare: size * held * spare,
        };
        let places: Vec<_> = all.iter().map(place).collect();
        let held: Amount = places.iter().map(|place| place.held).sum();
        let pool = held * room;
        let next = steps(pool, pace, 1.0, &places);
        prop_assert!(next.iter().sum::<Amount>() <= pool.max(held) + SMALL);
        for (place, next) in places.iter().zip(&next) {
            prop_assert!(*next >= place.held - place.spare - SMALL);
            prop_assert!(*next >= place.held.min(place.target) - SMALL && *next <= place.held.max(place.target) + SMALL);
        }
    }
}
