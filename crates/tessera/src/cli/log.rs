//! `tessera host log`: what the daemon says of its work.

use std::path::PathBuf;

use clap::Args;

use crate::cli::output::print;
use crate::client::HostOption;
use crate::failure::{self, Failure, Result, Status};

/// Arguments of `tessera host log`.
#[derive(Debug, Args)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub struct LogArgs {
    /// How many of the latest lines
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "200", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    lines: u64,
    /// Go on printing what it says
    #[arg(short, long)]
    follow: bool,
    /// The log of the host with this folder, in place of --host: its daemon is asked, or if none runs the folder is read
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl LogArgs {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let own = host.own(self.state_dir)?;
        let client = own.as_deref().map_or_else(|| host.client(), |state| host.client_of(state))?;
        let path = format!("/host/log?lines={}", self.lines);
        if self.follow {
            return client
                .stream(&path, &[], |kind, data| {
                    if kind == "line" {
                        let line: String = serde_json::from_str(data)
                            .map_err(|error| Failure::internal(error.to_string()))?;
                        print(&(line + "\n"));
                    }
                    Ok(true)
                })
                .await;
        }
        match (client.text(&path).await, own) {
            (Ok(text), _) => print(&String::from_utf8_lossy(&text)),
            (Err(failure), Some(state)) if failure.status == Status::Unreachable => {
                let folder = state.join("log");
                if !folder.exists() {
                    return Err(Failure::unreachable(format!("{failure}; there is no log in its folder")));
                }
                let lines = host::log::tail(&folder, self.lines as usize);
                let lines =
                    lines.map_err(|error| Failure::internal(format!("{}: {error}", folder.display())))?;
                eprintln!("tessera: no daemon answers: this is what it said before");
                print(&lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>());
            }
            (Err(failure), _) => return Err(failure),
        }
        Ok(())
    }
}
