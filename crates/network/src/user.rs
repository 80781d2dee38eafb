//! The user-mode network of one port: the program `passt` on one end of a socket, and a card on the other. The host's
//! unprivileged programs reach no more than it does, and it needs no more than they.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode};
use tempfile::TempDir;

use crate::definition::{Fault, Forward, Protocol};
use crate::error::{Error, Result};

/// The largest packet passt carries: an IP packet of 65535 bytes less what its framing takes, rounded down to words.
pub const MTU: u16 = 65520;

/// Room of a socket between a card and passt, bytes: more than a TCP window.
const SOCKET_ROOM: usize = 8 << 20;

/// A running passt. It ends when the other end of its socket is closed, however the process that started it ends; an old one
/// may miss that in the middle of a transfer, so it is ended when this is dropped.
#[derive(Debug)]
pub struct Passt(Option<Child>);

impl Passt {
    /// Lets it outlive this: it then ends with whoever holds the other end of its socket, and the caller waits for it.
    pub fn release(mut self) -> Option<Child> {
        self.0.take()
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It has ended already: then there is nothing to end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts passt on one end of a socket pair; returns the other, and when it is ready. Blocks for some milliseconds.
///
/// # Errors
/// If a port of the host is taken, or passt is not there or does not start.
pub fn start(forwards: &[Forward]) -> Result<(UnixStream, Passt)> {
    let taken: Vec<_> =
        forwards.iter().enumerate().filter_map(|(n, forward)| check_port(n, forward)).collect();
    if !taken.is_empty() {
        return Err(Error::Definition(taken));
    }
    let internal = || Error::io("starting passt");
    let (near, far) = UnixStream::pair().map_err(internal())?;
    enlarge(&far).map_err(internal())?;
    let ready = ReadyFifo::new().map_err(internal())?;
    let child = spawn(&far, &ready, forwards)?;
    let mut passt = Passt(Some(child));
    drop(far);
    let Some(child) = &mut passt.0 else { return Ok((near, passt)) };
    if !ready.wait(child).map_err(internal())? {
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut said).map_err(internal())?;
        }
        let lines = said.lines().map(str::trim).filter(|l| !l.is_empty() && !l.contains("to syslog"));
        let why = lines.collect::<Vec<_>>().join("; ");
        return Err(Error::Program { program: "passt", said: format!("does not start: {why}") });
    }
    Ok((near, passt))
}

fn spawn(far: &UnixStream, ready: &ReadyFifo, forwards: &[Forward]) -> Result<Child> {
    let fd = far.as_raw_fd();
    let mut command = Command::new("passt");
    command.args(["--quiet", "--foreground", "--fd", &fd.to_string(), "--pid"]).arg(&ready.path);
    for forward in forwards {
        let option = match forward.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        let ports = format!("{}:{}", forward.host_port, forward.guest_port);
        match forward.host_address.is_unspecified() {
            true => command.arg(option).arg(ports),
            false => command.arg(option).arg(format!("{}/{ports}", forward.host_address)),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: fcntl is safe between fork and exec; the descriptor is open in the child as in the parent.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing { program: "passt", package: "passt" },
        _ => Error::Io { doing: "starting passt".into(), source: error },
    })
}

/// Gives passt's end as much room as the host allows: what it has no room for, passt up to 2023 throws away.
fn enlarge(socket: &UnixStream) -> io::Result<()> {
    if rustix::net::sockopt::set_socket_send_buffer_size_force(socket, SOCKET_ROOM).is_err() {
        rustix::net::sockopt::set_socket_send_buffer_size(socket, SOCKET_ROOM)?;
    }
    Ok(())
}

/// Where passt writes its number when it is ready: a FIFO that the user it changes to can open.
struct ReadyFifo {
    path: PathBuf,
    file: File,
    _folder: TempDir,
}

impl ReadyFifo {
    fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tessera-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir()?;
        let path = folder.path().join("passt.pid");
        rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600))?;
        // Both ways, so that there is always a writer and reading waits.
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.set_permissions(Permissions::from_mode(0o622))?;
        Ok(Self { path, file, _folder: folder })
    }

    /// Waits until `child` is ready; false if it ended instead.
    fn wait(&self, child: &mut Child) -> io::Result<bool> {
        const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        loop {
            let mut ready = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN)];
            if poll(&mut ready, Some(&LOOK_AGAIN))? > 0 {
                return Ok(true);
            }
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
        }
    }
}

/// passt goes on without a port that is taken, so that is found out before.
fn check_port(number: usize, forward: &Forward) -> Option<Fault> {
    let address = SocketAddr::new(forward.host_address, forward.host_port);
    let bound = match forward.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    let error = bound.err()?;
    let pointer = format!("/forwards/{number}/host_port");
    let detail = format!("cannot be forwarded: {error}");
    Some(Fault::new(pointer, address, detail, "choose a port that is free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let forward = Forward {
            protocol: Protocol::Tcp,
            host_address: address.ip(),
            host_port: address.port(),
            guest_address: None,
            guest_port: 22,
        };
        let error = start(&[forward]).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("/forwards/0/host_port"), "{error}");
    }
}
