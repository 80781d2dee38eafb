//! For how long a processor did not run although its guest wanted it to: others had the host's processor, a limit was used up, or memory had to
//! come from somewhere. The thread's own clock stands still in that time.

use std::time::Duration;

use rustix::time::ClockId;

use crate::figures::{clock_ns, now_ns};

/// So much is told at a time at least, ns: clocks that are read one after the other are never quite of one moment.
const LEAST: u64 = 100_000;

/// Clocks of a processor's thread, ns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clocks {
    /// The host's.
    pub wall: u64,
    /// What the thread has run. To read that has the kernel count what has been used, and stop whoever has used up a limit now and not at the next
    /// tick (sched/fair.c, update_curr).
    pub ran: u64,
    /// What it has slept of its own accord.
    pub slept: u64,
}

impl Clocks {
    /// Those of this thread, which has slept for so long while its guest waited in a loop.
    pub fn now(slept: Duration) -> Self {
        // Who has used up a limit stops at the second reading: that is in what passes from now on.
        let wall = now_ns();
        Self { wall, ran: clock_ns(ClockId::ThreadCPUTime), slept: slept.as_nanos() as u64 }
    }
}

/// What is known of it.
#[derive(Debug, Default)]
pub struct Steal {
    since: Option<Clocks>,
}

impl Steal {
    /// The guest wants to run from now on.
    pub fn begin(&mut self, now: Clocks) {
        self.since = Some(now);
    }

    /// What is to be told to the guest now, ns: what it did not run since it was told last.
    pub fn look(&mut self, now: Clocks) -> Option<u64> {
        // It may have begun to want to know while it ran.
        let since = *self.since.get_or_insert(now);
        let mine = now.ran.saturating_sub(since.ran) + now.slept.saturating_sub(since.slept);
        let passed = now.wall.saturating_sub(since.wall);
        let stolen = passed.saturating_sub(mine);
        // Where the clocks say more than has passed that is no credit.
        if stolen >= LEAST || mine > passed {
            self.since = Some(now);
        }
        Some(stolen).filter(|stolen| *stolen >= LEAST)
    }

    /// Nobody wants to know any more.
    pub fn forget(&mut self) {
        self.since = None;
    }

    /// The guest wants nothing any more; gives what is to be told.
    pub fn end(&mut self, now: Clocks) -> Option<u64> {
        let stolen = self.look(now);
        self.since = None;
        stolen
    }
}

/// What is to be told to a guest that was to wake up at one time and did at another one, guest ns.
pub fn late(deadline: u64, now: u64) -> Option<u64> {
    Some(now.saturating_sub(deadline)).filter(|late| *late >= LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: u64, ran: u64, slept: u64) -> Clocks {
        Clocks { wall, ran, slept }
    }

    #[test]
    fn what_neither_ran_nor_slept_was_stolen_and_is_told_once() {
        let mut steal = Steal::default();
        assert_eq!(steal.look(at(9_000_000, 0, 0)), None, "it did not want to run");
        steal.begin(at(10_000_000, 500, 0));
        assert_eq!(steal.look(at(11_000_000, 1_000_500, 0)), None, "it ran all the time");
        assert_eq!(steal.look(at(14_000_000, 1_000_500, 1_000_000)), Some(2_000_000));
        assert_eq!(steal.look(at(14_050_000, 1_000_500, 1_000_000)), None, "little");
        assert_eq!(
            steal.look(at(14_120_000, 1_000_500, 1_000_000)),
            Some(120_000),
            "little after little is not lost"
        );
        assert_eq!(steal.end(at(15_120_000, 1_000_500, 1_000_000)), Some(1_000_000));
        assert_eq!(steal.look(at(99_000_000, 1_000_500, 1_000_000)), None, "it slept");
        steal.begin(at(100_000_000, 2_000_000, 1_000_000));
        steal.forget();
        assert_eq!(
            steal.look(at(900_000_000, 2_000_000, 1_000_000)),
            None,
            "nobody wanted to know meanwhile"
        );
        steal.begin(at(900_000_000, 2_000_000, 1_000_000));
        assert_eq!(steal.look(at(901_000_000, 9_000_000, 1_000_000)), None);
        assert_eq!(
            steal.look(at(902_000_000, 9_000_000, 1_000_000)),
            Some(1_000_000),
            "a clock that went ahead is no credit"
        );
    }

    #[test]
    fn a_thread_that_has_to_wait_is_stolen_from() {
        let mut steal = Steal::default();
        steal.begin(Clocks::now(Duration::ZERO));
        std::thread::sleep(Duration::from_millis(5));
        assert!(steal.look(Clocks::now(Duration::ZERO)) >= Some(4_000_000));
    }

    #[test]
    fn who_wakes_up_late_was_kept_from_it() {
        assert_eq!((late(7, 50_000), late(7, 7_000_007), late(9, 8)), (None, Some(7_000_000), None));
    }
}
