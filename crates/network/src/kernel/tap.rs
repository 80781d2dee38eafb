//! Making the tap of a port: the descriptor is the device, which is gone when nobody holds it any more.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, TUNSETIFF, c_short};

/// Makes the tap `name` with headers of virtio and one queue. The descriptor does not block.
///
/// # Errors
/// `EBUSY` if another program has it, `EPERM` without CAP_NET_ADMIN.
pub(crate) fn open(name: &str) -> io::Result<OwnedFd> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: an ifreq of zeros is one without a name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) as c_short;
    // SAFETY: the request is a whole ifreq, as TUNSETIFF reads and writes it.
    if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}
