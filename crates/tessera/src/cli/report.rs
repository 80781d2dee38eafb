//! `tessera host report`: what is needed to find out what is wrong with a host, in one file.

use std::path::PathBuf;

use clap::Args;
use reqwest::Method;

use crate::cli::backup::Draft;
use crate::cli::output::say;
use crate::client::HostOption;
use crate::failure::{self, Result};

/// Arguments of `tessera host report`.
#[derive(Debug, Args)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub struct ReportArgs {
    /// The file to write: .tar.gz [default: tessera-report-TIME.tar.gz in this folder]
    file: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

impl ReportArgs {
    /// Does it.
    ///
    /// # Errors
    /// If the file cannot be written, or the host does not make it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let named =
            || jiff::Timestamp::now().strftime("tessera-report-%Y%m%dT%H%M%SZ.tar.gz").to_string().into();
        let file = self.file.unwrap_or_else(named);
        let draft = Draft::new(&file, self.force)?;
        host.client()?.fetch(Method::GET, "/host/report", &[], draft.writer()?).await?;
        draft.finish()?;
        say(&format!(
            "{} has been written; look through it before you hand it on: names, addresses and labels are in it",
            file.display()
        ));
        Ok(())
    }
}
