//! Where the time of a guest's processors went: one stack for each, which is as high as the time is long.
//!
//! What a thread ran and for how long it waited for a processor the kernel says; as far as the kernel says that it throttled the guest, it waited
//! for its limit, and so it did while its process says that it kept still for its sake. For how long the guest had halted it the software engine says ([`vmm::figures`]), and of its own
//! processors KVM ([`super::halts`]). What is left, it was kept from going on though it wanted to: by memory that was not there yet. Where nobody says for how long it was halted, that counts as
//! halted. A halt while a disk worked on what the guest wanted
//! of it is waiting for I/O: so much of the halts as all requests took, first of the processors that ran most, which will have asked.

/// How many series a stack has.
pub const PARTS: usize = 6;

/// What a processor has done by some time, ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// It ran.
    pub run: u64,
    /// It had work and waited for a processor of the host.
    pub ready: u64,
    /// It kept still for the sake of a limit.
    pub kept: u64,
    /// The guest had nothing for it to do, if anybody says so.
    pub halted: Option<u64>,
}

/// What it did in a window of time, ns; all together are the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stack {
    /// It ran on a processor of the host.
    pub run: u64,
    /// It waited for one.
    pub ready: u64,
    /// It had had what its limit allows.
    pub limited: u64,
    /// It waited for memory of the guest that is not in the host's.
    pub memory: u64,
    /// It had nothing to do until a disk would be ready.
    pub io: u64,
    /// It had nothing to do.
    pub halted: u64,
}

impl Stack {
    /// Its parts in the order of its series.
    pub fn parts(&self) -> [u64; PARTS] {
        [self.run, self.ready, self.limited, self.memory, self.io, self.halted]
    }

    /// What a processor did in a window in which its guest was throttled for `throttled` ns.
    fn of(window: u64, before: &Done, after: &Done, throttled: u64) -> Self {
        let run = after.run.saturating_sub(before.run).min(window);
        let waited = after.ready.saturating_sub(before.ready).min(window - run);
        let rest = window - run - waited;
        let halted = before.halted.zip(after.halted).map(|(before, after)| after.saturating_sub(before));
        // A halt ends when the processor is ready again, and is seen to end when it runs.
        let kept = after.kept.saturating_sub(before.kept).min(rest);
        let halted = halted.unwrap_or(rest).min(rest - kept);
        let memory = rest - kept - halted;
        let limited = throttled.min(waited);
        Self { run, ready: waited - limited, limited: limited + kept, memory, io: 0, halted }
    }
}

/// The stacks of a guest's processors over a window in which it was throttled for so long and all requests of its disks took so long, ns.
pub fn stacks(window: u64, processors: &[(Done, Done)], throttled: u64, disks: u64) -> Vec<Stack> {
    let of = |(before, after): &(Done, Done)| Stack::of(window, before, after, throttled);
    let mut stacks: Vec<_> = processors.iter().map(of).collect();
    let mut most: Vec<_> = stacks.iter_mut().collect();
    most.sort_by_key(|stack| std::cmp::Reverse(stack.run));
    let mut left = disks;
    for stack in most {
        let io = left.min(stack.halted);
        (stack.io, stack.halted, left) = (io, stack.halted - io, left - io);
    }
    stacks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn one(run: u64, ready: u64, halted: Option<u64>, throttled: u64, disks: u64) -> [u64; PARTS] {
        let before = Done { run: 50, ready: 60, kept: 0, halted: halted.map(|_| 70) };
        let after =
            Done { run: 50 + run, ready: 60 + ready, kept: 0, halted: halted.map(|halted| 70 + halted) };
        stacks(1000, &[(before, after)], throttled, disks)[0].parts()
    }

    #[test]
    fn what_is_no_running_and_no_waiting_of_a_known_kind_is_a_halt_or_memory() {
        assert_eq!(one(300, 100, Some(600), 0, 0), [300, 100, 0, 0, 0, 600]);
        assert_eq!(one(300, 100, Some(400), 0, 0), [300, 100, 0, 200, 0, 400]);
        assert_eq!(one(300, 100, Some(400), 0, 250), [300, 100, 0, 200, 250, 150]);
        assert_eq!(one(300, 100, Some(400), 0, 900), [300, 100, 0, 200, 400, 0]);
    }

    #[test]
    fn where_halts_are_not_told_all_that_is_no_waiting_for_a_processor_is_one() {
        assert_eq!(one(300, 100, None, 0, 0), [300, 100, 0, 0, 0, 600]);
        assert_eq!(one(300, 500, None, 450, 90), [300, 50, 450, 0, 90, 110]);
    }

    #[test]
    fn a_guest_that_is_throttled_and_waits_for_memory_has_both() {
        assert_eq!(one(200, 400, Some(0), 300, 0), [200, 100, 300, 400, 0, 0]);
        // The time of two processors of the host on which it wanted to run counts twice.
        assert_eq!(one(200, 400, Some(400), 700, 0), [200, 0, 400, 0, 0, 400]);
    }

    #[test]
    fn who_kept_still_for_a_limit_was_limited_and_waited_for_no_memory() {
        let done = |run, kept, halted| Done { run, ready: 0, kept, halted };
        let one = |after| stacks(1000, &[(done(0, 50, Some(0)), after)], 0, 0)[0].parts();
        assert_eq!(one(done(100, 750, Some(150))), [100, 0, 700, 50, 0, 150]);
        // A halt that was longer than what is left is what is believed least.
        assert_eq!(one(done(100, 750, Some(900))), [100, 0, 700, 0, 0, 200]);
        assert_eq!(one(done(100, u64::MAX, Some(9))), [100, 0, 900, 0, 0, 0]);
    }

    #[test]
    fn whoever_ran_most_waited_for_the_disk() {
        let done = |run, halted| {
            (
                Done { halted: Some(0), ..Done::default() },
                Done { run, halted: Some(halted), ..Done::default() },
            )
        };
        let stacks = stacks(1000, &[done(0, 1000), done(400, 600)], 0, 500);
        assert_eq!(stacks[1].parts(), [400, 0, 0, 0, 500, 100]);
        assert_eq!(stacks[0].parts(), [0, 0, 0, 0, 0, 1000]);
    }

    proptest! {
        #[test]
        fn all_parts_together_are_the_window(
            window in 0..2 * SECOND,
            done in prop::collection::vec((any::<u64>(), any::<u64>(), any::<Option<u64>>(), any::<u64>(), any::<u64>(), any::<Option<u64>>(), any::<[u64; 2]>()), 0..5),
            throttled in 0..4 * SECOND,
            disks in any::<u64>(),
        ) {
            let processors: Vec<_> = done
                .into_iter()
                .map(|(run, ready, halted, run_after, ready_after, halted_after, [kept, kept_after])| {
                    let after = Done { run: run_after, ready: ready_after, kept: kept_after, halted: halted_after };
                    (Done { run, ready, kept, halted }, after)
                })
                .collect();
            for stack in stacks(window, &processors, throttled, disks) {
                prop_assert_eq!(stack.parts().iter().sum::<u64>(), window);
            }
        }
    }
}
