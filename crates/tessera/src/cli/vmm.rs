//! `tessera vmm`: one machine driven over a socket by another program.

use std::path::PathBuf;

use clap::Args;
use vmm::control;

use crate::failure::{self, Failure, Result};
use crate::socket;

/// Arguments of `tessera vmm`.
#[derive(Debug, Args)]
pub struct VmmArgs {
    /// Listen on this Unix socket, which only this user can reach
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// Lock this process in before it listens to anybody: it reaches only what it is handed
    #[arg(long)]
    sandbox: bool,
    /// The user and group that it becomes in the sandbox, if root starts it
    #[arg(long, value_name = "UID", requires = "sandbox")]
    user: Option<u32>,
}

impl VmmArgs {
    /// Serves the socket until a client says stop.
    pub fn execute(&self) -> Result<()> {
        let (listener, _file) = socket::listen("--control", &self.control)?;
        control::prepare();
        if self.sandbox {
            let weaker =
                sandbox::lock_in(self.user).map_err(|error| Failure::internal(failure::chain(&error)))?;
            weaker
                .iter()
                .for_each(|weaker| tracing::info!("the sandbox is weaker than it could be: {weaker}"));
        }
        control::serve(&listener).map_err(|error| Failure::internal(failure::chain(&error)))
    }
}
