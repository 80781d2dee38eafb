//! What is done to files, put down for tests that cut it off somewhere, or have it fail.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use libc::iovec;

/// One thing that was done to a file, whatever it is called.
#[derive(Clone, Debug)]
pub struct Record {
    pub inode: u64,
    pub change: Change,
}

#[derive(Clone, Debug)]
pub enum Change {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The range became zeroes; the file grows with it if that is said.
    Zero {
        offset: u64,
        len: u64,
        grows: bool,
    },
    Length(u64),
    Sync,
    /// It has this name from now on: put down by the test that gave it.
    Name(String),
    /// It has this name no more.
    Unname(String),
}

struct Journal {
    /// Only files in it count.
    folder: PathBuf,
    records: Vec<Record>,
    /// How many changes there may be before the host has no room.
    room: Option<usize>,
}

static JOURNAL: Mutex<Option<Journal>> = Mutex::new(None);

fn with<T>(act: impl FnOnce(&mut Option<Journal>) -> T) -> T {
    act(&mut JOURNAL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Begins to put down what is done to files in a folder.
pub fn begin(folder: PathBuf) {
    with(|journal| *journal = Some(Journal { folder, records: Vec::new(), room: None }));
}

/// After so many more changes there is no room.
pub fn fail_after(changes: Option<usize>) {
    with(|journal| {
        if let Some(journal) = journal {
            journal.room = changes;
        }
    });
}

/// How many changes there have been.
pub fn len() -> usize {
    with(|journal| journal.as_ref().map_or(0, |journal| journal.records.len()))
}

/// All changes; none are put down any more.
pub fn end() -> Vec<Record> {
    with(|journal| journal.take().map_or(Vec::new(), |journal| journal.records))
}

/// Puts a change down that is about to be made.
pub fn note(file: &File, change: impl FnOnce() -> Change) -> io::Result<()> {
    with(|journal| {
        let Some(journal) = journal else { return Ok(()) };
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        if !path.starts_with(&journal.folder) {
            return Ok(());
        }
        let change = change();
        if let Some(room) = &mut journal.room
            && !matches!(change, Change::Name(_) | Change::Unname(_))
        {
            *room = room.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        }
        journal.records.push(Record { inode: file.metadata()?.ino(), change });
        Ok(())
    })
}

/// A write of these buffers.
pub fn write(buffers: &[iovec], offset: u64) -> Change {
    let mut bytes = Vec::new();
    for buffer in buffers {
        // SAFETY: whoever writes them vouches for them.
        bytes.extend(unsafe { std::slice::from_raw_parts(buffer.iov_base.cast::<u8>(), buffer.iov_len) });
    }
    Change::Write { offset, bytes }
}
