//! What all formats do with their files: opening, locks, whole transfers, holes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use libc::iovec;

#[cfg(test)]
use crate::journal::{self, Change};
use crate::{OpenError, SECTOR};

/// The most buffers one system call takes.
const MOST_BUFFERS: usize = 1024;
/// How many zeroes are written at once where the file system knows no better way.
pub static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Opens a file that is to be a disk.
pub fn open(path: &Path, read_only: bool) -> Result<File, OpenError> {
    // Without O_NONBLOCK a pipe would keep us waiting for its other end.
    let flags = libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path);
    match opened {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(OpenError::Folder),
        result => Ok(result?),
    }
}

/// Refuses what is neither a file nor a block device.
pub fn check_kind(file: &File) -> Result<(), OpenError> {
    let kind = file.metadata()?.file_type();
    match () {
        () if kind.is_file() || kind.is_block_device() => Ok(()),
        () if kind.is_dir() => Err(OpenError::Folder),
        () => Err(OpenError::Kind),
    }
}

/// Takes the lock of a disk's file: one writer or many readers. It belongs to the open file, whoever has it, and goes when nobody
/// has it open any more: so it goes along to the process that the file is handed to, and dies with it.
///
/// # Errors
/// [`OpenError::InUse`] if another open file has it.
pub fn lock(file: &File, read_only: bool) -> Result<(), OpenError> {
    let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    let region = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: `region` is a valid flock structure for the time of the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const region) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(OpenError::InUse),
        _ => Err(error.into()),
    }
}

/// Bytes of a file or block device.
pub fn size(file: &File) -> io::Result<u64> {
    let meta = file.metadata()?;
    if !meta.file_type().is_block_device() {
        return Ok(meta.len());
    }
    let mut bytes = 0u64;
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    // SAFETY: the request writes eight bytes.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}

/// Checks that a disk has whole sectors.
pub fn check_size(bytes: u64) -> Result<u64, OpenError> {
    let good = bytes != 0 && bytes.is_multiple_of(SECTOR) && i64::try_from(bytes).is_ok();
    if good { Ok(bytes) } else { Err(OpenError::Size { bytes }) }
}

/// Checks that a range lies within a disk of `size` bytes.
pub fn check_range(offset: u64, len: u64, size: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the end of the disk")),
    }
}

/// Bytes of all buffers together.
pub fn total(buffers: &[iovec]) -> u64 {
    buffers.iter().map(|b| b.iov_len as u64).sum()
}

/// Takes the first `len` bytes off the buffers; there may be fewer.
pub fn take(buffers: &mut &[iovec], skip: &mut usize, mut len: u64) -> Vec<iovec> {
    let mut taken = Vec::new();
    while let Some(first) = buffers.first()
        && len > 0
    {
        let rest = first.iov_len - *skip;
        let n = rest.min(usize::try_from(len).unwrap_or(usize::MAX));
        taken.push(iovec { iov_base: first.iov_base.wrapping_byte_add(*skip), iov_len: n });
        len -= n as u64;
        if n == rest {
            (*buffers, *skip) = (&buffers[1..], 0);
        } else {
            *skip += n;
        }
    }
    taken
}

/// Fills buffers with zeroes.
///
/// # Safety
/// The buffers must be writable for their lengths.
pub unsafe fn fill_zeroes(buffers: &[iovec]) {
    for buffer in buffers {
        // SAFETY: the caller vouches for the buffer.
        unsafe { buffer.iov_base.cast::<u8>().write_bytes(0, buffer.iov_len) };
    }
}

/// An image ends where it should go on.
pub fn past_the_end(offset: u64) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the image is cut short: nothing at {offset:#x}"))
}

/// Reads all of `buffers`; gives how many bytes there were before the end of the file.
///
/// # Safety
/// The buffers must be writable for their lengths.
pub unsafe fn read(file: &File, buffers: &[iovec], offset: u64) -> io::Result<u64> {
    let fd = file.as_raw_fd();
    // SAFETY: the caller vouches for the buffers.
    all(buffers, offset, |b, at| unsafe { libc::preadv(fd, b.as_ptr(), b.len() as i32, at) })
}

