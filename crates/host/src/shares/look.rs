//! How much of a processor a guest would take if it were alone: of each of its processors' threads, the part of the time in which it did not
//! wait for others that it ran (proc(5), schedstat).

use std::io;

use crate::vcpus::{self, Done, Vcpu};

/// The threads that are a guest's processors.
#[derive(Debug)]
pub struct Look {
    threads: Vec<(Vcpu, Done)>,
}

/// What they did since the last look, ns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Did {
    /// They ran.
    pub ran: u64,
    /// What they would have taken, processors.
    pub asked: f64,
}

impl Look {
    /// Looks at a process from now on.
    ///
    /// # Errors
    /// If it is gone.
    pub fn at(pid: u32) -> io::Result<Self> {
        let with = |vcpu: Vcpu| vcpu.done().map(|done| (vcpu, done));
        let threads = vcpus::of(pid)?.into_iter().map(with).collect::<io::Result<_>>()?;
        Ok(Self { threads })
    }

    /// What they did in the last `window`, ns, in which they were looked at.
    ///
    /// # Errors
    /// If one is gone.
    pub fn again(&mut self, window: u64) -> io::Result<Did> {
        let mut did = Did { ran: 0, asked: 0.0 };
        for (vcpu, before) in &mut self.threads {
            let now = vcpu.done()?;
            let (ran, waited) =
                (now.ran.saturating_sub(before.ran), now.waited.saturating_sub(before.waited));
            did.ran += ran;
            did.asked += asked(window, ran, waited);
            *before = now;
        }
        Ok(did)
    }
}

/// What a thread would have taken of one processor.
fn asked(window: u64, ran: u64, waited: u64) -> f64 {
    if ran == 0 {
        // One that has not even begun wants some.
        return if waited > 0 { 1.0 } else { 0.0 };
    }
    // A wait counts when it ends, and may have begun before.
    let own = window.saturating_sub(waited).max(ran);
    ran as f64 / own as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_ran_whenever_they_could_wants_a_whole_processor() {
        for (ran, waited, wanted) in [
            (250, 0, 1.0),
            (50, 200, 1.0),
            (25, 0, 0.1),
            (25, 125, 0.2),
            (0, 0, 0.0),
            (0, 10, 1.0),
            (10, 400, 1.0),
        ] {
            assert!((asked(250, ran, waited) - wanted).abs() < 1e-9, "{ran} {waited}");
        }
    }

    #[test]
    fn threads_called_vcpu_are_looked_at() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let work = move || while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {};
        let thread = std::thread::Builder::new().name("vcpu0".into()).spawn(work).unwrap();
        let start = std::time::Instant::now();
        let mut look = Look::at(std::process::id()).unwrap();
        // The name is set by the thread itself.
        while look.threads.is_empty() && start.elapsed().as_secs() < 10 {
            look = Look::at(std::process::id()).unwrap();
        }
        let mut ran = 0;
        while ran == 0 && start.elapsed().as_secs() < 20 {
            ran = look.again(1_000_000).unwrap().ran;
        }
        assert!(ran > 0 && look.threads.len() == 1);
        drop(stop);
        thread.join().unwrap();
        // The kernel has a thread for a moment after it has been waited for.
        let joined = std::time::Instant::now();
        while look.again(1_000_000).is_ok() {
            assert!(joined.elapsed().as_secs() < 10, "it is gone");
        }
    }
}
