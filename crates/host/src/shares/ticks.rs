//! Has the processors of guests that KVM executes look, now and then while they run, whether others are to run ([`vmm::figures::Looks::WhenTold`]): the kernel does at its tick only.
//!
//! A clock of the thread interrupts it (perf_event_open(2), PERF_COUNT_SW_TASK_CLOCK). It stands still while the thread sleeps, halts of the guest included, so no idle guest is woken by it; and the kernel
//! has for it a timer that is finer than the tick.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use perf_event_open_sys::{bindings, ioctls, perf_event_open};
use vmm_sys_util::syscall::SyscallReturnCode;

use super::per_processor::PerProcessor;

/// To whom a descriptor's signals go, and that it is a thread (fcntl(2), F_SETOWN_EX).
const SET_OWNER: libc::c_int = 15;
const THREAD: libc::c_int = 0;

#[repr(C)]
struct Owner {
    kind: libc::c_int,
    thread: libc::pid_t,
}

/// Whose processors look how often, each by a clock of its own.
pub type Ticks = PerProcessor<OwnedFd>;

impl Ticks {
    /// Nobody's yet.
    pub fn none() -> Self {
        Self::new(clock, "it lets others run only at the kernel's tick")
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
    let fd = SyscallReturnCode(fd).into_result()?;
    // SAFETY: it is new, and nobody else's.
    let clock = unsafe { OwnedFd::from_raw_fd(fd) };
    let owner = Owner { kind: THREAD, thread: thread as i32 };
    // SAFETY: `owner` is what F_SETOWN_EX reads.
    SyscallReturnCode(unsafe { libc::fcntl(fd, SET_OWNER, &raw const owner) }).into_empty_result()?;
    // SAFETY: flags are a number.
    SyscallReturnCode(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) }).into_empty_result()?;
    // SAFETY: the descriptor is open, and the call takes nothing else.
    SyscallReturnCode(unsafe { ioctls::ENABLE(clock.as_raw_fd(), 0) }).into_empty_result()?;
    Ok(clock)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{self, TryRecvError};
    use std::time::Instant;

    use api::Id;

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
        let (mut ticks, id, pid) = (Ticks::none(), Id::new(), std::process::id());
        let period = Duration::from_millis(1);
        let begun = Instant::now();
        // The thread gives itself its name.
        while !ticks.is_whole(id) && !ticks.is_refused() {
            assert!(begun.elapsed() < Duration::from_secs(10));
            ticks.set(id, Some(pid), Some(period));
            ticks.keep(|_| true, true);
        }
        if ticks.is_refused() {
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
