//! A guest's process: started so that it outlives the daemon, and followed by its pidfd whoever started it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process, which stays when this goes.
pub struct Process {
    pid: Pid,
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts `tessera vmm`, locked in, with its control socket at `socket`, as a `user` of its own if we may do that; what it says goes
    /// to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &Path, socket: &Path, user: u32, log: &File) -> io::Result<Process> {
        let mut command = Command::new(program);
        command.arg("vmm").arg("--control").arg(socket);
        command.arg("--sandbox").arg("--user").arg(user.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        command.env_clear().current_dir("/");
        // In the daemon's process group it would get the signals that a terminal sends to the daemon.
        command.process_group(0);
        // Dropping the handle leaves the child alone; the pidfd is what we follow it by.
        let child = command.spawn()?;
        Process::find(child.id() as i32)
    }

    /// The process with this number, which may be of an earlier daemon.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(pid: i32) -> io::Result<Process> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        let fd = pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: the descriptor is moved in, and is the same open one until the registration ends with it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Process { pid, fd })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Waits until it has ended; says how, if we are its parent.
    pub async fn ended(&self) -> Option<ExitStatus> {
        // An error is as good as an end: there is nothing to follow any more.
        let _ = self.fd.readable().await;
        let status = waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), WaitIdOptions::EXITED).ok()??;
        let signal = status.terminating_signal().map(|signal| signal & 0x7f);
        let raw = signal.or(status.exit_status().map(|code| (code & 0xff) << 8))?;
        Some(ExitStatus::from_raw(raw))
    }

    /// Ends it at once.
    pub fn kill(&self) {
        // It may have ended already.
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::KILL);
    }
}
