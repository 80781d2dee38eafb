//! `tessera host backup` and `tessera host restore`: what a host knows, in one file and back.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use host::backup::{self, BackupError, RestoreError};
use reqwest::Method;
use tempfile::NamedTempFile;

use crate::cli::output::say;
use crate::client::{HostOption, default_state};
use crate::failure::{self, Failure, Result, Status};

/// Arguments of `tessera host backup`.
#[derive(Debug, Args)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub struct BackupArgs {
    /// The file to write: .tar.gz, for nobody else to read
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Back up the host with this folder, in place of --host: its daemon is asked, or if none runs the folder is read
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Arguments of `tessera host restore`.
#[derive(Debug, Args)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub struct RestoreArgs {
    /// The file that tessera host backup wrote
    file: PathBuf,
    /// The folder of the host's state; no daemon may use it [default: /var/lib/tessera, or ~/.local/state/tessera]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Replace what a host knows there; disks and images stay
    #[arg(long)]
    force: bool,
}

/// A file that becomes what is at a path when all of it is there. Only this user can read it.
pub struct Draft {
    file: NamedTempFile,
    to: PathBuf,
    force: bool,
}

impl Draft {
    /// For a file at `to`, which is replaced only by `force`.
    ///
    /// # Errors
    /// If it is there and not to be replaced, or its folder cannot be written.
    pub fn new(to: &Path, force: bool) -> Result<Self> {
        let told = |what: &dyn std::fmt::Display| Failure::input(format!("{}: {what}", to.display()));
        if !force && to.exists() {
            return Err(told(&"the file is there already: give another name, or --force"));
        }
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(folder).map_err(|error| told(&error))?;
        Ok(Self { file, to: to.to_owned(), force })
    }

    fn told(&self, error: &std::io::Error) -> Failure {
        Failure::internal(format!("{}: {error}", self.to.display()))
    }

    /// Where to write.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn writer(&self) -> Result<File> {
        self.file.as_file().try_clone().map_err(|error| self.told(&error))
    }

    /// It is whole.
    ///
    /// # Errors
    /// If it cannot be put at its path.
    pub fn finish(self) -> Result<()> {
        self.file.as_file().sync_all().map_err(|error| self.told(&error))?;
        let to = self.to.display().to_string();
        let kept =
            if self.force { self.file.persist(&self.to) } else { self.file.persist_noclobber(&self.to) };
        kept.map(drop).map_err(|error| Failure::internal(format!("{to}: {}", error.error)))
    }
}

impl BackupArgs {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let draft = Draft::new(&self.file, self.force)?;
        let own = host.own(self.state_dir)?;
        let client = own.as_deref().map_or_else(|| host.client(), |state| host.client_of(state))?;
        let asked = client.fetch(Method::POST, "/host/backup", &[], draft.writer()?).await;
        match (asked, own) {
            (Err(failure), Some(state)) if failure.status == Status::Unreachable => {
                let mut archive = backup::make_without_daemon(&state).await.map_err(|error| match error {
                    BackupError::NoHost(_) => {
                        Failure::unreachable(format!("{failure}; there is no host's state in its folder"))
                    }
                    BackupError::InUse(_) => Failure::new(Status::NotNow, error),
                    other => Failure::internal(failure::chain(&other)),
                })?;
                std::io::copy(&mut archive, &mut draft.writer()?).map_err(|error| draft.told(&error))?;
            }
            (other, _) => other?,
        }
        draft.finish()?;
        say(&format!(
            "{} has been written; disks, images and the audit log are not in it",
            self.file.display()
        ));
        Ok(())
    }
}

impl RestoreArgs {
    /// Does it.
    pub async fn execute(self) -> Result<()> {
        let state = self.state_dir.map_or_else(default_state, Ok)?;
        let told = |error| Failure::input(format!("{}: {error}", self.file.display()));
        let archive = File::open(&self.file).map_err(told)?;
        let about = backup::restore(archive, &state, self.force).await.map_err(|error| {
            let status = match &error {
                RestoreError::InUse(_) | RestoreError::NotEmpty(_) | RestoreError::Running { .. } => {
                    Status::NotNow
                }
                RestoreError::Disks { .. } => Status::NotNow,
                RestoreError::File(..) => Status::Internal,
                _ => Status::BadInput,
            };
            Failure::new(status, failure::chain(&error))
        })?;
        say(&format!(
            "{} is the host {} again, as it was on {} at {}; its disks and images are not in the backup",
            state.display(),
            about.host,
            about.name,
            about.created
        ));
        Ok(())
    }
}
