//! Locks a guest's process in, before it has seen a byte that the guest's owner or the guest chose. What it needs is open by then;
//! afterwards it reaches nothing else, whatever a guest makes of it:
//!
//! 1. namespaces of its own: no network, no mounts but an empty folder, no other processes' System V objects,
//! 2. a user that nobody else is, without capabilities or groups, who never gains any,
//! 3. Landlock: no path can be opened, no TCP port bound or connected to, even where the above was not allowed,
//! 4. a filter of system calls: those that a machine needs; any other ends the process.
//!
//! docs/security.md shows what is left.

mod identity;
mod namespaces;
mod paths;
mod syscalls;

use std::io;

/// A process cannot be locked in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed that has to work.
    #[error("{what}: {error}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// The kernel does not filter system calls.
    #[error("system calls cannot be filtered: {0}")]
    Filter(String),
}

/// Names the step that failed.
fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Call { what, error: error.into() }
}

/// Locks the calling process in. It must have one thread; those that it starts later are locked in as well. `user` is the user and
/// the group that it becomes, if root calls; everybody else stays who they are.
///
/// Gives what this kernel or its administrator does not allow, and what is weaker for it.
///
/// # Errors
/// If a step fails that does not depend on the kernel's settings. The process is partly locked in then, and should end.
pub fn lock_in(user: Option<u32>) -> Result<Vec<String>, Error> {
    let root = rustix::process::geteuid().is_root();
    let mut weaker = Vec::new();
    match namespaces::leave(root) {
        Ok(()) => {}
        Err(error) if root => return Err(error),
        Err(error) => weaker.push(format!("it has no namespaces of its own ({error})")),
    }
    identity::give_up(user.filter(|_| root))?;
    weaker.extend(paths::close()?);
    syscalls::filter()?;
    Ok(weaker)
}
