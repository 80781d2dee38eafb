//! Raw images: a file or block device whose bytes are the disk's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use libc::iovec;

use crate::{Disk, SECTOR, lock};

/// A raw image.
#[derive(Debug)]
pub struct Raw {
    file: File,
    len: u64,
    read_only: bool,
}

/// The most buffers one system call takes.
const MOST_BUFFERS: usize = 1024;

impl Raw {
    /// Opens `path`.
    ///
    /// # Errors
    /// If it cannot be opened or locked, or its size is no multiple of a sector.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        Self::from_file(file, read_only)
    }

    /// The image in an open file.
    ///
    /// # Errors
    /// If it is in use by somebody who writes it, or its size is no multiple of a sector.
    pub fn from_file(file: File, read_only: bool) -> io::Result<Self> {
        lock(&file, read_only)?;
        let len = size(&file)?;
        if len == 0 || len % SECTOR != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("its size of {len} bytes is not a positive multiple of {SECTOR}"),
            ));
        }
        Ok(Self { file, len, read_only })
    }

    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the end of the disk")),
        }
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        // SAFETY: the descriptor is ours; no memory is involved.
        let result = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, len as i64) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn size(file: &File) -> io::Result<u64> {
    let meta = file.metadata()?;
    if meta.file_type().is_file() {
        return Ok(meta.len());
    }
    if !meta.file_type().is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a block device"));
    }
    let mut bytes = 0u64;
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    // SAFETY: the request writes eight bytes.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}

/// Calls `transfer` until all buffers are done: the kernel may stop short.
fn all(buffers: &[iovec], offset: u64, mut transfer: impl FnMut(&[iovec], i64) -> isize) -> io::Result<()> {
    let mut rest = buffers.to_vec();
    let mut at = offset;
    while !rest.is_empty() {
        let n = transfer(&rest[..rest.len().min(MOST_BUFFERS)], at as i64);
        if n < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += n as u64;
        let mut done = n as usize;
        while let Some(first) = rest.first_mut() {
            if done < first.iov_len {
                first.iov_base = first.iov_base.wrapping_byte_add(done);
                first.iov_len -= done;
                break;
            }
            done -= first.iov_len;
            rest.remove(0);
        }
    }
    Ok(())
}

fn total(buffers: &[iovec]) -> u64 {
    buffers.iter().map(|b| b.iov_len as u64).sum()
}

impl Disk for Raw {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        self.check(offset, total(buffers))?;
        let fd = self.file.as_raw_fd();
        // SAFETY: the caller vouches for the buffers.
        all(buffers, offset, |b, at| unsafe { libc::preadv(fd, b.as_ptr(), b.len() as i32, at) })
    }

    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        self.check(offset, total(buffers))?;
        let fd = self.file.as_raw_fd();
        // SAFETY: the caller vouches for the buffers.
        all(buffers, offset, |b, at| unsafe { libc::pwritev(fd, b.as_ptr(), b.len() as i32, at) })
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len)?;
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check(offset, len)?;
        if unmap {
            return self.discard(offset, len);
        }
        self.fallocate(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
    }
}
