//! What holds for whatever guests there are in a pool of memory.

use proptest::prelude::*;
use share::memory::{IDLE_TAX, Place, Wants, steps, targets};
use share::{Amount, Limit, Share};

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
