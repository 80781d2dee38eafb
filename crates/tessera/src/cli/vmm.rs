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
}

impl VmmArgs {
    /// Serves the socket until a client says stop.
    pub fn execute(&self) -> Result<()> {
        let (listener, _file) = socket::listen("--control", &self.control)?;
        control::serve(&listener).map_err(|error| Failure::internal(failure::chain(&error)))
    }
}
