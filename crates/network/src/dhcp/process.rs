//! A dnsmasq: started as no root, found again by what it was started with, ended for sure.

use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

use super::Files;
use crate::error::{Error, Result};

const PROGRAM: &str = "dnsmasq";
/// Whom it runs as, if there are such: the first that the system has.
const USERS: [&str; 2] = ["dnsmasq", "nobody"];
/// What it may do beyond that: answer at port 53, hear who has no address yet, and tell the kernel their cards.
const CAPABILITIES: &str = "-all,+net_bind_service,+net_raw,+net_admin";
/// How long it may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// A process that cannot be mistaken for another.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    descriptor: OwnedFd,
}

impl Process {
    /// The server that runs with these files, in this network namespace. A number alone would not do, since the kernel gives
    /// numbers again: what is held on to here must have been started with our configuration.
    pub(super) fn find(files: &Files) -> Option<Self> {
        let text = std::fs::read_to_string(files.pid()).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let descriptor = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let configuration = configured(files);
        let ours = line.split(|byte| *byte == 0).any(|argument| argument == configuration.as_bytes());
        let here = std::fs::metadata("/proc/thread-self/ns/net").ok()?.ino();
        let there = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
        (ours && here == there).then_some(Self { pid, descriptor })
    }

    /// Has it read its guests again.
    pub(super) fn reload(&self) -> Result<()> {
        match pidfd_send_signal(&self.descriptor, Signal::HUP) {
            // Its end is noticed by who watches.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::Io { doing: "telling dnsmasq its guests".into(), source: error.into() }),
        }
    }

    /// Resolves when it has ended; none if that cannot be watched.
    pub(super) fn ended(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let own = self.descriptor.try_clone().ok()?;
        // SAFETY: an OwnedFd is the same descriptor as long as it lives, and open.
        let descriptor = unsafe { AsyncFd::register(own) }.ok()?;
        Some(async move {
            // An error can only mean that the runtime ends.
            let _ = descriptor.readable().await;
        })
    }

    /// Ends it, by force if it takes too long.
    pub(super) async fn end(self) -> Result<()> {
        let told =
            |error: rustix::io::Errno| Error::Io { doing: "ending dnsmasq".into(), source: error.into() };
        for signal in [Signal::TERM, Signal::KILL] {
            match pidfd_send_signal(&self.descriptor, signal) {
                Ok(()) => {}
                Err(rustix::io::Errno::SRCH) => return Ok(()),
                Err(error) => return Err(told(error)),
            }
            let Some(ended) = self.ended() else { return Ok(()) };
            if tokio::time::timeout(PATIENCE, ended).await.is_ok() {
                return Ok(());
            }
        }
        Err(Error::Program { program: PROGRAM, said: format!("process {} does not end", self.pid) })
    }
}

fn configured(files: &Files) -> String {
    format!("--conf-file={}", files.configuration().display())
}

/// Makes the folders of a network's server: one that it reads, and in that one that it writes.
pub(super) fn make_folders(files: &Files) -> Result<()> {
    let own = files.own();
    if own.is_dir() {
        return Ok(());
    }
    let open = |path: &Path| {
        std::fs::create_dir_all(path)
            .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o755)))
            .map_err(Error::file("making", path))
    };
    if let Some(all) = files.folder.parent() {
        open(all)?;
    }
    open(&files.folder)?;
    let user = user()?;
    // Named only when it is complete.
    let beside = files.folder.join("own.new");
    std::fs::create_dir_all(&beside)
        .and_then(|()| std::os::unix::fs::chown(&beside, Some(user.uid), Some(user.gid)))
        .and_then(|()| std::fs::rename(&beside, &own))
        .map_err(Error::file("making", &own))
}

struct User {
    uid: u32,
    gid: u32,
}

fn user() -> Result<User> {
    let path = Path::new("/etc/passwd");
    let text = std::fs::read_to_string(path).map_err(Error::file("reading", path))?;
    let find = |wanted: &&str| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(wanted) {
                return None;
            }
            Some(User { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        })
    };
    let none =
        || Error::Program { program: PROGRAM, said: "the system has no user dnsmasq and no nobody".into() };
    USERS.iter().find_map(find).ok_or_else(none)
}

/// Starts a server; returns when it answers. It goes on by itself, whatever becomes of this process.
pub(super) async fn start(files: &Files) -> Result<Process> {
    let user = user()?;
    let output = Command::new("setpriv")
        .arg(format!("--reuid={}", user.uid))
        .arg(format!("--regid={}", user.gid))
        .args(["--clear-groups", "--no-new-privs"])
        .arg(format!("--bounding-set={CAPABILITIES}"))
        .arg(format!("--inh-caps={CAPABILITIES}"))
        .arg(format!("--ambient-caps={CAPABILITIES}"))
        .arg(PROGRAM)
        .arg(configured(files))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing { program: "setpriv", package: "util-linux" },
            _ => Error::Io { doing: "starting dnsmasq".into(), source: error },
        })?;
    // The exit status of setpriv for a program that is not there.
    const NOT_FOUND: i32 = 127;
    if output.status.code() == Some(NOT_FOUND) {
        return Err(Error::Missing { program: PROGRAM, package: "dnsmasq-base" });
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if !output.status.success() {
        return Err(Error::Program { program: PROGRAM, said });
    }
    let gone = || Error::Program { program: PROGRAM, said: format!("it ended at once {said}") };
    Process::find(files).ok_or_else(gone)
}
