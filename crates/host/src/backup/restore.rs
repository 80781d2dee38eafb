//! A host again from its backup: everything is unpacked and looked at in a folder apart; that it is whole is one renaming, and what
//! remains to be done after that the next start would do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::FlockOperation;

use super::{ABOUT, About, DATABASE, FILES, FORMAT};
use crate::events::Happening;
use crate::paths::{self, Paths, PathsError};
use crate::pools;
use crate::records;
use crate::store::{Seized, Sqlite, Store, StoreError, Transaction};
use crate::tls::{Certificates, TlsError};

/// Where what was restored lies until it is in its place.
const RESTORED: &str = "restored";
/// More than any store of a host takes, bytes.
const LARGEST_DATABASE: u64 = 16 << 30;
/// More than any other file of a backup takes, bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// A backup cannot be restored. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A daemon has the folder.
    #[error("{0}: a daemon uses this folder: stop it first")]
    InUse(PathBuf),
    /// Something is there.
    #[error(
        "{0}: the folder is not empty; with --force what a host knows there is replaced, and its disks and images stay"
    )]
    NotEmpty(PathBuf),
    /// Guests of the folder's host run.
    #[error("{folder}: the guest {guest} of this host runs: stop the guests first, then the daemon")]
    Running {
        /// The state's folder.
        folder: PathBuf,
        /// One of them.
        guest: String,
    },
    /// The host would remove disks that it does not know any more.
    #[error(
        "{folder}: the backup knows nothing of the guest that has the disk {disk}, and the host would remove it: \
         move it elsewhere, or delete it ({count} such disks)"
    )]
    Disks {
        /// Where they are.
        folder: PathBuf,
        /// One of them.
        disk: String,
        /// How many there are.
        count: usize,
    },
    /// It is something else, or broken.
    #[error("this is no whole backup of a host: {0}")]
    Archive(String),
    /// A newer program wrote it.
    #[error("the backup is of Tessera {version}, whose backups this one cannot read: use that one")]
    Newer {
        /// The version of that program.
        version: String,
    },
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// The folder cannot be used.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// The store in it cannot be used.
    #[error("the store in the backup: {0}")]
    Store(#[from] StoreError),
    /// The authority in it cannot be used.
    #[error("the certificate authority in the backup: {0}")]
    Tls(#[from] TlsError),
}

fn told(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |error| RestoreError::File(path, error)
}

/// Makes the host in the folder `state` what the backup in `archive` says it was; `force` replaces what a host knows there. Guests are
/// taken to have ended with the machine.
///
/// # Errors
/// If a daemon uses the folder, guests of it run, there is something in it and no force, or the archive is not whole.
pub async fn restore(archive: File, state: &Path, force: bool) -> Result<About, RestoreError> {
    paths::make(state).and_then(|()| finish(state)).map_err(told(state))?;
    let _seized = seize(state)?;
    let mut entries = fs::read_dir(state).map_err(told(state))?;
    if !force && entries.next().is_some() {
        return Err(RestoreError::NotEmpty(state.to_owned()));
    }
    nothing_runs(state)?;
    let draft = tempfile::Builder::new().prefix("restore-").tempdir_in(state).map_err(told(state))?;
    let about = unpack(archive, draft.path())?;
    {
        let store = Sqlite::open(&draft.path().join(DATABASE))?;
        settle(&store, state, &about).await?;
    }
    Certificates::open(&draft.path().join("tls"), about.host, &about.name, None)?;
    Paths::new(state)?;
    let draft = draft.keep();
    let restored = state.join(RESTORED);
    let commit = || {
        for folder in [draft.join("tls"), draft.clone()] {
            File::open(folder)?.sync_all()?;
        }
        fs::rename(&draft, &restored)?;
        File::open(state)?.sync_all()
    };
    if let Err(error) = commit() {
        // What is wrong has been said; what stays is in nobody's way.
        let _ = fs::remove_dir_all(&draft);
        return Err(told(&restored)(error));
    }
    finish(state).map_err(told(state))?;
    Ok(about)
}

/// Sees to it that no daemon begins to use what is there. What is broken is used by none.
fn seize(state: &Path) -> Result<Option<Seized>, RestoreError> {
    let database = state.join(DATABASE);
    if !database.exists() {
        return Ok(None);
    }
    match Seized::new(&database) {
        Ok(seized) => Ok(Some(seized)),
        Err(error) if error.is_busy() => Err(RestoreError::InUse(state.to_owned())),
        Err(_) => Ok(None),
    }
}

fn nothing_runs(state: &Path) -> Result<(), RestoreError> {
    for entry in fs::read_dir(state.join("run")).into_iter().flatten().flatten() {
        if UnixStream::connect(entry.path().join("control.sock")).is_ok() {
            let guest = entry.file_name().to_string_lossy().into_owned();
            return Err(RestoreError::Running { folder: state.to_owned(), guest });
        }
    }
    Ok(())
}

/// Unpacks the archive into a folder: what belongs into it, once each, and nothing else.
fn unpack(archive: File, folder: &Path) -> Result<About, RestoreError> {
    let broken = |error: io::Error| RestoreError::Archive(error.to_string());
    fs::create_dir(folder.join("tls")).map_err(told(folder))?;
    let mut about = None;
    let mut missing: Vec<_> = [(DATABASE, 0o600)].into_iter().chain(FILES).collect();
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refused = |why: &str| {
            let shown: String = name.chars().take(80).collect();
            RestoreError::Archive(format!("'{}' in it {why}", shown.escape_debug()))
        };
        if !entry.header().entry_type().is_file() {
            return Err(refused("is no file"));
        }
        if about.is_none() {
            if name != ABOUT || entry.size() > LARGEST_FILE {
                return Err(refused("is not what it begins with"));
            }
            about = Some(read_about(entry)?);
            continue;
        }
        let at = missing.iter().position(|(known, _)| *known == name);
        let (_, mode) = missing.remove(at.ok_or_else(|| refused("does not belong there"))?);
        if entry.size() > if name == DATABASE { LARGEST_DATABASE } else { LARGEST_FILE } {
            return Err(refused("is larger than it can be"));
        }
        let path = folder.join(&name);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let mut file = file.map_err(told(&path))?;
        io::copy(&mut entry, &mut file).map_err(broken)?;
        file.sync_all().map_err(told(&path))?;
    }
    let about = about.ok_or_else(|| RestoreError::Archive("it is empty".into()))?;
    match missing.first() {
        Some((name, _)) => Err(RestoreError::Archive(format!("there is no {name} in it"))),
        None => Ok(about),
    }
}

