//! The latest of what a guest has said on its console, in a file of fixed size.
//!
//! The file is mapped: a byte costs a store, and is there for others even if the process is killed the next moment.
//!
//! ```text
//! 0   "TSRCONS1"
//! 8   how many bytes have been said ever (little endian)
//! 16  the latest of them, byte n of all at n modulo the room
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

const MAGIC: &[u8; 8] = b"TSRCONS1";
const COUNT: usize = 8;
const HEADER: usize = 16;
/// The most room that makes sense.
const MOST: u64 = 1 << 26;

/// Makes a log with room for the latest `room` bytes; one that is there already goes on if it is as large, and begins anew if not.
///
/// # Errors
/// If the file cannot be made, or there is no room for it.
pub fn create(path: &Path, room: u64) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() != room + HEADER as u64 || header(&file).is_err() {
        file.set_len(0)?;
        file.set_len(room + HEADER as u64)?;
        file.write_all_at(MAGIC, 0)?;
    }
    // Whoever touches a page for which there is no room dies of it (mmap(2), SIGBUS): it is taken before.
    match fallocate(&file, FallocateFlags::empty(), 0, room + HEADER as u64) {
        // There are file systems that cannot.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(file),
        Err(error) => Err(error.into()),
    }
}

/// How many bytes were said ever, and the room for the latest of them.
fn header(file: &File) -> io::Result<(u64, u64)> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let room = file.metadata()?.len() - HEADER as u64;
    if header[..COUNT] != MAGIC[..] || !(1..=MOST).contains(&room) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is no console log"));
    }
    let count = header[COUNT..].iter().rev().fold(0, |count, byte| count << 8 | u64::from(*byte));
    Ok((count, room))
}

/// What a log remembers, whether or not a machine writes it at the moment.
///
/// # Errors
/// If the file is no log or cannot be read.
pub fn read(file: &File) -> io::Result<Vec<u8>> {
    let (count, room) = header(file)?;
    let mut bytes = vec![0; room as usize];
    file.read_exact_at(&mut bytes, HEADER as u64)?;
    Ok(in_order(bytes, count))
}

fn in_order(mut ring: Vec<u8>, count: u64) -> Vec<u8> {
    match usize::try_from(count) {
        Ok(count) if count < ring.len() => ring.truncate(count),
        _ => {
            let oldest = (count % ring.len() as u64) as usize;
            ring.rotate_left(oldest);
        }
    }
    ring
}

/// A log that is being written.
pub struct Log {
    map: MmapRegion,
    room: usize,
    count: u64,
}

impl Log {
    /// Goes on with the log in `file`.
    pub fn open(file: File) -> io::Result<Log> {
        let (count, room) = header(&file)?;
        let room = room as usize;
        let map = MmapRegion::from_file(FileOffset::new(file, 0), HEADER + room).map_err(io::Error::other)?;
        Ok(Log { map, room, count })
    }

    /// Remembers `bytes`.
    pub fn add(&mut self, bytes: &[u8]) {
        let map = self.map.as_volatile_slice();
        for part in bytes.chunks(self.room) {
            let at = (self.count % self.room as u64) as usize;
            let first = part.len().min(self.room - at);
            // The slice has HEADER + room bytes: neither range leaves it.
            let _ = map.write_slice(&part[..first], HEADER + at);
            let _ = map.write_slice(&part[first..], HEADER);
            self.count += part.len() as u64;
        }
        let _ = map.write_slice(&self.count.to_le_bytes(), COUNT);
    }

    /// What it remembers.
    pub fn said(&self) -> Vec<u8> {
        let mut ring = vec![0; self.room];
        // As above.
        let _ = self.map.as_volatile_slice().read_slice(&mut ring, HEADER);
        in_order(ring, self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_log_remembers_the_latest_bytes_in_order_and_goes_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut said = Vec::new();
        for turn in 0..40u8 {
            let mut log = Log::open(create(&path, 100).unwrap()).unwrap();
            let words: Vec<u8> = (0..turn * 5).map(|n| n ^ turn).collect();
            log.add(&words);
            said.extend(words);
            let latest = &said[said.len().saturating_sub(100)..];
            assert_eq!(log.said(), latest);
            assert_eq!(read(&File::open(&path).unwrap()).unwrap(), latest);
        }
    }

    #[test]
    fn a_log_has_all_its_room_before_anything_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let taken = || std::fs::metadata(&path).unwrap().blocks() * 512;
        create(&path, 1 << 18).unwrap();
        assert!(taken() >= 1 << 18);
        // Also one that was made without.
        let file = File::create(&path).unwrap();
        file.write_all_at(MAGIC, 0).unwrap();
        file.set_len((1 << 18) + HEADER as u64).unwrap();
        assert!(taken() < 1 << 18);
        create(&path, 1 << 18).unwrap();
        assert!(taken() >= 1 << 18);
    }

    #[test]
    fn a_file_that_is_no_log_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for bytes in [&b""[..], b"TSRCONS1", b"TSRCONS1\0\0\0\0\0\0\0\0", b"SOMETHINGELSE.........."] {
            std::fs::write(&path, bytes).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            assert!(read(&file).is_err());
            assert!(Log::open(file).is_err());
        }
    }
}
