//! Who may use an image's file at the same time.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// One writer or many readers, by an open-file-description lock that goes with the file.
pub(crate) fn lock(file: &File, read_only: bool) -> io::Result<()> {
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
        Some(libc::EAGAIN | libc::EACCES) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "it is in use by another machine"))
        }
        _ => Err(error),
    }
}
