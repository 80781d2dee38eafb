//! `tessera vmm`: one machine driven over a socket by another program.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use clap::Args;
use vmm::control;

use crate::failure::{self, Failure, Result};

/// Arguments of `tessera vmm`.
#[derive(Debug, Args)]
pub struct VmmArgs {
    /// Listen on this Unix socket, which only this user can reach
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
}

/// The socket's file, which goes with the process.
struct SocketFile<'a>(&'a Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        // Whoever removed it before us had a reason.
        let _ = std::fs::remove_file(self.0);
    }
}

impl VmmArgs {
    /// Serves the socket until a client says stop.
    pub fn execute(&self) -> Result<()> {
        let path = &self.control;
        let told = |error: std::io::Error| Failure::input(format!("--control {}: {error}", path.display()));
        let listener = UnixListener::bind(path).map_err(told)?;
        let _file = SocketFile(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(told)?;
        control::serve(&listener).map_err(|error| Failure::internal(failure::chain(&error)))
    }
}
