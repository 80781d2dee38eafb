//! What the kernel is asked to do for each processor of some guests, of which each is a thread that comes and goes.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use api::Id;

use crate::vcpus;

const STEP: Duration = Duration::from_micros(50);

/// Asks the kernel for something that has this length of a thread; what comes of it lives as long as it is wanted of that thread.
pub type Ask<T> = fn(u32, Duration) -> io::Result<T>;

/// Of which guests the kernel is asked.
#[derive(Debug)]
pub struct PerProcessor<T> {
    ask: Ask<T>,
    guests: HashMap<Id, Guest<T>>,
    /// What to say of it the first time that the kernel refuses it, if it has not been said.
    refused: Option<&'static str>,
}

#[derive(Debug)]
struct Guest<T> {
    pid: u32,
    length: Duration,
    /// By the numbers of the threads.
    asked: HashMap<u32, T>,
    /// Whether it is so for each of its processors.
    is_whole: bool,
}

/// A little more than that: what is nearly the same is not worth asking again.
fn steps(length: Duration) -> Duration {
    STEP * length.div_duration_f64(STEP).ceil() as u32
}

impl<T> PerProcessor<T> {
    /// Asks with `ask`; `refused` is what it means if that is refused.
    pub fn new(ask: Ask<T>, refused: &'static str) -> Self {
        Self { ask, guests: HashMap::new(), refused: Some(refused) }
    }

    /// Asks it of the processors of a guest whose process this is, or not any more.
    pub fn set(&mut self, id: Id, pid: Option<u32>, length: Option<Duration>) {
        let Some((pid, length)) = pid.zip(length.map(steps)) else {
            self.guests.remove(&id);
            return;
        };
        if self.guests.get(&id).is_some_and(|guest| guest.pid == pid && guest.length == length) {
            return;
        }
        let mut guest = Guest { pid, length, asked: HashMap::new(), is_whole: false };
        let done = guest.follow(self.ask);
        self.guests.insert(id, guest);
        self.tell(id, done);
    }

    /// The threads of a guest that it is asked of.
    pub fn threads(&self, id: Id) -> impl Iterator<Item = u32> {
        self.guests.get(&id).into_iter().flat_map(|guest| guest.asked.keys().copied())
    }

    /// Whether it is so for all of a guest's processors.
    pub fn is_whole(&self, id: Id) -> bool {
        self.guests.get(&id).is_some_and(|guest| guest.is_whole)
    }

    /// Whether the kernel has ever refused it.
    #[cfg(test)]
    pub fn is_refused(&self) -> bool {
        self.refused.is_none()
    }

    /// Takes care of processors that have come or gone meanwhile, also (`all`) of guests for all of whose processors it is so, and leaves the guests that do not run any more.
    pub fn keep(&mut self, runs: impl Fn(&Id) -> bool, all: bool) {
        self.guests.retain(|id, _| runs(id));
        let looked = self.guests.iter_mut().filter(|(_, guest)| all || !guest.is_whole);
        let done: Vec<_> = looked.map(|(id, guest)| (*id, guest.follow(self.ask))).collect();
        for (id, done) in done {
            self.tell(id, done);
        }
    }

    fn tell(&mut self, id: Id, done: io::Result<()>) {
        // Whoever may not do it for one may not for any.
        if let Err(error) = done
            && let Some(refused) = self.refused.take()
        {
            tracing::info!("guest {id}: {refused}: {error}");
        }
    }
}

impl<T> Guest<T> {
    /// Asks it of each thread that is a processor.
    fn follow(&mut self, ask: Ask<T>) -> io::Result<()> {
        let processors = vcpus::threads(self.pid).unwrap_or_default().into_iter();
        let threads: Vec<_> =
            processors.filter_map(|(thread, number)| number.is_some().then_some(thread)).collect();
        self.asked.retain(|thread, _| threads.contains(thread));
        let mut result = Ok(());
        for thread in threads.iter().filter(|thread| !self.asked.contains_key(thread)).collect::<Vec<_>>() {
            match ask(*thread, self.length) {
                Ok(asked) => _ = self.asked.insert(*thread, asked),
                // It may just have ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => result = Err(error),
            }
        }
        self.is_whole = !threads.is_empty() && self.asked.len() == threads.len();
        result
    }
}
