//! The verbs of the command line, one file each.

mod image;
pub mod options;
mod run;
mod shell;
mod stats;
mod vmm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::{Result, Status};

/// Boots virtual machines on any x86-64 Linux machine, with KVM or without it.
#[derive(Debug, Parser)]
#[command(name = "tessera", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot one machine in the foreground
    Run(Box<run::RunArgs>),
    /// Build, import, list and remove the images that machines boot from
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Run one machine that another program drives over a socket: JSON-RPC 2.0, a message a line
    Vmm(vmm::VmmArgs),
    /// Print the completions of a shell
    Completions(shell::CompletionsArgs),
    /// Write the manual pages into a folder
    Man(shell::ManArgs),
}

impl Cli {
    /// Does what the command line asks, and says how the process is to end.
    pub fn execute(self) -> Result<ExitCode> {
        match self.command {
            Command::Run(args) => return run::run(*args),
            Command::Image(command) => command.execute()?,
            Command::Vmm(args) => args.execute()?,
            Command::Completions(args) => args.execute(),
            Command::Man(args) => args.execute()?,
        }
        Ok(Status::Done.into())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
