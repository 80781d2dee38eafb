//! What of a pool each guest is to have whose system says what it uses.

use share::Amount;
use share::memory::{Reading, Wants, on_device};

use super::grouped::Grouped;
use super::heard::Heard;

/// What is divided among guests.
pub struct Parts {
    /// What each is to have in memory, bytes.
    pub targets: Vec<Amount>,
    /// What each may touch besides, because a paging device has room for it, bytes.
    pub beyond: Vec<Amount>,
}

/// A guest, what its system says, and what it wants.
#[derive(Clone, Copy)]
pub struct Talking<'a> {
    /// The guest.
    pub heard: &'a Heard,
    /// What its system says.
    pub reading: Reading,
    /// What it wants.
    pub wants: Wants,
}

impl Talking<'_> {
    /// The most that it can have.
    fn most(&self) -> Amount {
        self.wants.share.most(self.reading.size)
    }

    /// What it has, as far as it may, and cannot be without at once.
    fn stays(&self) -> Amount {
        self.reading.stays().min(self.most())
    }
}

impl Parts {
    /// Divides `pool` bytes among guests in their groups. What their programs need beyond their part they may touch all the same as far as a
    /// paging device has `room` for that. Where it has not, nothing can be taken from them, and the others have to be without it: what
    /// is not used above what they are promised.
    pub fn new(grouped: &Grouped, pool: Amount, room: Amount, guests: &[Talking]) -> Self {
        let parts = Self::of(grouped, pool, room, guests);
        let touches: Vec<_> = parts.touches().collect();
        if guests.iter().zip(&touches).all(|(guest, touches)| guest.stays() <= touches + 1.0) {
            return parts;
        }
        Self::of(grouped, pool, room, &keeping(grouped, pool, guests, &touches))
    }

    /// What each may touch, bytes.
    pub fn touches(&self) -> impl Iterator<Item = Amount> {
        self.targets.iter().zip(&self.beyond).map(|(target, beyond)| target + beyond)
    }

    fn of(grouped: &Grouped, pool: Amount, room: Amount, guests: &[Talking]) -> Self {
        let divided = grouped.divide(pool, guests.iter().map(|guest| (guest.heard, guest.wants)));
        let lacks = |(guest, target): (&Talking, &Amount)| guest.reading.needs().min(guest.most()) - target;
        let lacks = guests.iter().zip(&divided.guests).map(lacks).collect();
        let heard: Vec<_> = guests.iter().map(|guest| guest.heard).collect();
        let beyond = on_device(room, &grouped.within_limits(&heard, &divided, lacks));
        Self { targets: divided.guests, beyond }
    }
}

/// The same guests, where what they cannot be without now counts as reserved, as far as there is so much besides what all are promised.
fn keeping<'a>(
    grouped: &Grouped,
    pool: Amount,
    guests: &[Talking<'a>],
    touches: &[Amount],
) -> Vec<Talking<'a>> {
    let reserve = |guest: &Talking| guest.wants.share.reserve.min(guest.most());
    let more: Vec<_> = guests.iter().map(|guest| (guest.stays() - reserve(guest)).max(0.0)).collect();
    let all: Amount = more.iter().sum();
    let free = pool - grouped.promised(guests.iter().map(|guest| (guest.heard, guest.wants)));
    let part = (free.max(0.0) / all.max(1.0)).min(1.0);
    let keep = |((guest, more), touches): ((&Talking<'a>, Amount), &Amount)| {
        let mut kept = *guest;
        kept.wants.share.reserve = reserve(guest) + more * part;
        if guest.stays() > *touches {
            // It is not to have ever more only because it gives nothing.
            kept.wants.size = guest.stays().max(reserve(guest));
        }
        kept
    };
    guests.iter().zip(more).zip(touches).map(keep).collect()
}
