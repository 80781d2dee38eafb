//! What the kernel says of a guest's process each second: what its processors did, and the memory it takes (proc(5)). Files are opened once:
//! reading one that is open costs a microsecond.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// A guest's process as it is looked at.
#[derive(Debug)]
pub struct Look {
    pid: u32,
    /// The scheduler's figures of each thread that is a processor of the guest.
    processors: Vec<File>,
    memory: File,
}

/// What the processors have done by now, all together, and the memory that the process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How many processors there are.
    pub processors: u32,
    /// They ran, ns.
    pub run: u64,
    /// They had work and waited for a processor of the host, ns.
    pub ready: u64,
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

    /// What it has done.
    ///
    /// # Errors
    /// If it is gone.
    pub fn now(&self) -> io::Result<Seen> {
        let mut seen = Seen { processors: self.processors.len() as u32, run: 0, ready: 0, resident: 0 };
        for processor in &self.processors {
            let [run, ready] = numbers(processor)?;
            (seen.run, seen.ready) = (seen.run + run, seen.ready + ready);
        }
        let [_, resident] = numbers(&self.memory)?;
        seen.resident = resident * rustix::param::page_size() as u64;
        Ok(seen)
    }
}

fn processors(pid: u32) -> io::Result<Vec<File>> {
    let is_processor = |name: &str| {
        let number = name.trim_end().strip_prefix("vcpu");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if is_processor(&name) {
            // It may just have ended.
            found.extend(File::open(thread.path().join("schedstat")));
        }
    }
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
        while look.now().map_or(0, |seen| seen.run) == 0 && Instant::now() < deadline {
            look.again();
        }
        let seen = look.now().unwrap();
        assert!(seen.run > 0 && seen.processors == 1 && seen.resident > 1 << 20, "{seen:?}");
        drop(stop);
        thread.join().unwrap();
        assert!(look.now().is_err(), "its thread is gone");
        look.again();
        assert_eq!(look.now().unwrap().processors, 0);
    }
}
