//! The command line of Tessera: boots a machine in the foreground and keeps the images that machines boot from.

mod cli;
mod client;
mod console;
mod devices;
mod failure;
mod network;
mod progress;
mod socket;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use failure::Status;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come as "errors" too; clap prints those on stdout.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return Status::Done.into();
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return Status::BadInput.into();
        }
        Err(error) => {
            eprintln!("tessera: {}", one_line(&error.to_string()));
            return Status::BadInput.into();
        }
    };
    start_log();
    match cli.execute() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("tessera: {failure}");
            failure.status.into()
        }
    }
}

/// clap tells what is wrong in paragraphs, of which the last ones are the usage and where help is to be had.
fn one_line(error: &str) -> String {
    let told = error.lines().map(str::trim).filter(|line| !line.is_empty());
    let told =
        told.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let line = told.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// Sends the program's own log to stderr; `TESSERA_LOG` chooses what (`warn` unless told, for example `vmm=debug`).
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TESSERA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .compact()
        .init();
}
