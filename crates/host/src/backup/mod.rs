//! What a host knows, in one file: a tar archive, compressed with gzip.
//!
//! ```text
//! backup.json        what it is, and of which host
//! host.db            the store: guests, networks, pools, templates, users, tokens, tasks, events
//! tls/ca.{key,pem,name}   the host's own certificate authority
//! ```
//!
//! Disks and images are not in it, nor the audit log. Whoever can read it can be this host for all who trust its authority.

mod restore;

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use api::{Id, Time};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use crate::store::{Sqlite, Store, StoreError};

pub use restore::{RestoreError, finish, restore};

/// The layout of the archive that this program writes, and the newest that it reads.
const FORMAT: u32 = 1;
const ABOUT: &str = "backup.json";
const DATABASE: &str = "host.db";
/// What else of the state's folder is in it, and for whom it is to read there.
const FILES: [(&str, u32); 3] = [("tls/ca.key", 0o600), ("tls/ca.pem", 0o644), ("tls/ca.name", 0o600)];
/// How the folder of a backup that is being made is called.
const DRAFT: &str = "backup-";

/// What a backup says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// The layout of the archive.
    format: u32,
    /// The version of the program that wrote it.
    pub version: String,
    /// The host.
    pub host: Id,
    /// The name of the machine that the host was on.
    pub name: String,
    /// When it was made.
    pub created: Time,
}

impl About {
    /// Of the host `host`, on a machine of this name, as of now.
    pub fn now(host: Id, name: String) -> Self {
        let version = env!("CARGO_PKG_VERSION").into();
        Self { format: FORMAT, version, host, name, created: Time::now() }
    }
}

/// A backup cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// The store cannot be read.
    #[error("{0}: {1}")]
    Store(PathBuf, #[source] StoreError),
    /// There is nothing.
    #[error("{0}: there is no host's state in this folder")]
    NoHost(PathBuf),
    /// A daemon has the folder, and was not asked.
    #[error(
        "{0}: a daemon uses this folder and listens at another socket than {0}/host.sock: name it with --host"
    )]
    InUse(PathBuf),
}

/// Writes a backup of the host whose store is `store` into a file without a name, from which it can be read.
///
/// # Errors
/// If something cannot be read, or there is no room in the state's folder.
pub async fn make(store: &dyn Store, paths: &Paths, about: About) -> Result<File, BackupError> {
    let state = paths.state().to_owned();
    let draft = tempfile::Builder::new().prefix(DRAFT).tempdir_in(&state);
    let draft = draft.map_err(|error| BackupError::File(state.clone(), error))?;
    let copy = draft.path().join(DATABASE);
    store.backup(&copy).await.map_err(|error| BackupError::Store(paths.database(), error))?;
    let written = tokio::task::spawn_blocking(move || {
        // The folder goes with the last of what needs it.
        let copy = draft.path().join(DATABASE);
        write(&state, &copy, &about)
    });
    written.await.map_err(|error| BackupError::File(paths.state().to_owned(), io::Error::other(error)))?
}

fn write(state: &Path, database: &Path, about: &About) -> Result<File, BackupError> {
    let told = |path: &Path| {
        let path = path.to_owned();
        move |error| BackupError::File(path, error)
    };
    let archive = tempfile::tempfile_in(state).map_err(told(state))?;
    let mut tar = tar::Builder::new(GzEncoder::new(archive, Compression::default()));
    let text = serde_json::to_vec_pretty(about).map_err(io::Error::from).map_err(told(state))?;
    add(&mut tar, ABOUT, text.len() as u64, &text[..]).map_err(told(state))?;
    let files = FILES.map(|(name, _)| (name, state.join(name)));
    for (name, path) in [(DATABASE, database.to_owned())].into_iter().chain(files) {
        let file = File::open(&path).map_err(told(&path))?;
        let length = file.metadata().map_err(told(&path))?.len();
        add(&mut tar, name, length, file).map_err(told(&path))?;
    }
    let finish = || {
        let mut archive = tar.into_inner()?.finish()?;
        archive.rewind()?;
        Ok(archive)
    };
    finish().map_err(told(state))
}

fn add(tar: &mut tar::Builder<impl io::Write>, name: &str, length: u64, from: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, from.take(length))
}

/// The same for a folder that no daemon uses at the moment.
///
/// # Errors
/// If one does, or something cannot be read.
pub async fn make_without_daemon(state: &Path) -> Result<File, BackupError> {
    if !state.join(DATABASE).exists() {
        return Err(BackupError::NoHost(state.to_owned()));
    }
    let paths =
        Paths::new(state).map_err(|error| BackupError::File(state.to_owned(), io::Error::other(error)))?;
    let told = |error| BackupError::Store(paths.database(), error);
    finish(paths.state()).map_err(|error| BackupError::File(state.to_owned(), error))?;
    let store = Sqlite::open(&paths.database()).map_err(|error| match error.is_busy() {
        true => BackupError::InUse(paths.state().to_owned()),
        false => told(error),
    })?;
    let host = crate::daemon::id(&store).await.map_err(told)?;
    let host = host.ok_or_else(|| BackupError::NoHost(state.to_owned()))?;
    make(&store, &paths, About::now(host, crate::machine::host_name())).await
}

/// Removes what a daemon left that was killed while it made a backup.
pub fn sweep(paths: &Paths) {
    for entry in fs::read_dir(paths.state()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(DRAFT))
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!("{} stays: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests;
