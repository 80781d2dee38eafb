//! How processors keep to a limit that is too small for the kernel to keep well.
//!
//! The kernel gives at least 1 ms at a time, so that of 0.05 of a processor in 20 ms: who has it at the beginning of one such time and at the end of the next waits 40 ms. And who has his share again goes on when the
//! kernel looks next who is to run, at a tick, 4 ms later where it has 250 of them a second. So processors keep still by themselves, in shorter times, and wake up from a sleep, which the kernel lets
//! them do at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::ClockId;

use crate::figures::{LIMIT_WINDOW, Limits, clock_ns, now_ns};

/// In this time it has its share once, ns.
const WINDOW: u64 = LIMIT_WINDOW.as_nanos() as u64;
/// It does not stop for less than it runs between two looks, ns.
const LEAST: u64 = 200_000;
/// So many shares it may have saved: who had to wait for others catches up.
const SAVED: i64 = 8;
/// So many it may have used too much: several processors look one after the other.
const OWED: i64 = 8;
/// So long it sleeps at most before it looks whether it is to do something else.
const LONGEST: Duration = Duration::from_millis(20);

/// What all processors of a machine may still use.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Processor time, ns; below 0 what was used too much.
    left: i64,
    /// The host's clock and what the machine's process had used then, ns.
    looked: Option<(u64, u64)>,
}

impl Bucket {
    /// How long to keep still at this time, when so much has been used, if that may be `rate` a second, ns.
    fn look(&mut self, rate: u64, now: u64, used: u64) -> Option<Duration> {
        let share = signed(of(rate, WINDOW).clamp(LEAST, WINDOW));
        let (then, before) = *self.looked.get_or_insert_with(|| {
            self.left = share;
            (now, used)
        });
        self.looked = Some((now, used));
        let passed = now.saturating_sub(then);
        let more = signed(of(rate, passed)).saturating_sub(signed(used.saturating_sub(before)));
        // Who did much besides executing its guest, such as saving it, does not make up for that for long.
        self.left = self.left.saturating_add(more).clamp(-share * OWED, share * SAVED);
        (self.left <= 0).then(|| {
            let lacks = (share - self.left) as u128;
            Duration::from_nanos((lacks * 1_000_000_000 / u128::from(rate.max(1))) as u64)
        })
    }
}

