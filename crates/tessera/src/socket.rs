//! Unix sockets that a command listens on while it runs.

use std::fs::{Permissions, remove_file, set_permissions};
use std::io::Error;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// A socket's file, which goes with the process.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it before us had a reason.
        let _ = remove_file(&self.0);
    }
}

/// Listens at `path`, where only this user can connect; `option` says in errors who wanted that.
///
/// # Errors
/// If there is something at the path, or no socket can be made there.
pub fn listen(option: &str, path: &Path) -> Result<(UnixListener, SocketFile)> {
    let told = |error: Error| Failure::input(format!("{option} {}: {error}", path.display()));
    let listener = UnixListener::bind(path).map_err(told)?;
    let file = SocketFile(path.to_owned());
    set_permissions(path, Permissions::from_mode(0o600)).map_err(told)?;
    Ok((listener, file))
}
