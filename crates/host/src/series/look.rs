//! What the kernel says of a guest's process each second: what its processors did, and the memory it takes (proc(5)). Files are opened once:
//! reading one that is open costs a microsecond.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use vmm::figures::{Page, now_ns};

use super::stack::Done;

/// A guest's process as it is looked at.
#[derive(Debug)]
pub struct Look {
    pid: u32,
    /// The scheduler's figures of each thread that is a processor of the guest, by its number.
    processors: Vec<(u32, File)>,
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
        Ok(Self { pid, processors: processors(pid)?, memory })
    }

    /// Looks for its processors again: there may be more or fewer.
    pub fn again(&mut self) {
        if let Ok(found) = processors(self.pid) {
            self.processors = found;
        }
    }

    /// What it has done; `figures` are what the process says of itself.
    ///
    /// # Errors
    /// If it is gone.
    pub fn now(&self, figures: Option<&Page>) -> io::Result<Seen> {
        let mut processors = Vec::with_capacity(self.processors.len());
        for (number, file) in &self.processors {
            let halted = figures.and_then(|page| page.halted_ns(*number, now_ns()));
            let [run, ready] = numbers(file)?;
            processors.push((*number, Done { run, ready, halted }));
        }
        let [_, resident] = numbers(&self.memory)?;
        Ok(Seen { processors, resident: resident * rustix::param::page_size() as u64 })
    }
}

fn processors(pid: u32) -> io::Result<Vec<(u32, File)>> {
    let number = |name: &str| name.trim_end().strip_prefix("vcpu")?.parse().ok();
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if let Some(number) = number(&name) {
            // It may just have ended.
            found.extend(File::open(thread.path().join("schedstat")).map(|file| (number, file)));
        }
    }
    found.sort_by_key(|(number, _)| *number);
    Ok(found)
}

/// The first two numbers in a file.
fn numbers(file: &File) -> io::Result<[u64; 2]> {
    let mut text = [0; 128];
    let length = file.read_at(&mut text, 0)?;
    let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0));
    match (words.next(), words.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => Err(io::ErrorKind::InvalidData.into()),
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
