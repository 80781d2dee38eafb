//! What is on one disk, onto another, and onto and from memory.

use std::io;

use libc::iovec;

use crate::Disk;

/// How much is read and written at once, and in what pieces zeroes are looked for.
const STEP: u64 = 1 << 20;
const PIECE: usize = 64 << 10;

/// Copies what is on `from` to the beginning of `to`, which reads as zeroes and is at least as long, or shorter if what is cut off
/// does not matter. Zeroes are not written: they take no room. `told` hears how many bytes of how many are done, and says whether
/// to go on.
///
/// # Errors
/// [`io::ErrorKind::Interrupted`] if it is not to go on; or if the host cannot read or write.
pub fn copy(from: &dyn Disk, to: &dyn Disk, mut told: impl FnMut(u64, u64) -> bool) -> io::Result<()> {
    let len = from.len().min(to.len());
    let mut buffer = vec![0; STEP as usize];
    let mut at = 0;
    while let Some((data, end)) = from.next_data(at)?
        && data < len
    {
        let end = end.min(len);
        at = data;
        while at < end {
            if !told(at, len) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let part = &mut buffer[..STEP.min(end - at) as usize];
            read(from, part, at)?;
            write_data(to, part, at)?;
            at += part.len() as u64;
        }
    }
    told(len, len);
    to.flush()
}

/// Writes what is no zeroes.
fn write_data(to: &dyn Disk, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut at = offset;
    for piece in bytes.chunks(PIECE) {
        if piece.iter().any(|byte| *byte != 0) {
            write(to, piece, at)?;
        }
        at += piece.len() as u64;
    }
    Ok(())
}

/// Reads from a disk, from `offset` as many bytes as there is room for.
///
/// # Errors
/// If the host cannot read, or the range lies beyond the end.
pub fn read(from: &dyn Disk, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let buffer = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: the buffer is a mutable slice that lives for the call.
    unsafe { from.read(&[buffer], offset) }
}

/// Writes to a disk, at `offset`.
///
/// # Errors
/// If the host cannot write, or the range lies beyond the end.
pub fn write(to: &dyn Disk, bytes: &[u8], offset: u64) -> io::Result<()> {
    let buffer = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the buffer is a slice that lives for the call, and is only read from.
    unsafe { to.write(&[buffer], offset) }
}
