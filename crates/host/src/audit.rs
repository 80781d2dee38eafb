//! The record of who did what from where: lines of JSON in files, which only grow and of which the oldest go when there are too many.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::{AuditEntry, Time};
use tokio::sync::broadcast;

/// How long a file grows, bytes.
const LONGEST: u64 = 16 << 20;
/// How many files there are, the one that grows among them.
const FILES: u32 = 8;
/// How many refusals of unknown callers are written down in [`WINDOW`]; the rest are counted.
const REFUSALS: u64 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// How many entries may wait for one watcher.
const WAITING: usize = 256;

/// The record.
pub struct Audit {
    folder: PathBuf,
    state: Mutex<State>,
    /// Entries as they are written.
    written: broadcast::Sender<AuditEntry>,
}

struct State {
    file: File,
    length: u64,
    window: Instant,
    refusals: u64,
    /// The last refusal that was not written down.
    held: Option<AuditEntry>,
}

fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(if number == 0 { "audit.log".to_owned() } else { format!("audit.log.{number}") })
}

fn open(folder: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path(folder, 0))?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

impl Audit {
    /// Goes on with the record in a folder.
    ///
    /// # Errors
    /// If it cannot be written there.
    pub fn open(folder: &Path) -> io::Result<Audit> {
        let (file, length) = open(folder)?;
        let state = State { file, length, window: Instant::now(), refusals: 0, held: None };
        Ok(Audit {
            folder: folder.to_owned(),
            state: Mutex::new(state),
            written: broadcast::channel(WAITING).0,
        })
    }

    /// Writes an entry down. Those whom nobody knows could fill a disk with their refusals: of these only so many are written.
    pub fn record(&self, entry: AuditEntry) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.window.elapsed() >= WINDOW {
            let (held, refusals) = (state.held.take(), state.refusals);
            (state.window, state.refusals) = (Instant::now(), 0);
            if let Some(mut held) = held {
                held.more = Some(refusals.saturating_sub(REFUSALS));
                self.write(&mut state, &held);
            }
        }
        if entry.status == 401 {
            state.refusals += 1;
            if state.refusals > REFUSALS {
                state.held = Some(entry);
                return;
            }
        }
        self.write(&mut state, &entry);
    }

    fn write(&self, state: &mut State, entry: &AuditEntry) {
        let written = self.make_room(state).and_then(|()| {
            let mut line = serde_json::to_vec(entry)?;
            line.push(b'\n');
            state.length += line.len() as u64;
            state.file.write_all(&line)
        });
        if let Err(error) = written {
            tracing::error!("the audit log cannot be written: {error}");
        }
        // Nobody may watch.
        let _ = self.written.send(entry.clone());
    }

    fn make_room(&self, state: &mut State) -> io::Result<()> {
        if state.length < LONGEST {
            return Ok(());
        }
        for number in (0..FILES - 1).rev() {
            match std::fs::rename(path(&self.folder, number), path(&self.folder, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (state.file, state.length) = open(&self.folder)?;
        Ok(())
    }

    /// Entries from now on, as they are written.
    pub fn follow(&self) -> broadcast::Receiver<AuditEntry> {
        self.written.subscribe()
    }

    /// The latest entries, the newest first, `most` of them.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn latest(&self, most: usize) -> io::Result<Vec<AuditEntry>> {
        let mut entries = Vec::new();
        for number in 0..FILES {
            let file = match File::open(path(&self.folder, number)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            let lines = BufReader::new(file).lines().collect::<io::Result<Vec<_>>>()?;
            // A line that a failure of the machine cut is no entry.
            let read = lines.iter().rev().filter_map(|line| serde_json::from_str(line).ok());
            entries.extend(read.take(most - entries.len()));
            if entries.len() == most {
                break;
            }
        }
        Ok(entries)
    }
}

/// An entry of this moment.
pub fn entry(actor: String, from: String, method: &str, path: &str, status: u16) -> AuditEntry {
    let path = path.chars().take(300).collect();
    AuditEntry { time: Time::now(), actor, from, method: method.to_owned(), path, status, more: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(path: &str, status: u16) -> AuditEntry {
        entry("root".into(), "local user 0".into(), "POST", path, status)
    }

    #[test]
    fn what_was_done_is_found_again_the_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        audit.record(some("/a", 200));
        drop(audit);
        let audit = Audit::open(folder.path()).unwrap();
        audit.record(some("/b", 403));
        let paths: Vec<_> = audit.latest(10).unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(paths, ["/b", "/a"]);
        assert_eq!(audit.latest(1).unwrap().len(), 1);
    }

    #[test]
    fn the_files_are_bounded_and_the_newest_entries_stay() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        for n in 0..u64::from(FILES) + 3 {
            audit.state.lock().unwrap().length = LONGEST;
            audit.record(some(&format!("/{n}"), 200));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), FILES as usize);
        assert_eq!(audit.latest(1).unwrap()[0].path, format!("/{}", FILES + 2));
    }

    #[test]
    fn unknown_callers_do_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        for _ in 0..REFUSALS * 10 {
            audit.record(some("/x", 401));
        }
        audit.record(some("/known", 200));
        assert_eq!(audit.latest(10_000).unwrap().len() as u64, REFUSALS + 1);
    }
}
