//! `tessera completions` and `tessera man`: what shells and manuals know of the command line, made from it.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::cli::Cli;
use crate::failure::{Failure, Result};

/// Arguments of `tessera completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to make them for
    shell: clap_complete::Shell,
}

impl CompletionsArgs {
    /// Prints the completions on stdout.
    pub fn execute(self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tessera", &mut script);
        // Whoever reads may stop early; that is no failure.
        let _ = io::stdout().write_all(&script);
    }
}

/// Arguments of `tessera man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder; it is made if it does not exist
    folder: PathBuf,
}

impl ManArgs {
    /// Writes one page for each command.
    pub fn execute(self) -> Result<()> {
        let write = || {
            std::fs::create_dir_all(&self.folder)?;
            clap_mangen::generate_to(Cli::command(), &self.folder)
        };
        write().map_err(|error: io::Error| Failure::input(format!("{}: {error}", self.folder.display())))
    }
}
