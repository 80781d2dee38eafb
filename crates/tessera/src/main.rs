//! The command line of Tessera: boots a machine in the foreground and keeps the images that machines boot from.

mod cli;
mod client;
mod colour;
mod console;
mod devices;
mod failure;
mod network;
mod progress;
mod site;
mod socket;
mod top;

use std::backtrace::Backtrace;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use failure::Status;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

fn main() -> ExitCode {
    cli::complete::answer();
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
    start_log(cli.serves());
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

/// Sends the program's own log to stderr, and the daemon's also to where it is kept; `TESSERA_LOG` chooses what (for example `vmm=debug`),
/// unless it is told `warn` for the one and `info` for the other.
fn start_log(daemon: bool) {
    let filter = |usual| EnvFilter::try_from_env("TESSERA_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let stderr = fmt::layer().with_target(false).compact().with_writer(std::io::stderr);
    let kept = fmt::layer().with_target(false).compact().with_ansi(false).with_writer(|| host::log::Writer);
    let kept = daemon.then(|| kept.with_filter(filter("info")));
    tracing_subscriber::registry().with(stderr.with_filter(filter("warn"))).with(kept).init();
    if daemon {
        std::panic::set_hook(Box::new(|panic| {
            tracing::error!("a fault in the daemon: {panic}\n{}", Backtrace::capture());
        }));
    }
}
