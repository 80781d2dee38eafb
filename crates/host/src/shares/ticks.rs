//! Has the processors of guests that KVM executes look, now and then while they run, whether others are to run ([`vmm::figures::Looks::WhenTold`]): the kernel does at its tick only.
//!
//! A clock of the thread interrupts it (perf_event_open(2), PERF_COUNT_SW_TASK_CLOCK). It stands still while the thread sleeps, halts of the guest included, so no idle guest is woken by it; and the kernel
//! has for it a timer that is finer than the tick.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use api::Id;
use perf_event_open_sys::{bindings, ioctls, perf_event_open};

use crate::vcpus;

/// To whom a descriptor's signals go, and that it is a thread (fcntl(2), F_SETOWN_EX).
const SET_OWNER: libc::c_int = 15;
const THREAD: libc::c_int = 0;

const STEP: Duration = Duration::from_micros(50);

#[repr(C)]
struct Owner {
    kind: libc::c_int,
    thread: libc::pid_t,
}

/// Whose processors look how often.
#[derive(Debug, Default)]
pub struct Ticks {
    guests: HashMap<Id, Guest>,
    /// Whether it was said that it cannot be done.
    is_told: bool,
}

#[derive(Debug)]
struct Guest {
    pid: u32,
    period: Duration,
    /// By the numbers of the threads.
    clocks: HashMap<u32, OwnedFd>,
    /// Whether each of its processors has one.
    is_whole: bool,
}

/// A little more than that: what is nearly the same is not worth new clocks.
fn steps(period: Duration) -> Duration {
    STEP * period.div_duration_f64(STEP).ceil() as u32
}

impl Ticks {
    /// Has the processors of a guest whose process this is look each time that they have run for so long, or not any more.
    pub fn set(&mut self, id: Id, pid: Option<u32>, period: Option<Duration>) {
        let Some((pid, period)) = pid.zip(period.map(steps)) else {
            self.guests.remove(&id);
            return;
        };
        if self.guests.get(&id).is_some_and(|guest| guest.pid == pid && guest.period == period) {
            return;
        }
        let mut guest = Guest { pid, period, clocks: HashMap::new(), is_whole: false };
        let done = guest.follow();
        self.guests.insert(id, guest);
        self.tell(id, done);
    }

    /// Whether all of a guest's processors are told to look.
    pub fn are_told(&self, id: Id) -> bool {
        self.guests.get(&id).is_some_and(|guest| guest.is_whole)
    }

    /// Takes care of processors that have come or gone meanwhile, and leaves the guests that do not run any more.
    pub fn keep(&mut self, runs: impl Fn(&Id) -> bool) {
        self.guests.retain(|id, _| runs(id));
        let done: Vec<_> = self.guests.iter_mut().map(|(id, guest)| (*id, guest.follow())).collect();
        for (id, done) in done {
            self.tell(id, done);
        }
    }

    fn tell(&mut self, id: Id, done: io::Result<()>) {
        // Whoever may not do it for one may not for any.
        if let Err(error) = done
            && !std::mem::replace(&mut self.is_told, true)
        {
            tracing::info!("guest {id} lets others run only at the kernel's tick: {error}");
        }
    }
}

impl Guest {
    /// Gives each thread that is a processor a clock.
    fn follow(&mut self) -> io::Result<()> {
        let processors = vcpus::threads(self.pid).unwrap_or_default().into_iter();
        let threads: Vec<_> =
            processors.filter_map(|(thread, number)| number.is_some().then_some(thread)).collect();
        self.clocks.retain(|thread, _| threads.contains(thread));
        let mut result = Ok(());
        for thread in threads.iter().filter(|thread| !self.clocks.contains_key(thread)).collect::<Vec<_>>() {
            match clock(*thread, self.period) {
                Ok(clock) => _ = self.clocks.insert(*thread, clock),
                // It may just have ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => result = Err(error),
            }
        }
        self.is_whole = !threads.is_empty() && self.clocks.len() == threads.len();
        result
    }
}

/// Sends a thread SIGIO each time that it has run for so long, as long as the answer lives. The thread must have a handler for that.
fn clock(thread: u32, period: Duration) -> io::Result<OwnedFd> {
    let mut wanted = bindings::perf_event_attr {
        type_: bindings::PERF_TYPE_SOFTWARE,
        size: size_of::<bindings::perf_event_attr>() as u32,
        config: bindings::PERF_COUNT_SW_TASK_CLOCK.into(),
        ..Default::default()
    };
    wanted.__bindgen_anon_1.sample_period = period.as_nanos() as u64;
    // Until it is said who has its signals it does not run.
    wanted.set_disabled(1);
    let flags = bindings::PERF_FLAG_FD_CLOEXEC;
    // SAFETY: the structure says its own size, and is read.
    let fd = unsafe { perf_event_open(&raw mut wanted, thread as i32, -1, -1, flags.into()) };
    let fd = checked(fd)?;
    // SAFETY: it is new, and nobody else's.
    let clock = unsafe { OwnedFd::from_raw_fd(fd) };
    let owner = Owner { kind: THREAD, thread: thread as i32 };
    // SAFETY: `owner` is what F_SETOWN_EX reads.
    checked(unsafe { libc::fcntl(fd, SET_OWNER, &raw const owner) })?;
    // SAFETY: flags are a number.
    checked(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) })?;
    // SAFETY: the descriptor is open, and the call takes nothing else.
    checked(unsafe { ioctls::ENABLE(clock.as_raw_fd(), 0) })?;
    Ok(clock)
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{self, TryRecvError};
    use std::time::Instant;

    use super::*;

    static TICKS: AtomicU32 = AtomicU32::new(0);

    extern "C" fn count(_: libc::c_int) {
        TICKS.fetch_add(1, Ordering::SeqCst);
    }

    fn listen() {
        // SAFETY: the handler only counts; the structure is all zero but for what is set.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGIO, &raw const action, std::ptr::null_mut());
        }
    }

    #[test]
    fn a_processor_that_runs_is_told_again_and_again_and_one_that_sleeps_is_not() {
        listen();
        let (work, works) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("vcpu0".into());
        let thread = thread.spawn(move || {
            // It sleeps until it hears of work, and works until there is no one who gives any.
            while works.recv().is_ok() {
                while works.try_recv() == Err(TryRecvError::Empty) {}
            }
        });
        let (mut ticks, id, pid) = (Ticks::default(), Id::new(), std::process::id());
        let period = Duration::from_millis(1);
        let begun = Instant::now();
        // The thread gives itself its name.
        while ticks.guests.get(&id).is_none_or(|guest| guest.clocks.is_empty()) && !ticks.is_told {
            assert!(begun.elapsed() < Duration::from_secs(10));
            ticks.set(id, Some(pid), Some(period));
            ticks.keep(|_| true);
        }
        if ticks.is_told {
            eprintln!("skipped: the kernel gives no such clock to this process");
            return;
        }
        std::thread::sleep(period * 20);
        let asleep = TICKS.load(Ordering::SeqCst);
        assert!(asleep < 5, "{asleep} while it slept");
        work.send(()).unwrap();
        let begun = Instant::now();
        while TICKS.load(Ordering::SeqCst) < asleep + 10 {
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        ticks.set(id, Some(pid), None);
        // One may be on its way.
        let last = TICKS.load(Ordering::SeqCst);
        std::thread::sleep(period * 20);
        assert!(TICKS.load(Ordering::SeqCst) <= last + 1);
        drop(work);
        thread.unwrap().join().unwrap();
    }
}