fn read_about(entry: impl Read) -> Result<About, RestoreError> {
    let value: serde_json::Value =
        serde_json::from_reader(entry).map_err(|error| RestoreError::Archive(error.to_string()))?;
    // Of one that is newer only this is known.
    if value["format"].as_u64().is_some_and(|format| format > FORMAT.into()) {
        let version = value["version"].as_str().unwrap_or("an unknown version").chars().take(40).collect();
        return Err(RestoreError::Newer { version });
    }
    serde_json::from_value(value).map_err(|error| RestoreError::Archive(format!("{ABOUT}: {error}")))
}

/// Looks at what the store knows, and has it know that the machine has ended since.
async fn settle(store: &Sqlite, state: &Path, about: &About) -> Result<(), RestoreError> {
    let host = crate::daemon::id(store).await?;
    if host != Some(about.host) {
        return Err(RestoreError::Archive(format!("{DATABASE} in it is of another host than {ABOUT}")));
    }
    let (records, _) = records::list(store).await?;
    let folder = state.join("pools/default");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let unknown = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let owner = pools::owner(&name.parse().ok()?)?;
        records.iter().all(|(record, _)| record.vm.id != owner).then_some(name)
    });
    let disks: Vec<_> = unknown.collect();
    if let Some(disk) = disks.first() {
        return Err(RestoreError::Disks { folder, disk: disk.clone(), count: disks.len() });
    }
    let message = format!("is what it was at {}, by a backup", about.created);
    let happening = Happening::new("host.restored", message).to("/api/v1/host", &about.name);
    let transaction = crate::daemon::forget_boot(about.host, Transaction::new())?;
    store.commit(happening.add(transaction)?).await?;
    Ok(())
}

/// Puts what was restored in its place, if that was not finished. Nobody may use the store at `state` meanwhile.
///
/// # Errors
/// If a file cannot be moved; it can be tried again.
pub fn finish(state: &Path) -> io::Result<()> {
    let restored = state.join(RESTORED);
    if !restored.exists() {
        return Ok(());
    }
    let folder = File::open(state)?;
    // Of two that do so one may believe that a log which the other's database has begun is an old one.
    rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
    let absent = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    for (name, _) in FILES {
        absent(fs::rename(restored.join(name), state.join(name)))?;
    }
    if restored.join(DATABASE).exists() {
        for log in ["-wal", "-shm", "-journal"] {
            absent(fs::remove_file(state.join(format!("{DATABASE}{log}"))))?;
        }
        fs::rename(restored.join(DATABASE), state.join(DATABASE))?;
    }
    folder.sync_all()?;
    absent(fs::remove_dir_all(&restored))
}
