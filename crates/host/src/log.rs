//! The daemon's own log: what it says of its work, in files that only grow and of which the oldest go, and to those who follow it.
//!
//! Whoever sets up `tracing` has what is to be kept written to a [`Writer`]. Lines that come before [`keep`] says where they are to be kept
//! wait for it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

/// How long a file grows, bytes.
const LONGEST: u64 = 4 << 20;
/// How many files there are, the one that grows among them.
const FILES: u32 = 4;
/// How many lines wait to be kept, and for one who follows them.
const WAITING: usize = 1024;
/// The most lines that can be asked for.
pub const MOST: usize = 10_000;

static LOG: LazyLock<Log> = LazyLock::new(|| Log {
    state: Mutex::new(State { early: VecDeque::new(), kept: None }),
    followers: broadcast::Sender::new(WAITING),
});

struct Log {
    state: Mutex<State>,
    followers: broadcast::Sender<Arc<str>>,
}

struct State {
    /// What was said before anybody knew where to keep it.
    early: VecDeque<Arc<str>>,
    kept: Option<Kept>,
}

struct Kept {
    folder: PathBuf,
    file: File,
    length: u64,
}

fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(if number == 0 { "host.log".to_owned() } else { format!("host.log.{number}") })
}

impl Kept {
    fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path(folder, 0))?;
        let length = file.metadata()?.len();
        Ok(Self { folder: folder.to_owned(), file, length })
    }

    fn add(&mut self, line: &str) -> io::Result<()> {
        if self.length >= LONGEST {
            for number in (0..FILES - 1).rev() {
                match std::fs::rename(path(&self.folder, number), path(&self.folder, number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            *self = Self::open(&self.folder)?;
        }
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes())?;
        self.length += text.len() as u64;
        Ok(())
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &str) {
        let line: Arc<str> = line.into();
        let mut state = self.lock();
        match &mut state.kept {
            // What cannot be kept has been said elsewhere, too.
            Some(kept) => drop(kept.add(&line)),
            None => {
                state.early.push_back(Arc::clone(&line));
                if state.early.len() > WAITING {
                    state.early.pop_front();
                }
            }
        }
        // Nobody may follow.
        let _ = self.followers.send(line);
    }
}

/// Where what is said goes to be kept: lines.
#[derive(Debug, Clone, Copy)]
pub struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in String::from_utf8_lossy(bytes).lines() {
            LOG.add(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what is said in a folder, from now on and what was said before.
///
/// # Errors
/// If it cannot be written there.
pub fn keep(folder: &Path) -> io::Result<()> {
    let mut kept = Kept::open(folder)?;
    let mut state = LOG.lock();
    for line in state.early.drain(..) {
        kept.add(&line)?;
    }
    state.kept = Some(kept);
    Ok(())
}

/// The latest lines that were kept in a folder, the oldest first, at most `most`.
///
/// # Errors
/// If the files cannot be read. Where nothing was kept there are none.
pub fn tail(folder: &Path, most: usize) -> io::Result<Vec<String>> {
    let mut lines = VecDeque::new();
    for number in 0..FILES {
        let bytes = match std::fs::read(path(folder, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            result => result?,
        };
        for line in String::from_utf8_lossy(&bytes).lines().rev().take(most - lines.len()) {
            lines.push_front(line.to_owned());
        }
        if lines.len() == most {
            break;
        }
    }
    Ok(lines.into())
}

/// The latest lines, and those that come after them.
///
/// # Errors
/// If the files cannot be read.
pub fn follow(folder: &Path, most: usize) -> io::Result<(Vec<String>, broadcast::Receiver<Arc<str>>)> {
    // Nothing is said between the one and the other.
    let _state = LOG.lock();
    let next = LOG.followers.subscribe();
    Ok((tail(folder, most)?, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_lines_are_found_whatever_file_they_are_in() {
        let folder = tempfile::tempdir().unwrap();
        assert!(tail(folder.path(), 10).unwrap().is_empty());
        for n in 0..u64::from(FILES) + 2 {
            let mut kept = Kept::open(folder.path()).unwrap();
            kept.length = LONGEST;
            kept.add(&format!("first {n}")).unwrap();
            kept.add(&format!("second {n}")).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), FILES as usize);
        assert_eq!(tail(folder.path(), 3).unwrap(), ["second 4", "first 5", "second 5"]);
        assert_eq!(tail(folder.path(), 100).unwrap().len(), 2 * FILES as usize);
    }

    #[test]
    fn what_was_said_before_is_kept_and_followed_without_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        writeln!(Writer, "early").unwrap();
        keep(folder.path()).unwrap();
        writeln!(Writer, "kept\nin two lines").unwrap();
        let (before, mut next) = follow(folder.path(), 2).unwrap();
        assert_eq!(before, ["kept", "in two lines"]);
        writeln!(Writer, "after").unwrap();
        assert_eq!(&*next.try_recv().unwrap(), "after");
        assert!(next.try_recv().is_err());
        assert_eq!(tail(folder.path(), 9).unwrap(), ["early", "kept", "in two lines", "after"]);
    }
}
