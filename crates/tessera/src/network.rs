//! The networks behind a machine's cards: taps that are there, and the user-mode network, which the program `passt` is.

use std::fs::{File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode};
use tempfile::TempDir;
use vmm::virtio::net::{Backend, Net, Stream, Tap};

use crate::cli::options::{NetOption, PortForward};
use crate::failure::{Failure, Result};

/// The largest packet passt carries: an IP packet of 65535 bytes less what its framing takes, rounded down to words.
const PASST_MTU: u16 = 65520;

/// Network cards, and the programs behind them, which must live as long.
#[derive(Default)]
pub struct Network {
    /// One a network.
    pub cards: Vec<Net>,
    /// Held only to be dropped.
    pub programs: Vec<Passt>,
}

/// Room of a socket between a card and passt, bytes: more than a TCP window.
const SOCKET_ROOM: usize = 8 << 20;

/// Makes the cards a person asked for; one on a user-mode network if nothing was asked, and passt is there.
pub fn connect(options: &[NetOption]) -> Result<Network> {
    let default = [NetOption::User { forwards: Vec::new() }];
    if options.is_empty() && !passt_is_there() {
        eprintln!("tessera: the guest has no network, because the program passt is not installed");
        return Ok(Network::default());
    }
    let wanted = if options.is_empty() { &default[..] } else { options };
    let mut network = Network::default();
    for (number, option) in wanted.iter().enumerate() {
        let backend: Box<dyn Backend> = match option {
            NetOption::None => continue,
            NetOption::User { forwards } => {
                let (stream, passt) = user_network(forwards)?;
                network.programs.push(passt);
                Box::new(stream)
            }
            NetOption::Tap { name } => {
                let told =
                    |error: io::Error| Failure::input(format!("--net tap={name}: {}", why_no_tap(&error)));
                Box::new(Tap::open(name).map_err(told)?)
            }
        };
        network.cards.push(Net::new(address(number, option), backend));
    }
    Ok(network)
}

fn why_no_tap(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another program uses it".into(),
        Some(libc::EINVAL) => "it is no tap device, or one for several queues".into(),
        _ => error.to_string(),
    }
}

/// A locally administered address that stays the same from run to run. On a tap it must be no other guest's: it comes from
/// the tap's name and this machine's own identity. Behind passt nobody else sees it.
fn address(number: usize, option: &NetOption) -> [u8; 6] {
    let mut hasher = DefaultHasher::new();
    number.hash(&mut hasher);
    if let NetOption::Tap { name } = option {
        name.hash(&mut hasher);
        std::fs::read("/etc/machine-id").unwrap_or_default().hash(&mut hasher);
    }
    let hash = hasher.finish().to_be_bytes();
    [0x52, 0x54, hash[0], hash[1], hash[2], hash[3]]
}

fn passt_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("passt").is_file())
}

/// A running passt. It ends when the other end of its socket is closed, however this process ends; an old one may miss
/// that in the middle of a transfer, so it is ended when this is dropped.
#[derive(Debug)]
pub struct Passt(Child);

impl Drop for Passt {
    fn drop(&mut self) {
        // It has ended already: then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts passt on one end of a socket pair; returns when it is ready.
fn user_network(forwards: &[PortForward]) -> Result<(Stream, Passt)> {
    for forward in forwards {
        check_port(forward)?;
    }
    let internal = |error: io::Error| Failure::internal(format!("the user network: {error}"));
    let (near, far) = UnixStream::pair().map_err(internal)?;
    enlarge(&far).map_err(internal)?;
    let fd = far.as_raw_fd();
    let ready = ReadyFifo::new().map_err(internal)?;
    let mut command = Command::new("passt");
    command.args(["--quiet", "--foreground", "--fd", &fd.to_string(), "--pid"]).arg(&ready.path);
    for forward in forwards {
        command.arg("--tcp-ports").arg(format!("{}/{}:{}", forward.address, forward.host, forward.guest));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: fcntl is safe between fork and exec; the descriptor is open in the child as in the parent.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::input("--net user: the program passt is not installed"),
        _ => Failure::internal(format!("passt: {error}")),
    })?;
    let mut passt = Passt(child);
    drop(far);
    if !ready.wait(&mut passt.0).map_err(internal)? {
        let mut said = String::new();
        if let Some(mut stderr) = passt.0.stderr.take() {
            stderr.read_to_string(&mut said).map_err(internal)?;
        }
        let lines = said.lines().map(str::trim).filter(|l| !l.is_empty() && !l.contains("to syslog"));
        let why = lines.collect::<Vec<_>>().join("; ");
        return Err(Failure::input(format!("--net user: passt does not start: {why}")));
    }
    Ok((Stream::new(near, PASST_MTU).map_err(internal)?, passt))
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
fn check_port(forward: &PortForward) -> Result<()> {
    let address = SocketAddr::new(forward.address, forward.host);
    TcpListener::bind(address)
        .map(drop)
        .map_err(|error| Failure::input(format!("--net user: port {address} cannot be forwarded: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_local_stable_and_differ() {
        let user = NetOption::User { forwards: Vec::new() };
        let tap = |name: &str| NetOption::Tap { name: name.into() };
        let all = [address(0, &user), address(1, &user), address(0, &tap("tap0")), address(0, &tap("tap1"))];
        for (i, mac) in all.iter().enumerate() {
            assert_eq!(mac[0] & 3, 2, "local, and one station's");
            assert!(!all[i + 1..].contains(mac));
        }
        assert_eq!(address(0, &tap("tap0")), all[2]);
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let forward = PortForward { address: address.ip(), host: address.port(), guest: 22 };
        let error = check_port(&forward).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
