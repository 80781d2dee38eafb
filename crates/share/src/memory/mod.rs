//! Memory among guests that together have more than there is.
//!
//! Memory is not taken anew in each window as processors are: whoever has it keeps it until it is taken away, whether they touch it or
//! not. So what is not touched costs more than what is, and is taken away first ([`targets`]); what follows from that is done in steps
//! that no guest's system suffers from ([`steps`]), the faster the less is free ([`Pressure`]). How much of its memory a guest
//! uses it is not asked page by page: [`Working`] estimates it from what its system says. Through groups it goes as among guests ([`divide`]).
//!
//! After C. Waldspurger, "Memory Resource Management in VMware ESX Server" (OSDI 2002), sections 5 and 6.

mod paging;
mod pressure;
mod steps;
mod tree;
mod working;

pub use paging::{Resident, evictions, on_device};
pub use pressure::{Pressure, Told};
pub use steps::{Place, steps};
pub use tree::{Divided, divide, promised, without};
pub use working::{Reading, Working, floor};

use crate::{Amount, Limit, Share};

/// The part of idle memory that is taken away from whom it is idle at, if others need it.
pub const IDLE_TAX: f64 = 0.75;
/// How many times as much a byte costs that is not touched.
const IDLE_COST: f64 = 1.0 / (1.0 - IDLE_TAX);

/// A guest that wants memory of a pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wants {
    /// What it is promised.
    pub share: Share,
    /// The memory that its system believes to have, bytes.
    pub size: Amount,
    /// What of that it uses, bytes.
    pub active: Amount,
}

impl Wants {
    /// The least and the most that it can be given.
    fn bounds(&self) -> (Amount, Amount) {
        let most = match self.share.limit {
            Limit::None => self.size,
            Limit::Hard(limit) | Limit::Soft(limit) => self.size.min(limit),
        };
        (self.share.reserve.min(most), most)
    }
}

/// What each guest is to have of `pool` bytes.
///
/// Everyone has their reserve, as far as they are so large. What is left is divided so that for everyone `S / (P (f + k (1 - f)))` is the same:
/// the weight over what is had beyond the reserve, in which idle bytes count `k = 1 / (1 - tax)` times; nobody gets more than their size
/// and their limit. If the reserves alone are more than there is, which nobody admits, each loses the same part.
pub fn targets(pool: Amount, guests: &[Wants]) -> Vec<Amount> {
    let bounds: Vec<_> = guests.iter().map(Wants::bounds).collect();
    let promised: Amount = bounds.iter().map(|(least, _)| least).sum();
    if promised > pool {
        return bounds.iter().map(|(least, _)| least * pool / promised).collect();
    }
    let rooms: Vec<_> = guests.iter().zip(&bounds).map(|(guest, bounds)| Room::new(guest, *bounds)).collect();
    let level = level(pool - promised, &rooms);
    rooms.iter().zip(&bounds).map(|(room, (least, _))| least + room.at(level)).collect()
}

/// What somebody may have beyond their reserve.
#[derive(Debug, Clone, Copy)]
struct Room {
    weight: f64,
    /// What of it they use.
    active: Amount,
    /// All of it.
    all: Amount,
}

impl Room {
    fn new(guest: &Wants, (least, most): (Amount, Amount)) -> Self {
        let all = most - least;
        Self { weight: f64::from(guest.share.weight), active: (guest.active - least).clamp(0.0, all), all }
    }

    /// The levels up to which what they use is filled, and all of it.
    fn full(&self) -> (f64, f64) {
        let active = self.active / self.weight;
        (active, active + (self.all - self.active) * IDLE_COST / self.weight)
    }

    /// What they have when everybody has paid the same for each part of their weight.
    fn at(&self, level: f64) -> Amount {
        let paid = level * self.weight;
        let idle = (paid - self.active).max(0.0) / IDLE_COST;
        (paid.min(self.active) + idle).min(self.all)
    }
}

