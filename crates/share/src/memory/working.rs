//! How much of its memory a guest uses, by what its system says.

use crate::Amount;

/// What a guest's system says of its memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The memory that it believes to have.
    pub size: Amount,
    /// What the balloon holds of that.
    pub balloon: Amount,
    /// What its programs could still have.
    pub available: Amount,
    /// How often its programs waited for a page of theirs to come from a disk each second since the last reading.
    pub faults: f64,
    /// What it read from its disks each second since then although it had had it before, bytes: what a guest of its size could have kept.
    pub rereads: f64,
}

/// A guest that waits for pages so often in a second lacks memory.
const FAULTS: f64 = 64.0;
/// One that would at its pace read again as much as its memory is in so many seconds lacks memory, too, for its files.
const REREADS: f64 = 1800.0;
/// Over so many seconds, nearly, that pace is taken.
const PACE: f64 = 10.0;
/// How much more one that lacks memory is taken to use than it has.
const MORE: f64 = 1.25;
/// In how many seconds what was used once is forgotten, nearly.
const MEMORY: f64 = 30.0;
/// The least floor, bytes.
const LEAST: Amount = (4u64 << 20) as Amount;

/// What a guest of this size always has available, bytes: with less its system would begin to end programs.
pub fn floor(size: Amount) -> Amount {
    (size / 32.0).max(LEAST)
}

impl Reading {
    /// What the guest has of the host's memory, at most.
    pub fn held(&self) -> Amount {
        (self.size - self.balloon).max(0.0)
    }

    /// What it can be without at once: it keeps twice the floor.
    pub fn spare(&self) -> Amount {
        (self.available - 2.0 * floor(self.size)).max(0.0)
    }

    /// What it cannot be without at once.
    pub fn stays(&self) -> Amount {
        self.held() - self.spare().min(self.held())
    }

    /// Whether its programs lack memory now, and not only its cache of files.
    fn lacks(&self) -> bool {
        self.available < floor(self.size)
    }

    /// What its programs need, bytes: what cannot be taken from its system without ending one of them. What it would like to have for files
    /// it can read again; on a paging device that would be no better off than where it is now.
    pub fn needs(&self) -> Amount {
        let needs = (self.held() - self.available).max(0.0) + 2.0 * floor(self.size);
        let needs = if self.lacks() { needs.max(self.held() * MORE) } else { needs };
        needs.min(self.size)
    }
}

/// An estimate of what a guest uses, bytes: what it has and could not give away, and a little more. What it does not have cannot be seen;
/// one that is short is taken to use more than it has until it is not short any more.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Working {
    /// It follows upwards at once, and downwards slowly.
    kept: Amount,
    /// What is read again each second, bytes.
    rereads: f64,
}

impl Working {
    /// Takes in a reading, `seconds` after the last one; gives what is used.
    pub fn look(&mut self, reading: &Reading, seconds: f64) -> Amount {
        let used = (reading.held() - reading.available).max(0.0) + 2.0 * floor(reading.size);
        // It is known of some of all blocks only, a thousandth of the guest's memory at a time.
        self.rereads += (reading.rereads - self.rereads) * (seconds / PACE).clamp(0.0, 1.0);
        let short = reading.lacks() || reading.faults > FAULTS || self.rereads > reading.size / REREADS;
        let now = if short { used.max(reading.held() * MORE) } else { used };
        let forgotten = (seconds / MEMORY).clamp(0.0, 1.0);
        self.kept = now.max(self.kept + (now - self.kept) * forgotten).min(reading.size);
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: Amount = (1u64 << 20) as Amount;

    fn reading(balloon: Amount, available: Amount, faults: f64) -> Reading {
        let (balloon, available) = (balloon * MIB, available * MIB);
        Reading { size: 128.0 * MIB, balloon, available, faults, rereads: 0.0 }
    }

    #[test]
    fn what_a_guest_could_give_away_it_does_not_use() {
        let look = |reading| Working::default().look(&reading, 1.0) / MIB;
        assert_eq!(look(reading(0.0, 100.0, 0.0)), 28.0 + 8.0);
        assert_eq!(look(reading(60.0, 40.0, 0.0)), 28.0 + 8.0);
        assert_eq!(reading(60.0, 40.0, 0.0).spare(), 32.0 * MIB);
        assert_eq!(reading(60.0, 6.0, 0.0).spare(), 0.0);
        assert_eq!(reading(60.0, 40.0, 0.0).stays(), 36.0 * MIB);
        assert_eq!(reading(60.0, 6.0, 0.0).stays(), 68.0 * MIB);
        assert_eq!(reading(100.0, 120.0, 0.0).stays(), 0.0, "it does not say the truth");
    }

    #[test]
    fn one_that_is_short_uses_more_than_it_has_and_no_more_than_it_can_have() {
        let look = |reading| Working::default().look(&reading, 1.0) / MIB;
        assert_eq!(look(reading(64.0, 3.0, 0.0)), 64.0 * 1.25);
        assert_eq!(look(reading(64.0, 30.0, 100.0)), 64.0 * 1.25);
        assert_eq!(look(reading(0.0, 1.0, 0.0)), 128.0);
    }

    #[test]
    fn one_that_reads_slowly_what_it_has_read_before_is_short_and_soon_is_not_any_more() {
        let mut working = Working::default();
        // Most of what it has it could give: files that it reads over and over.
        let read = |rereads| Reading { rereads, ..reading(64.0, 50.0, 0.0) };
        let busy = |second| read(if second % 4 == 0 { MIB } else { 0.0 });
        let used: Vec<_> = (0..60).map(|second| working.look(&busy(second), 1.0) / MIB).collect();
        assert!(used[10..].iter().all(|used| *used >= 64.0 * 1.2), "{used:?}");
        let idle: Vec<_> = (0..120).map(|_| working.look(&read(0.0), 1.0) / MIB).collect();
        assert!(idle[119] < 25.0, "{idle:?}");
        // Now and then a little is nothing.
        let seldom = |second| read(if second % 60 == 0 { MIB / 2.0 } else { 0.0 });
        let mut seldom = (0..120).map(|second| working.look(&seldom(second), 1.0) / MIB);
        assert!(seldom.all(|used| used < 64.0));
    }

    #[test]
    fn what_programs_need_is_not_what_files_would_like() {
        let needs = |available, faults| reading(64.0, available, faults).needs() / MIB;
        assert_eq!(needs(30.0, 1000.0), 34.0 + 8.0);
        assert_eq!(needs(3.0, 0.0), 64.0 * 1.25);
        assert_eq!(reading(0.0, 1.0, 0.0).needs(), 128.0 * MIB);
    }

    #[test]
    fn what_was_used_once_is_forgotten_slowly() {
        let mut working = Working::default();
        assert_eq!(working.look(&reading(0.0, 8.0, 0.0), 1.0), 128.0 * MIB);
        let idle = reading(0.0, 120.0, 0.0);
        let soon = working.look(&idle, 1.0);
        assert!(soon < 128.0 * MIB && soon > 120.0 * MIB, "{soon}");
        for _ in 0..120 {
            working.look(&idle, 1.0);
        }
        assert!(working.look(&idle, 1.0) < 20.0 * MIB);
        // A host that has slept does not overshoot.
        assert_eq!(Working { kept: 128.0 * MIB, rereads: 0.0 }.look(&idle, 1e9), 16.0 * MIB);
    }
}
