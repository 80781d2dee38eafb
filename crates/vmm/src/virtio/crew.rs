//! Threads of a device whose work blocks: disks.
//!
//! One thread is there as long as the crew, and waits for the queues' kicks itself: a request has one thread to wake, not two.
//! Others join it while there is more to do than it gets done, and go home when there has been nothing for a while.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Builder;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::reactor::{Handle, Rest};

/// How long a thread waits for work before it goes home.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a crew does.
pub trait Work: Send + Sync + 'static {
    /// Serves queue `queue` until it is empty or `crew` is [resting](Calls::resting): then true, it is called again.
    fn serve(&self, queue: usize, crew: &Calls) -> bool;
}

/// The crew. Dropping it ends its threads: when the drop returns none of them works.
pub struct Crew {
    calls: Calls,
}

/// How a crew is called, by its own threads.
#[derive(Clone)]
pub struct Calls {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    most: usize,
    work: Box<dyn Work>,
    kicks: Vec<Arc<EventFd>>,
    /// Ends the first thread's wait for kicks.
    wake: EventFd,
    state: Mutex<State>,
    /// There is work, or no more of it ever.
    called: Condvar,
    /// Somebody has stopped working.
    quiet: Condvar,
}

#[derive(Default)]
struct State {
    /// Queues that have work, each once.
    waiting: VecDeque<usize>,
    threads: usize,
    /// How many wait for `called`, and whether the first one waits for kicks.
    idle: usize,
    first_waits: bool,
    working: usize,
    paused: bool,
    ended: bool,
}

type Guard<'a> = MutexGuard<'a, State>;
/// What a thread does until it goes home.
type Life = for<'a> fn(&'a Calls, Guard<'a>);

impl State {
    fn mark(&mut self, queue: usize) {
        if !self.waiting.contains(&queue) {
            self.waiting.push_back(queue);
        }
    }
}

impl Crew {
    /// A crew of at most `most` threads called `name`, for queues with these kicks, which rests with the machine.
    ///
    /// # Errors
    /// If the kernel gives no thread or descriptor.
    pub fn start(
        name: &str,
        most: usize,
        kicks: Vec<Arc<EventFd>>,
        work: impl Work,
        reactor: &Handle,
    ) -> io::Result<Crew> {
        let shared = Arc::new(Shared {
            name: name.into(),
            most,
            work: Box::new(work),
            kicks,
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            state: Mutex::default(),
            called: Condvar::new(),
            quiet: Condvar::new(),
        });
        let weak: Weak<Shared> = Arc::downgrade(&shared);
        reactor.rest_too(weak);
        let crew = Crew { calls: Calls { shared } };
        crew.calls.join_in(crew.calls.shared.lock(), Calls::first)?;
        Ok(crew)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let shared = &self.calls.shared;
        let mut state = shared.lock();
        state.ended = true;
        shared.called.notify_all();
        shared.wake_first();
        while state.threads > 0 {
            state = shared.quiet.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Calls {
    /// There is more work in queue `queue` than the caller gets done.
    pub fn call(&self, queue: usize) {
        let mut state = self.shared.lock();
        state.mark(queue);
        if state.idle > 0 {
            self.shared.called.notify_one();
        } else if state.first_waits {
            self.shared.wake_first();
        } else if state.threads < self.shared.most && !state.paused && !state.ended {
            // If there can be no more threads, these do it in their time.
            let _ = self.join_in(state, Calls::helper);
        }
    }

    /// Whether the threads are to stop what they do as soon as they can.
    pub fn resting(&self) -> bool {
        let state = self.shared.lock();
        state.paused || state.ended
    }

    /// One more thread.
    fn join_in(&self, mut state: Guard<'_>, life: Life) -> io::Result<()> {
        let mine = self.clone();
        let body = move || {
            life(&mine, mine.shared.lock());
            mine.shared.lock().threads -= 1;
            mine.shared.quiet.notify_all();
        };
        Builder::new().name(self.shared.name.clone()).spawn(body)?;
        state.threads += 1;
        Ok(())
    }

    /// The life of the first thread.
    fn first<'a>(&'a self, mut state: Guard<'a>) {
        let shared = &self.shared;
        while !state.ended {
            state = match self.work(state) {
                Ok(state) => state,
                Err(state) if state.paused => {
                    shared.called.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
                Err(mut state) => {
                    state.first_waits = true;
                    drop(state);
                    let kicked = shared.wait_for_kicks();
                    let mut state = shared.lock();
                    state.first_waits = false;
                    kicked.into_iter().for_each(|queue| state.mark(queue));
                    state
                }
            };
        }
    }

    /// The life of another one.
    fn helper<'a>(&'a self, mut state: Guard<'a>) {
        while !state.ended {
            state = match self.work(state) {
                Ok(state) => state,
                Err(mut state) => {
                    state.idle += 1;
                    let waited = self.shared.called.wait_timeout(state, PATIENCE);
                    let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                    if timeout.timed_out() && state.waiting.is_empty() {
                        return;
                    }
                    state
                }
            };
        }
    }

    /// Serves the next queue; an error if there is none, or it is no time for work.
    fn work<'a>(&'a self, mut state: Guard<'a>) -> Result<Guard<'a>, Guard<'a>> {
        let next = if state.paused { None } else { state.waiting.pop_front() };
        let Some(queue) = next else { return Err(state) };
        state.working += 1;
        drop(state);
        let again = self.shared.work.serve(queue, self);
        let mut state = self.shared.lock();
        state.working -= 1;
        if again {
            state.mark(queue);
        }
        self.shared.quiet.notify_all();
        Ok(state)
    }
}

impl Shared {
    fn lock(&self) -> Guard<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_first(&self) {
        // A counter that is full wakes it as well.
        let _ = self.wake.write(1);
    }

    /// Waits until a queue is kicked or somebody wakes us; gives the queues that were kicked.
    fn wait_for_kicks(&self) -> Vec<usize> {
        let all = self.kicks.iter().map(Arc::as_ref).chain([&self.wake]);
        let wait_for =
            |event: &EventFd| libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut fds: Vec<_> = all.map(wait_for).collect();
        // SAFETY: the list is ours and as long as it says. A wait that a signal ends is as good as one that found nothing.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
        let _ = self.wake.read();
        let kicked = |(_, kick): &(usize, &Arc<EventFd>)| kick.read().is_ok();
        self.kicks.iter().enumerate().filter(kicked).map(|(queue, _)| queue).collect()
    }
}

impl Rest for Shared {
    fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        while state.working > 0 {
            state = self.quiet.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn resume(&self) {
        self.lock().paused = false;
        self.called.notify_all();
    }
}
