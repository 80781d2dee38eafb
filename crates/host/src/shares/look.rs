//! How much of a processor a guest would take if it were alone: of each of its processors' threads, the part of the time in which it did not
//! wait for others that it ran (proc(5), schedstat).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// What a thread has done by now, ns.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Done {
    ran: u64,
    waited: u64,
}

/// The threads that are a guest's processors.
#[derive(Debug)]
pub struct Look {
    threads: Vec<(File, Done)>,
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
        let mut threads = Vec::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            let number = name.trim_end().strip_prefix("vcpu");
            if number.is_some_and(|number| number.parse::<u32>().is_ok())
                && let Ok(file) = File::open(thread.path().join("schedstat"))
            {
                let done = done(&file)?;
                threads.push((file, done));
            }
        }
        Ok(Self { threads })
    }

    /// What they did in the last `window`, ns, in which they were looked at.
    ///
    /// # Errors
    /// If one is gone.
    pub fn again(&mut self, window: u64) -> io::Result<Did> {
        let mut did = Did { ran: 0, asked: 0.0 };
        for (file, before) in &mut self.threads {
            let now = done(file)?;
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

fn done(file: &File) -> io::Result<Done> {
    let mut text = [0; 96];
    let length = file.read_at(&mut text, 0)?;
    let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0));
    match (words.next(), words.next()) {
        (Some(ran), Some(waited)) => Ok(Done { ran, waited }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
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
        assert!(look.again(1_000_000).is_err(), "it is gone");
    }
}
