//! What is written to and read from tar archives that carry images and guests elsewhere.

use std::io::{self, Read, Write};

use crate::{Error, Progress};

/// The length of a block of an archive (POSIX.1-1988, ustar), bytes.
const BLOCK: u64 = 512;

/// How long an archive of files of these lengths is, bytes.
pub fn length(files: &[u64]) -> u64 {
    // Each has a header before it and is filled up to whole blocks; two empty blocks end the archive.
    let blocks: u64 = files.iter().map(|length| 1 + length.div_ceil(BLOCK)).sum();
    (blocks + 2) * BLOCK
}

/// Adds a file of `length` bytes to an archive.
///
/// # Errors
/// [`io::ErrorKind::BrokenPipe`] with [`Error::Cancelled`] if it is called off; or if the host cannot read or write.
pub fn add<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    length: u64,
    from: impl Read,
    progress: &dyn Progress,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, Told::new(from.take(length), length, progress))
}

/// Bytes that tell how many of them have gone.
pub struct Told<'a, R> {
    from: R,
    done: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl<'a, R> Told<'a, R> {
    /// `total` bytes that come from there.
    pub fn new(from: R, total: u64, progress: &'a dyn Progress) -> Self {
        Self { from, done: 0, total, progress }
    }
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.cancelled() {
            // `Interrupted` itself would be tried again.
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, Error::Cancelled));
        }
        let n = self.from.read(buffer)?;
        self.done += n as u64;
        self.progress.amount(self.done, self.total);
        Ok(n)
    }
}
