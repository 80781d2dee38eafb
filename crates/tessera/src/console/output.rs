//! The way out of the guest's console: from the serial line, a byte at a time, to a terminal or a file.
//!
//! A thread of its own does the writing, so that a guest's processor pays neither for a system call a byte nor, until
//! [`MOST`] bytes wait, for a terminal that is slow. After that it waits: nothing is lost and memory stays bounded.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many bytes may wait.
const MOST: usize = 1 << 20;

/// How long the writing thread lets bytes gather once there are some.
const GATHER: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// No more bytes will come.
    ended: bool,
    /// Nobody reads what is written any more.
    deaf: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's end.
#[derive(Debug)]
pub struct ConsoleWriter(Arc<Shared>);

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.lock();
        while waiting.bytes.len() >= MOST && !waiting.deaf {
            waiting = self.0.wait(waiting);
        }
        if !waiting.deaf {
            let first = waiting.bytes.is_empty();
            waiting.bytes.extend_from_slice(bytes);
            if first {
                self.0.changed.notify_all();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writing thread. Dropping it writes what still waits.
#[derive(Debug)]
pub struct ConsoleOutput {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ConsoleOutput {
    /// Starts writing to `file`.
    pub fn start(file: File) -> io::Result<(ConsoleOutput, ConsoleWriter)> {
        let shared = Arc::new(Shared::default());
        let writer = ConsoleWriter(Arc::clone(&shared));
        let theirs = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("console-out".into()).spawn(move || write_out(&theirs, file))?;
        Ok((ConsoleOutput { shared, thread: Some(thread) }, writer))
    }
}

impl Drop for ConsoleOutput {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_out(shared: &Shared, mut file: File) {
    let mut bytes = Vec::new();
    loop {
        let mut waiting = shared.lock();
        while waiting.bytes.is_empty() && !waiting.ended {
            waiting = shared.wait(waiting);
        }
        if waiting.bytes.is_empty() {
            return;
        }
        if !waiting.ended {
            drop(waiting);
            std::thread::sleep(GATHER);
            waiting = shared.lock();
        }
        bytes.clear();
        std::mem::swap(&mut bytes, &mut waiting.bytes);
        drop(waiting);
        shared.changed.notify_all();
        if file.write_all(&bytes).is_err() {
            shared.lock().deaf = true;
            shared.changed.notify_all();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    fn pipe() -> (File, File) {
        let (reader, writer) = io::pipe().unwrap();
        (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
    }

    #[test]
    fn everything_written_comes_out_in_order_by_the_drop() {
        let (mut reader, file) = pipe();
        let (output, mut writer) = ConsoleOutput::start(file).unwrap();
        let sent: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
        let expected = sent.clone();
        let reading = std::thread::spawn(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            got
        });
        for part in sent.chunks(7) {
            writer.write_all(part).unwrap();
        }
        drop(output);
        assert!(reading.join().unwrap() == expected);
    }

    #[test]
    fn a_guest_goes_on_when_nobody_reads() {
        let (reader, file) = pipe();
        let (_output, mut writer) = ConsoleOutput::start(file).unwrap();
        drop(reader);
        for _ in 0..4 * MOST / 4096 {
            writer.write_all(&[b'x'; 4096]).unwrap();
        }
    }
}
