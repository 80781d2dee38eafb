//! A tap device of the host as a cable (Linux, Documentation/networking/tuntap.rst).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use vmm_sys_util::syscall::SyscallReturnCode;

use super::{Backend, HEADER, feature};

/// Request codes and flags (linux/if_tun.h).
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const TUN_F_TSO_ECN: libc::c_ulong = 8;

/// A tap device.
#[derive(Debug)]
pub struct Tap {
    file: File,
    descriptor: Arc<OwnedFd>,
}

/// The longest name of an interface, without the final NUL.
const LONGEST_NAME: usize = 15;

fn request(name: &str, flags: libc::c_short) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a tap device's name has 1 to 15 bytes"));
    }
    // SAFETY: a structure of integers and bytes.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    Ok(request)
}

impl Tap {
    /// Attaches to the tap device `name`, which must be there.
    ///
    /// # Errors
    /// If there is no such device, another uses it, or this user may not.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::from_file(Self::attach(name)?)
    }

    /// Attaches to the tap device `name`; [`from_file`](Self::from_file) takes what this gives, in another process too.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn attach(name: &str) -> io::Result<File> {
        let there = std::path::Path::new("/sys/class/net").join(name).join("tun_flags").exists();
        if !there {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such tap device"));
        }
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let request = request(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)?;
        // SAFETY: the request is a whole ifreq, as TUNSETIFF reads and writes it.
        SyscallReturnCode(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw const request) })
            .into_empty_result()?;
        Ok(file)
    }

    /// An attached tap device that was opened elsewhere, with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR.
    ///
    /// # Errors
    /// If the file is no such device.
    pub fn from_file(file: File) -> io::Result<Self> {
        let mut found = request("-", 0)?;
        // SAFETY: TUNGETIFF writes a whole ifreq.
        SyscallReturnCode(unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF, &raw mut found) })
            .into_empty_result()?;
        // SAFETY: TUNGETIFF sets this member.
        let flags = unsafe { found.ifr_ifru.ifru_flags };
        let wanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if flags & wanted != wanted {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the tap device has no virtio headers"));
        }
        let size = HEADER as libc::c_int;
        // SAFETY: the request reads an int.
        SyscallReturnCode(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) })
            .into_empty_result()?;
        rustix::io::ioctl_fionbio(&file, true)?;
        let descriptor = Arc::new(file.try_clone()?.into());
        Ok(Self { file, descriptor })
    }
}

impl Backend for Tap {
    fn offloads(&self) -> u64 {
        use feature::*;
        CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.descriptor)
    }

    fn use_offloads(&mut self, accepted: u64) -> io::Result<()> {
        let pairs = [
            (feature::GUEST_CSUM, TUN_F_CSUM),
            (feature::GUEST_TSO4, TUN_F_TSO4),
            (feature::GUEST_TSO6, TUN_F_TSO6),
            (feature::GUEST_ECN, TUN_F_TSO_ECN),
        ];
        let has = |bit| accepted & bit != 0;
        // Without checksums there is nothing else.
        let flags: libc::c_ulong = if has(feature::GUEST_CSUM) {
            pairs.iter().filter(|(bit, _)| has(*bit)).map(|(_, flag)| flag).sum()
        } else {
            0
        };
        // SAFETY: the request takes a number.
        SyscallReturnCode(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, flags) })
            .into_empty_result()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                // Shorter than its header: no frame.
                Ok(len) if len < HEADER => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        match self.file.write(frame) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(e),
            // The interface is down, or the guest's header is nonsense: the frame is lost.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_or_cannot_be_is_refused() {
        assert_eq!(Tap::open("tessera-none").unwrap_err().to_string(), "there is no such tap device");
        assert_eq!(Tap::open("lo").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Tap::from_file(File::open("/dev/null").unwrap()).is_err());
    }
}
