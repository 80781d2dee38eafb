//! What the kernel says of a guest's process each second: what its processors did, and the memory it takes (proc(5)).

use std::fs::File;
use std::io;

use vmm::figures::{Page, now_ns};

use super::stack::Done;
use crate::vcpus::{self, Vcpu, numbers};

/// A guest's process as it is looked at.
#[derive(Debug)]
pub struct Look {
    pid: u32,
    processors: Vec<Vcpu>,
    memory: File,
}

/// What the processors have done by now, and the memory that the process takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What each processor has done, by its number.
    pub processors: Vec<(u32, Done)>,
    /// Bytes.
    pub resident: u64,
}

impl Look {
    /// Looks at a process from now on.
    ///
    /// # Errors
    /// If it is gone, or the kernel does not say what it does.
    pub fn at(pid: u32) -> io::Result<Self> {
        let memory = File::open(format!("/proc/{pid}/statm"))?;
        Ok(Self { pid, processors: vcpus::of(pid)?, memory })
    }

    /// Looks for its processors again: there may be more or fewer.
    pub fn again(&mut self) {
        if let Ok(found) = vcpus::of(self.pid) {
            self.processors = found;
        }
    }

    /// What it has done; `figures` are what the process says of itself.
    ///
    /// # Errors
    /// If it is gone.
    pub fn now(&self, figures: Option<&Page>) -> io::Result<Seen> {
        let mut processors = Vec::with_capacity(self.processors.len());
        for vcpu in &self.processors {
            let halted = figures.and_then(|page| page.halted_ns(vcpu.number, now_ns()));
            let done = vcpu.done()?;
            let kept = figures.map_or(0, |page| page.kept_ns(vcpu.number));
            processors.push((vcpu.number, Done { run: done.ran, ready: done.waited, kept, halted }));
        }
        let [_, resident] = numbers(&self.memory)?;
        Ok(Seen { processors, resident: resident * rustix::param::page_size() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_processor_that_works_is_seen_to_run_until_it_is_gone() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let work = move || while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {};
        let thread = std::thread::Builder::new().name("vcpu0".into()).spawn(work).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut look = Look::at(std::process::id()).unwrap();
        // The name is set by the thread itself.
        let run = |look: &Look| look.now(None).unwrap().processors.first().map_or(0, |(_, done)| done.run);
        while run(&look) == 0 && Instant::now() < deadline {
            look.again();
        }
        let seen = look.now(None).unwrap();
        let [(0, done)] = seen.processors[..] else { panic!("{seen:?}") };
        assert!(done.run > 0 && done.halted.is_none() && seen.resident > 1 << 20, "{seen:?}");
        drop(stop);
        thread.join().unwrap();
        assert!(look.now(None).is_err(), "its thread is gone");
        look.again();
        assert!(look.now(None).unwrap().processors.is_empty());
    }
}