fn signed(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// What a rate of so much a second is in so long, ns.
fn of(rate: u64, time: u64) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(time) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// The limit that a processor keeps to.
#[derive(Debug)]
pub struct Limit {
    bucket: Arc<Mutex<Bucket>>,
    limits: Option<Limits>,
}

impl Limit {
    /// That of a processor which shares with others what is in `bucket`.
    pub fn new(bucket: Arc<Mutex<Bucket>>) -> Self {
        Self { bucket, limits: None }
    }

    /// The limit is what that says.
    pub fn follow(&mut self, limits: Limits) {
        self.limits = Some(limits);
    }

    /// Whether there is one.
    pub fn is_kept(&self) -> bool {
        self.limits.as_ref().and_then(Limits::rate).is_some()
    }

    /// Keeps still for as long as the limit has it, or until `end` says that there is something else to do. Gives how long that was.
    pub fn keep(&self, end: impl Fn() -> bool) -> Duration {
        let mut kept = Duration::ZERO;
        let Some(limits) = &self.limits else { return kept };
        while let Some(wait) = self.wait(limits) {
            if end() {
                break;
            }
            let wait = wait.min(LONGEST);
            std::thread::sleep(wait);
            // If that took longer it had to wait for a processor besides: the kernel counts that.
            limits.kept(wait);
            kept += wait;
        }
        kept
    }

    /// How long to keep still now.
    fn wait(&self, limits: &Limits) -> Option<Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = limits.rate() else {
            bucket.looked = None;
            return None;
        };
        bucket.look(rate, now_ns(), clock_ns(ClockId::ProcessCPUTime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Figures, Looks, Page};

    const MS: u64 = 1_000_000;

    /// What a guest gets in each of these times, ms, and its longest wait, ms, that always wants to run, looks ten times in a millisecond, and is let run in every time or, of `of`, in one.
    fn runs(rate: u64, times: u64, of: u64) -> (f64, f64) {
        let (mut bucket, mut now, mut used, mut since, mut longest) = (Bucket::default(), 0, 0, 0, 0);
        while now < times * MS {
            match bucket.look(rate, now, used) {
                Some(wait) => now += wait.as_nanos() as u64,
                None if (now / MS).is_multiple_of(of) => {
                    longest = longest.max(now - since);
                    (now, used) = (now + 100_000, used + 100_000);
                    since = now;
                }
                None => now += MS - now % MS,
            }
        }
        (used as f64 / now as f64, longest as f64 / MS as f64)
    }

    #[test]
    fn who_always_wants_to_run_gets_its_limit_in_short_times() {
        for limit in [0.001, 0.01, 0.05, 0.099] {
            let (got, longest) = runs((limit * 1e9) as u64, 20_000, 1);
            assert!((got / limit - 1.0).abs() < 0.02, "{got} of {limit}");
            assert!(longest <= (0.3 / limit).max(12.0), "{longest} ms at {limit}");
        }
    }

    #[test]
    fn who_has_to_wait_for_others_catches_up_and_no_more() {
        let (got, _) = runs(50 * MS, 20_000, 15);
        assert!((got / 0.05 - 1.0).abs() < 0.02, "{got}");
        let mut bucket = Bucket::default();
        assert_eq!(bucket.look(50 * MS, 0, 0), None);
        assert_eq!(bucket.look(50 * MS, 900 * MS, 0), None);
        assert_eq!(bucket.look(50 * MS, 900 * MS, 3_999_999), None, "eight shares");
        assert!(bucket.look(50 * MS, 900 * MS, 4_000_000).is_some());
    }

    #[test]
    fn what_was_done_besides_is_not_made_up_for_long() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.look(50 * MS, 0, 0), None);
        assert_eq!(bucket.look(50 * MS, 10 * MS, 5_000 * MS), Some(Duration::from_millis(90)));
        assert_eq!(bucket.look(50 * MS, 80 * MS, 5_000 * MS), Some(Duration::from_millis(20)));
        assert_eq!(
            bucket.look(50 * MS, 90 * MS, 5_000 * MS),
            Some(Duration::from_millis(10)),
            "not before it has a share"
        );
        assert_eq!(bucket.look(50 * MS, 100 * MS, 5_000 * MS), None);
    }

    #[test]
    fn who_used_less_than_it_may_while_nobody_looked_goes_on_at_once() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.look(10 * MS, 0, 0), None);
        assert_eq!(bucket.look(10 * MS, 5_000 * MS, 20 * MS), None);
        assert_eq!(bucket.look(u64::MAX, u64::MAX, 21 * MS), None, "whatever is asked for");
    }

    #[test]
    fn a_processor_keeps_still_only_where_the_daemon_says_so_and_until_it_is_to_do_something_else() {
        let (figures, (page, file)) = (Figures::new().unwrap(), Page::create().unwrap());
        figures.publish(Page::open(file).unwrap());
        let mut limit = Limit::new(Arc::default());
        limit.keep(|| panic!("there is no limit"));
        limit.follow(figures.limits(0, Looks::ByItself));
        limit.keep(|| panic!("there is none yet"));
        page.set_limit(MS);
        let begun = clock_ns(ClockId::ProcessCPUTime);
        limit.keep(|| panic!("it has its first share"));
        while clock_ns(ClockId::ProcessCPUTime) - begun < 2 * LEAST {}
        limit.keep(|| true);
        assert_eq!(page.all_kept_ns(), 0);
        // Other tests may run meanwhile in this process: it looks as if it did not have enough.
        let looks = std::cell::Cell::new(0);
        limit.keep(|| looks.replace(looks.get() + 1) == 3);
        assert!(page.kept_ns(0) >= 3 * LONGEST.as_nanos() as u64 && page.kept_ns(1) == 0);
    }
}
