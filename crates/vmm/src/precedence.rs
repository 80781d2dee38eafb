//! One processor before a guest's others, while somebody waits for what that one does: each time that it has done a part of it, the others rest for a moment. That
//! takes no right that a process that is locked in does not have, and nothing from other guests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::engine::Kicker;

/// So long one rests that stands back: two ticks of a guest's clock (4 ms in Debian's kernels), and longer than the parts of what is waited for take.
const REST: Duration = Duration::from_millis(8);
/// So long it runs at least before it rests again: it may hold a lock that the first one waits for.
const RUN: Duration = Duration::from_micros(500);
/// The longest that others stand back: the guest's programs are to go on, too.
const LONGEST: Duration = Duration::from_secs(5);

/// The threads that run a guest's processors, as far as one of them goes before the others.
#[derive(Default)]
pub struct Precedence {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    threads: Vec<(ThreadId, Arc<dyn Kicker>)>,
    /// Who goes first, and since when anybody has.
    first: Option<(ThreadId, Instant)>,
}

impl Precedence {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts this thread among them, which runs the processor that `kicker` kicks, until the answer is dropped.
    pub fn enter(self: &Arc<Self>, kicker: Arc<dyn Kicker>) -> Member {
        let thread = std::thread::current().id();
        self.lock().threads.push((thread, kicker));
        Member { of: Arc::clone(self), thread, ran: Instant::now() }
    }

    /// Has the others rest for a moment, if this thread is one of them. To be called for each part of what somebody waits for, and [`end`](Self::end) after the last.
    pub fn take(&self) {
        let (mut inner, thread) = (self.lock(), std::thread::current().id());
        if !inner.threads.iter().any(|(one, _)| *one == thread) {
            return;
        }
        let since = inner.first.map_or_else(Instant::now, |(_, since)| since);
        inner.first = Some((thread, since));
        if since.elapsed() < LONGEST {
            inner.threads.iter().filter(|(other, _)| *other != thread).for_each(|(_, kicker)| kicker.kick());
        }
    }

    /// They are alike again.
    pub fn end(&self) {
        self.lock().first = None;
    }

    /// Whether another thread goes before this one.
    fn is_behind(&self, thread: ThreadId) -> bool {
        self.lock().first.is_some_and(|(first, since)| first != thread && since.elapsed() < LONGEST)
    }
}

/// A thread that is one of them.
pub struct Member {
    of: Arc<Precedence>,
    thread: ThreadId,
    /// Since when it has run.
    ran: Instant,
}

impl Member {
    /// Rests for a moment if another one goes before this one. To be called whenever it was kicked.
    pub fn stand_back(&mut self) {
        if self.ran.elapsed() >= RUN && self.of.is_behind(self.thread) {
            std::thread::sleep(REST);
            self.ran = Instant::now();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.of.lock().threads.retain(|(thread, _)| *thread != self.thread);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Kicks(AtomicUsize);

    impl Kicker for Kicks {
        fn kick(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// This thread as a processor's, and another one's that does what is wanted and ends.
    struct Two {
        precedence: Arc<Precedence>,
        mine: Member,
        kicks: [Arc<Kicks>; 2],
    }

    impl Two {
        fn new() -> Self {
            let (precedence, kicks) =
                (Arc::new(Precedence::default()), [Arc::<Kicks>::default(), Arc::default()]);
            let mine = precedence.enter(kicks[0].clone());
            Self { precedence, mine, kicks }
        }

        fn other_takes_it(&self) {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _other = self.precedence.enter(self.kicks[1].clone());
                    self.precedence.take();
                });
            });
        }

        fn kicks(&self) -> [usize; 2] {
            [0, 1].map(|one| self.kicks[one].0.load(Ordering::SeqCst))
        }

        /// Whether this thread rests when it is kicked after it has run for long enough.
        fn rests(&mut self) -> bool {
            let long_ago = Instant::now() - 2 * RUN;
            self.mine.ran = long_ago;
            self.mine.stand_back();
            self.mine.ran != long_ago
        }
    }

    #[test]
    fn the_others_rest_while_one_goes_first_and_not_afterwards() {
        let mut two = Two::new();
        assert!(!two.rests());
        two.other_takes_it();
        assert_eq!((two.kicks(), two.rests()), ([1, 0], true));
        let before = two.mine.ran;
        two.mine.stand_back();
        assert_eq!(two.mine.ran, before, "it has not run for long enough");
        two.precedence.take();
        assert!(!two.rests(), "it goes first itself");
        two.other_takes_it();
        two.precedence.end();
        assert_eq!((two.kicks(), two.rests()), ([2, 0], false));
    }

    #[test]
    fn they_do_not_rest_for_ever() {
        let mut two = Two::new();
        two.other_takes_it();
        if let Some((_, since)) = &mut two.precedence.lock().first {
            *since -= LONGEST;
        }
        two.other_takes_it();
        assert_eq!((two.kicks(), two.rests()), ([1, 0], false));
        two.precedence.end();
        two.other_takes_it();
        assert_eq!((two.kicks(), two.rests()), ([2, 0], true));
    }

    #[test]
    fn whoever_is_no_processor_does_not_go_before_them() {
        let mut two = Two::new();
        let precedence = Arc::clone(&two.precedence);
        std::thread::spawn(move || precedence.take()).join().unwrap();
        assert_eq!((two.kicks(), two.rests()), ([0, 0], false));
    }
}
