//! Checksums.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::Progress;

/// The SHA-256 checksum of the first `length` bytes of a file, in hexadecimal; nothing if it was called off.
///
/// # Errors
/// If the file cannot be read, or is shorter.
pub fn sha256(file: &File, length: u64, progress: &dyn Progress) -> io::Result<Option<String>> {
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        if progress.cancelled() {
            return Ok(None);
        }
        let n = file.read_at(&mut buffer, at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sum.update(&buffer[..n]);
        at += n as u64;
        progress.amount(at, length);
    }
    Ok(Some(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
