//! How a processor waits where its guest waits in a loop (PAUSE), or where it waits for another processor itself: briefly as a real one does, then
//! asleep, so that those it waits for can run.
//!
//! On a host with fewer processors than there are threads the one that is waited for may have none. `sched_yield` is no help: the scheduler
//! believes that who yields has had enough, and it comes back when all others have used up their slices, several milliseconds later. A thread that
//! slept for some microseconds is soon back.

use std::time::{Duration, Instant};

/// So many rounds are waited awake. That is longer than another processor which runs takes to answer.
const AWAKE: u32 = 256;
/// How often it is looked what time it is: that takes longer than a round.
const LOOK: u32 = 32;
/// Rounds that come more rarely than this belong to something else.
const SAME: Duration = Duration::from_micros(100);
/// How long one sleeps first, and at most.
const FIRST: Duration = Duration::from_micros(10);
const LONGEST: Duration = Duration::from_micros(160);

/// One that waits.
#[derive(Debug)]
pub(crate) struct Wait {
    /// Rounds since it began.
    rounds: u32,
    /// When the last look was.
    looked: Option<Instant>,
    sleep: Duration,
    /// For how long it has slept in all.
    slept: Duration,
}

impl Wait {
    pub(crate) fn new() -> Self {
        Self { rounds: 0, looked: None, sleep: FIRST, slept: Duration::ZERO }
    }

    /// For how long it has slept in all.
    pub(crate) fn slept(&self) -> Duration {
        self.slept
    }

    /// One round more has been waited in vain.
    #[inline]
    pub(crate) fn round(&mut self) {
        self.rounds += 1;
        if self.rounds.is_multiple_of(LOOK) {
            self.look();
        }
    }

    #[cold]
    fn look(&mut self) {
        let begun = Instant::now();
        if let Some(sleep) = self.at(begun) {
            std::thread::sleep(sleep);
            let now = Instant::now();
            self.slept += now - begun;
            self.looked = Some(now);
        }
    }

    /// How long it sleeps at a look.
    fn at(&mut self, now: Instant) -> Option<Duration> {
        let looked = self.looked.replace(now);
        if looked.is_none_or(|looked| now.saturating_duration_since(looked) > SAME) {
            (self.rounds, self.sleep) = (0, FIRST);
            return None;
        }
        if self.rounds < AWAKE {
            return None;
        }
        // The next look is soon.
        self.rounds = AWAKE;
        let next = (self.sleep * 2).min(LONGEST);
        Some(std::mem::replace(&mut self.sleep, next))
    }
}

/// Waits until something is so.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let mut wait = Wait::new();
    while !is_so() {
        std::hint::spin_loop();
        wait.round();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_long_sleeps_and_who_waits_again_begins_awake() {
        let mut now = Instant::now();
        let mut wait = Wait::new();
        let mut slept = Vec::new();
        for look in 1..=AWAKE / LOOK + 8 {
            wait.rounds += LOOK;
            now += SAME / 10;
            let sleep = wait.at(now);
            assert!(sleep.is_none() || look > AWAKE / LOOK, "it is awake at first");
            slept.extend(sleep.map(|sleep| sleep.as_micros()));
        }
        assert_eq!(slept, [10, 20, 40, 80, 160, 160, 160, 160]);
        now += SAME * 2;
        let sleep = wait.at(now);
        assert_eq!((wait.rounds, wait.sleep, sleep), (0, FIRST, None), "this is another wait");
    }
}
