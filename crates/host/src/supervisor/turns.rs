//! Who goes on in another one's memory while others wait.
//!
//! What each has to do at first is the same work, with nothing translated and nothing in caches. Done for many at a time on few processors it takes
//! all of them several times as long as one after the other, and the first is ready no sooner than the last. So as many at a time as
//! the host has processors go on, and get their addresses if their cards cannot stand for them; what nobody waits for, as names and keys, is
//! done when no one waits for an address, and when no more than a few have gone on lately: whoever makes hundreds is always about to ask for the next.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::Id;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use vmm::figures::now_ns;

use super::Shared;

/// One's turn: it ends when this goes, or has taken too long.
#[derive(Debug)]
pub struct Turn {
    _goes: oneshot::Sender<()>,
}

/// How long a turn takes at most: what cannot be told anything must not keep others waiting.
pub const MOST: Duration = Duration::from_secs(3);
/// How often it is looked whether a guest rests.
const LOOK: Duration = Duration::from_millis(4);
/// A guest whose processors have been halted for so long, ns, has done what it had to: it waits for less only when it is asked something.
const REST: u64 = 12_000_000;
/// So many that go on within [`LATELY`] are followed by more.
const MANY: usize = 6;
const LATELY: Duration = Duration::from_secs(1);
/// One that went on less than this ago may be the first of many; it can be spoken to meanwhile.
const JUST_NOW: Duration = Duration::from_millis(200);
/// The longest that names and keys are put off.
const PATIENCE: Duration = Duration::from_secs(60);

/// The turns of a host.
#[derive(Debug)]
pub struct Turns {
    free: Arc<Semaphore>,
    /// Of those that others were preferred to for long.
    late: Arc<Semaphore>,
    /// How many wait for an address.
    waiting: AtomicUsize,
    /// Nobody does any more.
    nobody: Notify,
    /// When the last ones went on.
    lately: Mutex<VecDeque<Instant>>,
}

impl Turns {
    /// On a host with so many processors.
    pub fn new(processors: u32) -> Self {
        let free = Arc::new(Semaphore::new(processors as usize));
        let late = Arc::new(Semaphore::new(1));
        let lately = Mutex::new(VecDeque::with_capacity(MANY));
        Self { free, late, waiting: AtomicUsize::new(0), nobody: Notify::new(), lately }
    }

    /// Waits for the turn of one that goes on.
    pub async fn next(&self) -> Option<Turn> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // Whoever asked may have gone meanwhile.
        let _waits = Waits(self);
        let turn = Arc::clone(&self.free).acquire_owned().await.ok()?;
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        if lately.len() == MANY {
            lately.pop_front();
        }
        lately.push_back(Instant::now());
        Some(Turn::begin(turn))
    }

    /// Until when more are expected to go on.
    fn busy_until(&self) -> Option<Instant> {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (*lately.front()?, *lately.back()?);
        let many = lately.len() == MANY && last - first < LATELY;
        let until = last + if many { LATELY } else { JUST_NOW };
        (Instant::now() < until).then_some(until)
    }

    /// Waits for the turn of one that can be spoken to already.
    pub async fn later(&self) -> Option<Turn> {
        if let Ok(turn) = timeout(PATIENCE, self.when_nobody_waits()).await {
            return turn;
        }
        // After that long it is done beside the others, but by one at a time: all that have waited so long would keep them waiting.
        tokio::select! {
            turn = self.when_nobody_waits() => turn,
            late = Arc::clone(&self.late).acquire_owned() => {
                let free = Arc::clone(&self.free).acquire_owned().await.ok()?;
                Some(Turn::begin((free, late.ok()?)))
            }
        }
    }

    async fn when_nobody_waits(&self) -> Option<Turn> {
        loop {
            self.until_nobody_waits().await;
            if let Some(until) = self.busy_until() {
                sleep_until(until).await;
                continue;
            }
            let turn = Arc::clone(&self.free).acquire_owned().await.ok()?;
            if self.waiting.load(Ordering::SeqCst) == 0 && self.busy_until().is_none() {
                return Some(Turn::begin(turn));
            }
        }
    }

    async fn until_nobody_waits(&self) {
        loop {
            let notified = self.nobody.notified();
            if self.waiting.load(Ordering::SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Turn {
    fn begin(permit: impl Send + 'static) -> Self {
        let (_goes, gone) = oneshot::channel();
        tokio::spawn(async move {
            // Whichever comes first.
            let _ = timeout(MOST, gone).await;
            drop(permit);
        });
        Self { _goes }
    }
}

/// Somebody waits as long as this is there.
struct Waits<'a>(&'a Turns);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.nobody.notify_waiters();
        }
    }
}

