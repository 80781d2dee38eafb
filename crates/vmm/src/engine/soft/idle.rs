//! When an idle processor gives back the memory of translated code that it does not execute any more.
//!
//! A machine full of idle guests is mostly that. But what is executed now and then, such as timer ticks or taking frames that go to all, costs many times as much
//! if it is translated each time, and to sort what is cold from what is not costs more than a tick: so that is done ever more rarely where it finds little.

use std::time::{Duration, Instant};

/// How long a processor is watched before it counts as idle: longer than most of what a system does now and then.
const FIRST: Duration = Duration::from_secs(8);
/// How long at most until the next look. What executes more rarely than that is cold.
const LONGEST: Duration = Duration::from_secs(64);
/// An idle one executes fewer instructions than this in a second: timer ticks, and little else.
const IDLE_INSTRUCTIONS: u64 = 25_000_000;
/// Of one with no more translated instructions than that, which is what timer ticks execute, none are looked for that are cold.
const LITTLE: usize = 16 << 10;

/// What is remembered of a processor from one look to the next.
pub struct Idle {
    since: Instant,
    /// What it had executed then, instructions.
    executed: u64,
    /// When it is looked again.
    pause: Duration,
    /// What was left of its translated instructions then.
    left: usize,
}

impl Idle {
    /// Of a processor that has executed nothing.
    pub fn new(now: Instant) -> Self {
        Self { since: now, executed: 0, pause: FIRST, left: 0 }
    }

    /// Whether what is cold is to be forgotten now, of a processor that rests, has executed so many instructions and has so many translated: [`Idle::forgot`] follows.
    pub fn is_due(&mut self, now: Instant, executed: u64, translated: usize) -> bool {
        let watched = now - self.since;
        if watched < self.pause(translated) {
            return false;
        }
        let new = executed.wrapping_sub(self.executed);
        (self.since, self.executed) = (now, executed);
        let is_idle = new as f64 <= IDLE_INSTRUCTIONS as f64 * watched.as_secs_f64();
        if !is_idle {
            self.pause = FIRST;
        }
        is_idle && translated > LITTLE
    }

    /// Of so many translated instructions so many are left.
    pub fn forgot(&mut self, of: usize, left: usize) {
        self.left = left;
        self.pause = if left > of / 4 * 3 { (self.pause * 2).min(LONGEST) } else { FIRST };
    }

    /// How long it may rest until it is to be looked again; for ever if it has little translated.
    pub fn rests(&self, now: Instant, translated: usize) -> Option<Duration> {
        (translated > LITTLE).then(|| self.pause(translated).saturating_sub(now - self.since).max(FIRST))
    }

    /// Much that is new may soon be cold.
    fn pause(&self, translated: usize) -> Duration {
        if translated > self.left / 2 * 3 { FIRST } else { self.pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks each second at a processor with so much translated, of which `needed` is executed at least so often, s; gives at which seconds cold code was forgotten.
    fn looks(
        idle: &mut Idle,
        begun: Instant,
        seconds: std::ops::Range<u64>,
        mut translated: usize,
        needed: usize,
    ) -> Vec<u64> {
        let mut forgotten = Vec::new();
        for second in seconds {
            let now = begun + Duration::from_secs(second);
            if idle.is_due(now, second * 1_000_000, translated) {
                idle.forgot(translated, needed);
                translated = needed;
                forgotten.push(second);
            }
        }
        forgotten
    }

    #[test]
    fn where_little_is_cold_it_is_looked_ever_more_rarely_and_soon_again_after_much_is_new() {
        let begun = Instant::now();
        let mut idle = Idle::new(begun);
        assert_eq!(looks(&mut idle, begun, 0..300, 200_000, 30_000), [8, 16, 32, 64, 128, 192, 256]);
        assert_eq!(idle.rests(begun + Duration::from_secs(300), 30_000), Some(Duration::from_secs(20)));
        assert_eq!(looks(&mut idle, begun, 300..310, 100_000, 30_000), [300, 308]);
    }

    #[test]
    fn of_a_busy_one_or_one_with_little_nothing_is_forgotten() {
        let begun = Instant::now();
        let mut idle = Idle::new(begun);
        assert!(looks(&mut idle, begun, 0..100, LITTLE, LITTLE).is_empty());
        assert_eq!(idle.rests(begun, LITTLE), None);
        let mut executed = 100_000_000;
        for second in 100..200 {
            executed += 2 * IDLE_INSTRUCTIONS;
            assert!(!idle.is_due(begun + Duration::from_secs(second), executed, 200_000));
        }
        assert_eq!(idle.rests(begun + Duration::from_secs(199), 200_000), Some(FIRST));
        assert!(!idle.is_due(begun + Duration::from_secs(200), executed, 200_000));
        assert!(idle.is_due(begun + Duration::from_secs(208), executed + 1, 200_000));
    }
}
