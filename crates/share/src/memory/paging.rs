//! What goes to a paging device where guests use more than a pool has, so that taking it from their systems would end their programs.

use crate::Amount;

/// What a guest has in a pool's memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resident {
    /// What is there now.
    pub has: Amount,
    /// What is to be there.
    pub target: Amount,
    /// What stays there whatever others need.
    pub least: Amount,
}

impl Resident {
    /// What it has beyond its target.
    fn beyond(&self) -> Amount {
        (self.has - self.target.max(self.least)).max(0.0)
    }

    /// What could be taken of it besides.
    fn rest(&self) -> Amount {
        (self.has - self.beyond() - self.least).max(0.0)
    }
}

/// What of each guest goes to the paging device so that `wanted` bytes become free: of those who have more than their targets first, the same
/// part of what each has too much, and of the others only if that is not enough. Nobody comes below what they are to keep.
pub fn evictions(wanted: Amount, guests: &[Resident]) -> Vec<Amount> {
    let beyond: Amount = guests.iter().map(Resident::beyond).sum();
    let rest: Amount = guests.iter().map(Resident::rest).sum();
    let part = |wanted: Amount, of: Amount| if of > 0.0 { (wanted.max(0.0) / of).min(1.0) } else { 0.0 };
    let (first, then) = (part(wanted, beyond), part(wanted - beyond, rest));
    guests.iter().map(|guest| guest.beyond() * first + guest.rest() * then).collect()
}

/// What each guest may touch beyond what it is to have in memory, if `lacks` is what each lacks and a paging device has `room` for all of them together.
pub fn on_device(room: Amount, lacks: &[Amount]) -> Vec<Amount> {
    let all: Amount = lacks.iter().map(|lack| lack.max(0.0)).sum();
    let part = if all > 0.0 { (room.max(0.0) / all).min(1.0) } else { 0.0 };
    lacks.iter().map(|lack| lack.max(0.0) * part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(has: Amount, target: Amount, least: Amount) -> Resident {
        Resident { has, target, least }
    }

    #[test]
    fn who_has_too_much_gives_first_and_the_same_part_of_it() {
        let guests = [guest(80.0, 40.0, 0.0), guest(60.0, 40.0, 0.0), guest(30.0, 40.0, 0.0)];
        assert_eq!(evictions(30.0, &guests), [20.0, 10.0, 0.0]);
        assert_eq!(evictions(60.0, &guests), [40.0, 20.0, 0.0]);
        assert_eq!(evictions(0.0, &guests), [0.0, 0.0, 0.0]);
        assert_eq!(evictions(-5.0, &guests), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_a_guest_keeps_is_never_taken() {
        let guests = [guest(80.0, 40.0, 60.0), guest(60.0, 40.0, 20.0)];
        assert_eq!(evictions(40.0, &guests), [20.0, 20.0]);
        assert_eq!(evictions(50.0, &guests), [20.0, 30.0]);
        assert_eq!(evictions(500.0, &guests), [20.0, 40.0]);
        assert_eq!(evictions(10.0, &[guest(10.0, 5.0, 20.0)]), [0.0], "it has less than it may keep");
        assert!(evictions(10.0, &[]).is_empty());
    }

    #[test]
    fn a_device_has_room_for_a_part_of_what_all_lack() {
        assert_eq!(on_device(100.0, &[30.0, -20.0, 10.0]), [30.0, 0.0, 10.0]);
        assert_eq!(on_device(20.0, &[30.0, -20.0, 10.0]), [15.0, 0.0, 5.0]);
        assert_eq!(on_device(-1.0, &[30.0]), [0.0]);
        assert_eq!(on_device(10.0, &[0.0]), [0.0]);
    }
}