/// Waits until a guest rests after it has begun to work. Where nobody says whether one does, that is never.
pub async fn rests(shared: &Shared, id: Id) {
    let mut has_begun = false;
    loop {
        sleep(LOOK).await;
        let Some(page) = shared.figures.of(id) else { continue };
        let rests = page.rests_since().map_or(0, |since| now_ns().saturating_sub(since));
        if has_begun && rests >= REST {
            return;
        }
        has_begun |= rests == 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn addresses_come_before_names_and_no_more_at_a_time_than_there_are_processors() {
        let turns = Arc::new(Turns::new(2));
        let (first, second) = (turns.next().await.unwrap(), turns.next().await.unwrap());
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let go = |what: &'static str, late: bool| {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tokio::spawn(async move {
                let turn = if late { turns.later().await } else { turns.next().await };
                order.lock().unwrap().push(what);
                sleep(Duration::from_secs(1)).await;
                drop(turn);
            })
        };
        let names = go("names", true);
        tokio::task::yield_now().await;
        let addresses = go("addresses", false);
        sleep(Duration::from_secs(1)).await;
        assert!(order.lock().unwrap().is_empty(), "both processors are taken");
        drop(first);
        addresses.await.unwrap();
        drop(second);
        names.await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["addresses", "names"]);
    }

    #[tokio::test(start_paused = true)]
    async fn names_wait_a_moment_for_others_may_follow() {
        let turns = Turns::new(2);
        drop(turns.next().await);
        let begun = Instant::now();
        drop(turns.later().await);
        assert!(begun.elapsed() >= JUST_NOW && begun.elapsed() < JUST_NOW * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn names_wait_until_nobody_has_gone_on_for_a_while_where_many_did() {
        let turns = Turns::new(2);
        let begun = Instant::now();
        // One after the other, so that there are moments in which nobody waits.
        for _ in 0..MANY - 1 {
            drop(turns.next().await);
            sleep(LATELY / 10).await;
        }
        drop(turns.later().await);
        assert!(begun.elapsed() < LATELY, "a few are not many: {:?}", begun.elapsed());
        for _ in 0..MANY {
            drop(turns.next().await);
            sleep(LATELY / 10).await;
        }
        let begun = Instant::now();
        drop(turns.later().await);
        assert!(begun.elapsed() >= LATELY * 9 / 10 && begun.elapsed() <= LATELY, "{:?}", begun.elapsed());
        let begun = Instant::now();
        drop(turns.later().await);
        assert!(begun.elapsed() < LATELY / 10, "it is over: {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_not_put_off_for_ever_and_whoever_gave_up_waits_no_more() {
        let turns = Arc::new(Turns::new(1));
        let held = turns.next().await.unwrap();
        assert!(timeout(Duration::from_secs(1), turns.next()).await.is_err());
        let begun = Instant::now();
        let waits = Arc::clone(&turns);
        let waiting = tokio::spawn(async move { waits.next().await });
        tokio::task::yield_now().await;
        let late = Arc::clone(&turns);
        let late = tokio::spawn(async move { late.later().await });
        drop(held);
        drop(waiting.await.unwrap());
        assert!(late.await.unwrap().is_some());
        assert!(begun.elapsed() <= PATIENCE + Duration::from_secs(2));
        assert_eq!(turns.waiting.load(Ordering::SeqCst), 0);
        // Somebody waits all the time.
        turns.waiting.fetch_add(1, Ordering::SeqCst);
        let begun = Instant::now();
        assert!(turns.later().await.is_some());
        assert!(begun.elapsed() >= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_have_waited_for_long_do_not_keep_one_that_goes_on_waiting() {
        let turns = Arc::new(Turns::new(2));
        // Somebody waits all the time.
        turns.waiting.fetch_add(1, Ordering::SeqCst);
        let late: Vec<_> = (0..100)
            .map(|_| {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move {
                    let turn = turns.later().await;
                    sleep(Duration::from_secs(1)).await;
                    drop(turn);
                })
            })
            .collect();
        sleep(PATIENCE + Duration::from_millis(500)).await;
        for _ in 0..10 {
            let begun = Instant::now();
            let turn = turns.next().await;
            assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
            sleep(Duration::from_secs(1)).await;
            drop(turn);
        }
        assert!(late.iter().filter(|late| late.is_finished()).count() >= 9);
        turns.waiting.fetch_sub(1, Ordering::SeqCst);
        turns.nobody.notify_waiters();
        let begun = Instant::now();
        for late in late {
            late.await.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(50), "both processors: {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_a_turn_for_longer_than_it_takes_whatever_becomes_of_it() {
        let turns = Turns::new(1);
        let stuck = turns.next().await;
        let begun = Instant::now();
        drop(turns.next().await);
        assert!(begun.elapsed() >= MOST && begun.elapsed() < MOST * 2);
        drop(stuck);
        drop(timeout(MOST / 2, turns.next()).await.unwrap());
    }
}
