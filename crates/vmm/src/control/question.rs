//! When a guest is asked anew what it says of its memory: a question wakes it, and one that has done nothing would say the same again. Of hundreds of
//! idle guests each would be woken for it every few seconds.

use std::time::{Duration, Instant};

/// A guest that has run for so long since, ns, may say something else.
const RUN: u64 = 100_000_000;
/// So may one whose process has come to have so many bytes more or less.
const CHANGE: u64 = 4 << 20;
/// Any is asked now and then.
const LONGEST: Duration = Duration::from_secs(60);

/// What was so when it was asked last.
#[derive(Debug, Default)]
pub(super) struct Question {
    asked: Option<(Instant, u64, u64)>,
}

impl Question {
    /// Whether it is asked now, at a time when it has not answered yet or it has, when its process has used so much processor time, ns, and
    /// has so many bytes of memory.
    pub(super) fn is_due(&mut self, answered: bool, now: Instant, run: u64, resident: u64) -> bool {
        let same = self.asked.is_some_and(|(at, ran, was)| {
            answered
                && now.saturating_duration_since(at) < LONGEST
                && run.saturating_sub(ran) < RUN
                && resident.abs_diff(was) < CHANGE
        });
        if !same {
            self.asked = Some((now, run, resident));
        }
        !same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_guest_is_asked_once_a_minute_and_one_that_does_something_each_time() {
        let mut question = Question::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(question.is_due(false, at(0), 0, 0), "it was never asked");
        assert!(question.is_due(false, at(5), 0, 0), "it has not answered");
        assert!(!question.is_due(true, at(10), RUN / 2, CHANGE / 2));
        assert!(!question.is_due(true, at(64), RUN - 1, CHANGE - 1));
        assert!(question.is_due(true, at(65), RUN - 1, CHANGE - 1), "a minute is over");
        assert!(question.is_due(true, at(66), 2 * RUN, CHANGE - 1), "it has run");
        assert!(question.is_due(true, at(67), 2 * RUN, 4 * CHANGE), "it has taken memory");
        assert!(question.is_due(true, at(68), 2 * RUN, 3 * CHANGE), "it has given some back");
        assert!(!question.is_due(true, at(69), 2 * RUN, 3 * CHANGE));
    }
}