/// The level at which all rooms together hold `amount`, or the highest that means anything.
fn level(amount: Amount, rooms: &[Room]) -> f64 {
    // Where the sum of all begins to rise faster or slower.
    let mut bends: Vec<(f64, f64)> = Vec::with_capacity(rooms.len() * 3);
    for room in rooms {
        let (active, all) = room.full();
        let slow = room.weight / IDLE_COST;
        bends.extend([(0.0, room.weight), (active, slow - room.weight), (all, -slow)]);
    }
    bends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut level, mut held, mut slope) = (0.0, 0.0, 0.0);
    for (at, bend) in bends {
        let more: Amount = slope * (at - level);
        if more > 0.0 && held + more >= amount {
            return level + (amount - held) / slope;
        }
        (held, level, slope) = (held + more, at, slope + bend);
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: Amount = (1u64 << 30) as Amount;

    fn guest(weight: u32, size: Amount, active: Amount) -> Wants {
        Wants { share: Share { weight, ..Share::default() }, size, active }
    }

    fn close(got: &[Amount], wanted: &[Amount]) {
        assert_eq!(got.len(), wanted.len());
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((got - wanted).abs() < wanted * 1e-9 + 1.0, "{got} is not {wanted}");
        }
    }

    #[test]
    fn golden_7_idle_memory_costs_four_times_as_much() {
        // Of two with the same weight the one that touches nothing keeps a quarter of what the other one has.
        let got = targets(GIB, &[guest(1000, GIB, 0.0), guest(1000, GIB, GIB)]);
        close(&got, &[0.2 * GIB, 0.8 * GIB]);
        // The price S / (P (f + k (1 - f))) is the same for both.
        let price = |p: Amount, active: Amount| {
            let f = (active / p).min(1.0);
            1000.0 / (p * (f + 4.0 * (1.0 - f)))
        };
        let some = [guest(1000, GIB, 0.1 * GIB), guest(1000, GIB, 0.9 * GIB)];
        let got = targets(GIB, &some);
        let prices = [price(got[0], 0.1 * GIB), price(got[1], 0.9 * GIB)];
        assert!((prices[0] / prices[1] - 1.0).abs() < 1e-9, "{got:?}");
        // Waldspurger's figure 7: both had the half of what there is; the busy one gets all that it can use.
        let mib = GIB / 1024.0;
        let got =
            targets(360.0 * mib, &[guest(1000, 256.0 * mib, 0.0), guest(1000, 256.0 * mib, 256.0 * mib)]);
        close(&got, &[104.0 * mib, 256.0 * mib]);
    }

    #[test]
    fn weights_divide_what_is_used_and_a_reserve_is_kept_even_idle() {
        let all = |weight| guest(weight, GIB, GIB);
        close(&targets(GIB, &[all(3000), all(1000)]), &[0.75 * GIB, 0.25 * GIB]);
        let mut kept = guest(1000, GIB, 0.0);
        kept.share.reserve = 0.5 * GIB;
        close(&targets(GIB, &[kept, all(1000)]), &[0.6 * GIB, 0.4 * GIB]);
        let mut limited = all(1_000_000);
        limited.share.limit = Limit::Hard(0.3 * GIB);
        close(&targets(GIB, &[limited, all(1)]), &[0.3 * GIB, 0.7 * GIB]);
    }

    #[test]
    fn where_there_is_enough_everyone_has_all_of_it_and_reserves_beyond_the_pool_lose_alike() {
        close(&targets(4.0 * GIB, &[guest(1, GIB, 0.0), guest(9, 2.0 * GIB, 0.0)]), &[GIB, 2.0 * GIB]);
        let mut greedy = guest(1, GIB, 0.0);
        greedy.share.reserve = GIB;
        close(&targets(GIB, &[greedy, greedy]), &[0.5 * GIB, 0.5 * GIB]);
        assert!(targets(GIB, &[]).is_empty());
    }
}
