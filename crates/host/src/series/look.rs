//! What the kernel says of a guest's process each second: what its processors did, and the memory it takes (proc(5)).

use std::fs::File;
use std::io;

use vmm::figures::{Page, now_ns};

use super::halts::{self, Halts};
use super::stack::Done;
use crate::vcpus::{self, Vcpu, numbers};

/// A guest's process as it is looked at.
#[derive(Debug)]
pub struct Look {
    pid: u32,
    processors: Vec<Processor>,
    /// Whether it was looked for where the kernel counts their halts.
    sought: bool,
    memory: File,
}

/// One of its processors.
#[derive(Debug)]
struct Processor {
    vcpu: Vcpu,
    /// Where the kernel counts its halts, if the process does not say them itself.
    halts: Option<Halts>,
}

/// Those of a process that are there now.
fn processors(pid: u32) -> io::Result<Vec<Processor>> {
    Ok(vcpus::of(pid)?.into_iter().map(|vcpu| Processor { vcpu, halts: None }).collect())
}

impl Processor {
    /// What it has done; `figures` are what the process says of itself.
    fn done(&mut self, figures: Option<&Page>) -> io::Result<Done> {
        let (number, now) = (self.vcpu.number, now_ns());
        let done = self.vcpu.done()?;
        let kept = figures.map_or(0, |page| page.kept_ns(number));
        let by_kernel =
            || self.halts.as_mut()?.look(now, done.ran.saturating_add(done.waited).saturating_add(kept));
        let halted = figures.and_then(|page| page.halted_ns(number, now)).or_else(by_kernel);
        Ok(Done { run: done.ran, ready: done.waited, kept, halted })
    }
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
        Ok(Self { pid, processors: processors(pid)?, sought: false, memory })
    }

    /// Looks for its processors again: there may be more or fewer.
    pub fn again(&mut self) {
        let Ok(mut found) = processors(self.pid) else { return };
        for one in &mut found {
            let is_it = |known: &&mut Processor| known.vcpu.thread == one.vcpu.thread;
            one.halts = self.processors.iter_mut().find(is_it).and_then(|known| known.halts.take());
        }
        (self.processors, self.sought) = (found, false);
    }

    /// Looks for where the kernel counts the halts of processors of which nobody says them, once.
    fn seek(&mut self, figures: &Page) {
        if std::mem::replace(&mut self.sought, true) {
            return;
        }
        let is_silent =
            |one: &&mut Processor| one.halts.is_none() && figures.halted_ns(one.vcpu.number, 0).is_none();
        let mut silent = self.processors.iter_mut().filter(is_silent).peekable();
        if silent.peek().is_some() {
            let mut found = halts::of(self.pid).unwrap_or_default();
            silent.for_each(|one| one.halts = found.remove(&one.vcpu.number));
        }
    }

    /// What it has done; `figures` are what the process says of itself.
    ///
    /// # Errors
    /// If it is gone.
    pub fn now(&mut self, figures: Option<&Page>) -> io::Result<Seen> {
        if let Some(figures) = figures {
            self.seek(figures);
        }
        let mut processors = Vec::with_capacity(self.processors.len());
        for processor in &mut self.processors {
            processors.push((processor.vcpu.number, processor.done(figures)?));
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
        let run =
            |look: &mut Look| look.now(None).unwrap().processors.first().map_or(0, |(_, done)| done.run);
        while run(&mut look) == 0 && Instant::now() < deadline {
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
