//! Has the kernel choose anew who runs each millisecond, where many guests share a processor.
//!
//! The kernel looks at its clock tick whether whoever runs has had their slice: every 4 ms with the kernels of most distributions (`CONFIG_HZ`). With twenty
//! guests on a processor each waits for 80 ms and more, however little each is due, and a quota of 1 ms is used up after four. It also looks whenever
//! somebody is woken: a thread of the highest class that sleeps for a millisecond, does nothing and sleeps again makes it look as often as
//! that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

/// How often the kernel is to look.
const BEAT: Duration = Duration::from_millis(1);
/// Above this many guests on a processor that want more, none would wait for less than some 20 ms.
const CROWD: f64 = 4.0;

/// Whether it is worth its beats for so many guests that want processors, where it already is or is not.
pub fn is_crowded(busy: usize, processors: f64, is_there: bool) -> bool {
    let crowd = if is_there { CROWD * 0.75 } else { CROWD };
    busy as f64 > crowd * processors
}

/// A thread for each processor that this process may use. They end with it.
#[derive(Debug)]
pub struct Metronome {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Metronome {
    /// Begins. Where control groups say who may be of the highest class (`CONFIG_RT_GROUP_SCHED`), threads go to the group at `home`.
    ///
    /// # Errors
    /// If the kernel does not let them be of the highest class.
    pub fn begin(home: Option<&Path>) -> io::Result<Self> {
        let mut all = Self { over: Arc::default(), threads: Vec::new() };
        let processors = sched_getaffinity(None)?;
        for processor in (0..CpuSet::MAX_CPU).filter(|processor| processors.is_set(*processor)) {
            let (told, hear) = mpsc::channel();
            let (over, home) = (Arc::clone(&all.over), home.map(PathBuf::from));
            let beat = move || {
                let ready = rise(processor, home.as_deref());
                let beats = ready.is_ok();
                // Who asked is there until it has heard this.
                let _ = told.send(ready);
                while beats && !over.load(Ordering::Relaxed) {
                    std::thread::sleep(BEAT);
                }
            };
            all.threads.push(std::thread::Builder::new().name("metronome".into()).spawn(beat)?);
            hear.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))?;
        }
        Ok(all)
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has nothing more to do.
            let _ = thread.join();
        }
    }
}

/// Has this thread be the first of all on that processor, and stay there.
fn rise(processor: usize, home: Option<&Path>) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only)?;
    be_first().or_else(|error| {
        let home = home.ok_or(error)?;
        fs::write(home.join("tasks"), gettid().as_raw_pid().to_string())?;
        be_first()
    })
}

/// SCHED_FIFO (sched(7)), of the least priority in it; threads that it made would not have it.
fn be_first() -> io::Result<()> {
    let least = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads a structure of ours, and of this thread's memory nothing changes.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &least) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has a thread of the usual class take slices of no more than a beat (sched_setattr(2); since Linux 6.12, others keep their slices).
pub fn shorten(thread: i32) {
    // SAFETY: zeroes are one.
    let mut slices: libc::sched_attr = unsafe { std::mem::zeroed() };
    slices.size = size_of::<libc::sched_attr>() as u32;
    slices.sched_policy = libc::SCHED_OTHER as u32;
    slices.sched_runtime = BEAT.as_nanos() as u64;
    // A thread that has ended needs none, and one that keeps its slices has others wait longer, no more.
    // SAFETY: the kernel reads a structure of ours, of the size that is said in it.
    unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const slices, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scheduling classes of this process' threads of that name (proc(5), stat).
    fn classes() -> Vec<String> {
        let of = |thread: fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            (name == "metronome").then(|| rest.split_whitespace().nth(38).unwrap_or_default().to_owned())
        };
        fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(of).collect()
    }

    #[test]
    fn there_is_one_of_the_highest_class_for_each_processor_until_it_ends() {
        match Metronome::begin(None) {
            Ok(metronome) => {
                let processors = sched_getaffinity(None).unwrap().count() as usize;
                assert_eq!(classes(), vec![libc::SCHED_FIFO.to_string(); processors]);
                drop(metronome);
            }
            // Not everybody may do it, nor every group of root's.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        // The kernel lists a thread for a moment after it has been waited for.
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while !classes().is_empty() {
            assert!(std::time::Instant::now() < end, "{:?}", classes());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_slice_is_a_beat_where_the_kernel_has_such_slices() {
        shorten(gettid().as_raw_pid());
        // SAFETY: zeroes are one.
        let mut now: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the kernel writes a structure of ours, and no more of it than is said.
        let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size, 0) };
        assert!(done == 0 && [0, 1_000_000].contains(&now.sched_runtime), "{}", now.sched_runtime);
    }

    #[test]
    fn it_comes_with_more_than_four_on_a_processor_and_goes_with_three() {
        assert_eq!([4, 5].map(|busy| is_crowded(busy, 1.0, false)), [false, true]);
        assert_eq!([3, 4].map(|busy| is_crowded(busy, 1.0, true)), [false, true]);
        assert!(!is_crowded(8, 2.0, false) && is_crowded(9, 2.0, false));
    }
}
