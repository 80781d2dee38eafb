//! How long the kernel is to let the processors of guests run at once that have little.
//!
//! A thread that the kernel chooses runs for a slice (0.7 ms to 2.8 ms, by the number of processors), and what each gets is right to within one slice: whoever has 0.05 of a processor waits up to 50 ms for its next one. Since Linux 6.12
//! each thread may have a slice of its own (`sched_runtime` of SCHED_OTHER, sched_setattr(2)), and later its control group goes by the shortest one in it; older kernels take no notice.

use std::io;
use std::time::Duration;

use api::Id;
use vmm_sys_util::syscall::SyscallReturnCode;

use super::per_processor::PerProcessor;

/// Every so many times it is looked whether processors of all guests have come: there may be hundreds of guests, and one more processor makes no haste.
const LOOKS: u32 = 10;

/// Which guests' processors have slices of their own.
#[derive(Debug)]
pub struct Slices {
    processors: PerProcessor<()>,
    looks: u32,
}

impl Slices {
    /// Nobody's yet.
    pub fn none() -> Self {
        Self { processors: PerProcessor::new(set, "it has the kernel's slices"), looks: 0 }
    }

    /// The processors of a guest whose process this is have slices of that length, or the kernel's again.
    pub fn set(&mut self, id: Id, pid: Option<u32>, length: Option<Duration>) {
        if length.is_none() {
            for thread in self.processors.threads(id) {
                // Who has just ended needs none.
                let _ = set(thread, Duration::ZERO);
            }
        }
        self.processors.set(id, pid, length);
    }

    /// Takes care of processors that have come or gone meanwhile, and leaves the guests that do not run any more.
    pub fn keep(&mut self, runs: impl Fn(&Id) -> bool) {
        self.looks = self.looks.wrapping_add(1);
        self.processors.keep(runs, self.looks.is_multiple_of(LOOKS));
    }
}

/// Gives a thread slices of that length; 0 is the kernel's own.
fn set(thread: u32, length: Duration) -> io::Result<()> {
    let mut attributes = attributes(thread)?;
    if !matches!(attributes.sched_policy as libc::c_int, libc::SCHED_OTHER | libc::SCHED_BATCH) {
        // Somebody wants it otherwise: what these have means something else.
        return Ok(());
    }
    attributes.sched_runtime = length.as_nanos() as u64;
    // SAFETY: the structure says its own size, and is read.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0) };
    SyscallReturnCode(done).into_empty_result()
}

fn attributes(thread: u32) -> io::Result<libc::sched_attr> {
    // SAFETY: all of it is numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: no more than `size` is written, which is how long it is.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, thread, &raw mut attributes, size, 0) };
    SyscallReturnCode(done).into_empty_result()?;
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// A slice of its own of a thread, ns.
    fn slice(thread: u32) -> u64 {
        attributes(thread).unwrap().sched_runtime
    }

    #[test]
    fn a_processor_has_the_slice_that_is_set_until_none_is() {
        let (tells, told) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("vcpu0".into()).spawn(move || {
            tells.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            let _ = ends.recv();
        });
        let thread_id = told.recv().unwrap();
        let (mut slices, id, pid) = (Slices::none(), Id::new(), Some(std::process::id()));
        let usual = slice(thread_id);
        let begun = Instant::now();
        // The thread gives itself its name.
        while !slices.processors.is_whole(id) {
            assert!(begun.elapsed() < Duration::from_secs(10));
            slices.set(id, pid, Some(Duration::from_micros(480)));
            slices.keep(|_| true);
        }
        let own = slice(thread_id);
        // A kernel before 6.12 says of a thread that has no deadline nothing at all.
        assert!(own == 500_000 || own == 0 && usual == 0, "{own}, {usual} before");
        slices.set(id, pid, None);
        assert_eq!(slice(thread_id), usual);
        drop(end);
        thread.unwrap().join().unwrap();
    }
}