/// Writes all of `buffers`.
///
/// # Safety
/// The buffers must be readable for their lengths.
pub unsafe fn write(file: &File, buffers: &[iovec], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    journal::note(file, || journal::write(buffers, offset))?;
    let fd = file.as_raw_fd();
    // SAFETY: the caller vouches for the buffers.
    let n = all(buffers, offset, |b, at| unsafe { libc::pwritev(fd, b.as_ptr(), b.len() as i32, at) })?;
    if n == total(buffers) { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Calls `transfer` until all buffers are done or it does nothing any more: the kernel may stop short.
fn all(buffers: &[iovec], offset: u64, transfer: impl Fn(&[iovec], i64) -> isize) -> io::Result<u64> {
    let whole = total(buffers);
    let (mut rest, mut skip, mut done) = (buffers, 0, 0);
    while done < whole {
        // The common case, one call that does everything, copies no list.
        let n = if skip == 0 {
            transfer(&rest[..rest.len().min(MOST_BUFFERS)], (offset + done) as i64)
        } else {
            let (mut ahead, mut from) = (&rest[..rest.len().min(MOST_BUFFERS)], skip);
            transfer(&take(&mut ahead, &mut from, u64::MAX), (offset + done) as i64)
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if n == 0 {
            break;
        }
        done += n as u64;
        take(&mut rest, &mut skip, n as u64);
    }
    Ok(done)
}

/// Reads into `bytes`; gives how many there were before the end of the file.
pub fn read_there(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let buffer = [iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    // SAFETY: the buffer is a mutable slice.
    unsafe { read(file, &buffer, at) }.map(|n| n as usize)
}

/// Writes `bytes`, all of them.
pub fn write_all(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let buffer = [iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }];
    // SAFETY: the buffer is a slice, and is only read from.
    unsafe { write(file, &buffer, at) }
}

/// Makes the bytes of a file durable.
pub fn sync(file: &File) -> io::Result<()> {
    #[cfg(test)]
    journal::note(file, || Change::Sync)?;
    file.sync_data().map_err(|error| match error.kind() {
        // The kernel has taken what was written, and may have thrown it away since (fsync(2), NFS): that room can be made does not help
        // any more, and whoever tries again must not be told that all is well.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => io::Error::other(error),
        _ => error,
    })
}

/// Makes a file so long.
pub fn set_len(file: &File, len: u64) -> io::Result<()> {
    #[cfg(test)]
    journal::note(file, || Change::Length(len))?;
    file.set_len(len)
}

/// Where data of a file of `len` bytes begins next, from `offset`, and where it ends: what lies between are holes.
pub fn next_data(file: &File, offset: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    if offset >= len {
        return Ok(None);
    }
    let seek = |from: u64, whence| {
        // SAFETY: the descriptor is open; no memory is involved.
        let found = unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) };
        if found < 0 { Err(io::Error::last_os_error()) } else { Ok((found as u64).min(len)) }
    };
    match seek(offset, libc::SEEK_DATA) {
        Ok(data) if data < len => Ok(Some((data, seek(data, libc::SEEK_HOLE)?))),
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        // A block device has no holes.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Some((offset, len))),
        Err(error) => Err(error),
    }
}

/// Gives the space of a range back: it reads as zeroes then. The file keeps its length.
pub fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Has the host set aside room for all of a file. Where it cannot tell, there is no promise.
///
/// # Errors
/// If there is no room.
pub fn allocate(file: &File) -> io::Result<()> {
    match fallocate(file, 0, 0, size(file)?) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

/// Makes a range read as zeroes, whatever the file system can; with `unmap` its space is given back if that works.
pub fn zero(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    if len == 0 || unmap && punch(file, offset, len).is_ok() {
        return Ok(());
    }
    match fallocate(file, libc::FALLOC_FL_ZERO_RANGE, offset, len) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => write_zeroes(file, offset, len),
        result => result,
    }
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    #[cfg(test)]
    if mode != 0 {
        let grows = mode & libc::FALLOC_FL_KEEP_SIZE == 0;
        journal::note(file, || Change::Zero { offset, len, grows })?;
    }
    loop {
        // SAFETY: the descriptor is open; no memory is involved.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENODEV) => return Err(io::ErrorKind::Unsupported.into()),
            _ => return Err(error),
        }
    }
}

fn write_zeroes(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let n = len.min(ZEROES.len() as u64);
        write_all(file, &ZEROES[..n as usize], offset)?;
        offset += n;
        len -= n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn taking_bytes_off_buffers_splits_them_where_it_must() {
        let mut bytes = [0u8; 30];
        let base = bytes.as_mut_ptr();
        let buffer = |at: usize, len| iovec { iov_base: base.wrapping_add(at).cast(), iov_len: len };
        let list = [buffer(0, 10), buffer(10, 0), buffer(10, 5), buffer(20, 10)];
        let (mut rest, mut skip) = (&list[..], 0);
        let lens = |v: Vec<iovec>| v.iter().map(|b| b.iov_len).collect::<Vec<_>>();
        assert_eq!(lens(take(&mut rest, &mut skip, 4)), [4]);
        assert_eq!(lens(take(&mut rest, &mut skip, 8)), [6, 0, 2]);
        let last = take(&mut rest, &mut skip, 100);
        assert_eq!(last[0].iov_base, base.wrapping_add(12).cast());
        assert_eq!(lens(last), [3, 10]);
        assert!(rest.is_empty());
    }

    #[test]
    fn more_buffers_than_a_call_takes_are_transferred_in_several() {
        let file = tempfile::tempfile().unwrap();
        let mut data: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
        let list = |data: &mut [u8]| -> Vec<iovec> {
            data.iter_mut().map(|b| iovec { iov_base: std::ptr::from_mut(b).cast(), iov_len: 1 }).collect()
        };
        // SAFETY: the buffers are bytes of live vectors.
        unsafe { write(&file, &list(&mut data), 7) }.unwrap();
        let mut back = vec![0; 5000];
        // SAFETY: as above.
        assert_eq!(unsafe { read(&file, &list(&mut back), 7) }.unwrap(), 5000);
        assert_eq!(back, data);
        // SAFETY: as above.
        assert_eq!(unsafe { read(&file, &list(&mut back), 5000) }.unwrap(), 7);
    }

    #[test]
    fn zeroes_are_written_where_nothing_better_is_known() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 200_000], 0).unwrap();
        write_zeroes(&file, 1, 150_000).unwrap();
        zero(&file, 160_000, 512, true).unwrap();
        let mut back = vec![0; 200_000];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!((back[0], back[1], back[150_000], back[150_001]), (1, 0, 0, 1));
        assert_eq!((back[159_999], back[160_000], back[160_511], back[160_512]), (1, 0, 0, 1));
    }
}
