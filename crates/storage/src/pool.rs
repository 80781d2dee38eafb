//! A folder that volumes are kept in, and the hosts that use it.
//!
//! ```text
//! pool.json          what it is: its id and kind, the same for all hosts
//! .hosts/ID          one file a host: locked by its daemon, which says in it every few seconds that it is there
//! .hosts/merging     locked by the host that merges layers
//! .bases/KEY/        disks of images that linked volumes are based on
//! .layer-ID/         what volumes were before
//! .backups/ID/       backups of guests
//! .upload-NAME/      volumes that are being uploaded
//! NAME/              volumes
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use api::{Id, Invalid, Size, Time};
use serde::{Deserialize, Serialize};

use crate::definition::{PoolDefinition, PoolHost, PoolKind, PoolStatus};
use crate::{Error, Result, draft};

const ABOUT: &str = "pool.json";
const HOSTS: &str = ".hosts";
const MERGING: &str = "merging";
pub const BASES: &str = ".bases";
pub const BACKUPS: &str = ".backups";

/// How often [`Pool::beat`] is to be called.
pub const BEAT: Duration = Duration::from_secs(10);
/// A host that has not been heard of for so long does not use the pool any more.
const SILENCE: Duration = Duration::from_secs(45);
/// How long a host is listened for whose lock is not seen, though it was heard of: it has died, or locks do not reach us.
const PATIENCE: Duration = Duration::from_secs(15);

/// The host that a daemon looks after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
}

/// What all hosts know of a pool.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    id: Id,
    kind: PoolKind,
}

/// What a host says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Beat {
    name: String,
    seen: Time,
}

/// A pool that this host uses.
#[derive(Debug)]
pub struct Pool {
    folder: PathBuf,
    about: About,
    host: Host,
    /// Kept locked, for others to see that this host is there.
    mark: File,
    /// Whoever merges layers has this.
    merging: Mutex<()>,
}

/// Nobody else merges layers of the pool while this is there, on no host.
pub struct Merging<'a> {
    _here: MutexGuard<'a, ()>,
    _everywhere: File,
}

impl Pool {
    /// Begins to use a pool, which is made if there is none. Called once a daemon for each pool; what earlier ones left half done
    /// is cleared away.
    ///
    /// # Errors
    /// If the definition is wrong, the folder is a pool of another kind, another host uses it as its own, or locks do not reach the
    /// other hosts.
    pub fn open(definition: &PoolDefinition, host: &Host) -> Result<Pool> {
        Pool::open_within(definition, host, PATIENCE)
    }

    fn open_within(definition: &PoolDefinition, host: &Host, patience: Duration) -> Result<Pool> {
        let wrong = definition.check();
        if !wrong.is_empty() {
            return Err(Error::Invalid(wrong));
        }
        let folder = &definition.path;
        fs::create_dir_all(folder.join(HOSTS)).map_err(|error| invalid_path(folder, error))?;
        let about = about(folder, definition.kind)?;
        let mark = mark(&folder.join(HOSTS).join(host.id.to_string()), folder)?;
        let pool =
            Pool { folder: folder.clone(), about, host: host.clone(), mark, merging: Mutex::default() };
        pool.beat()?;
        pool.check_others(patience)?;
        if definition.kind == PoolKind::Directory {
            draft::sweep_alone(folder);
            draft::sweep_alone(&folder.join(BASES));
            draft::sweep_alone(&folder.join(BACKUPS));
        }
        // What cannot be read now keeps what it needs.
        let _ = pool.sweep_layers();
        pool.sweep_bases()?;
        Ok(pool)
    }

    /// Says that this host uses the pool; to be called every [`BEAT`].
    ///
    /// # Errors
    /// If the host cannot write there any more.
    pub fn beat(&self) -> Result<()> {
        let beat = Beat { name: self.host.name.clone(), seen: Time::now() };
        let write = || {
            let text = serde_json::to_vec(&beat)?;
            std::os::unix::fs::FileExt::write_all_at(&self.mark, &text, 0)?;
            self.mark.set_len(text.len() as u64)
        };
        write().map_err(Error::host(&self.folder))
    }

    /// Keeps others from merging layers; nothing if somebody does. What goes on in this process is waited for if that is said.
    pub(crate) fn merging(&self, wait: bool) -> Result<Option<Merging<'_>>> {
        let here = match (wait, self.merging.try_lock()) {
            (_, Ok(here)) => here,
            (_, Err(TryLockError::Poisoned(here))) => here.into_inner(),
            (true, Err(TryLockError::WouldBlock)) => {
                self.merging.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
            }
            (false, Err(TryLockError::WouldBlock)) => return Ok(None),
        };
        let path = self.folder.join(HOSTS).join(MERGING);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let everywhere = file.map_err(Error::host(&path))?;
        match disk::lock(&everywhere, false) {
            Ok(()) => Ok(Some(Merging { _here: here, _everywhere: everywhere })),
            Err(disk::OpenError::InUse) => Ok(None),
            Err(error) => Err(Error::disk(&path)(error)),
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it is now.
    ///
    /// # Errors
    /// If the host cannot tell.
    pub fn status(&self) -> Result<PoolStatus> {
        let room =
            rustix::fs::statvfs(&self.folder).map_err(|error| Error::host(&self.folder)(error.into()))?;
        Ok(PoolStatus {
            id: self.about.id,
            capacity: Size(room.f_blocks * room.f_frsize),
            available: Size(room.f_bavail * room.f_frsize),
            volumes: u32::try_from(self.names()?.len()).unwrap_or(u32::MAX),
            hosts: self.hosts()?.into_iter().map(|(host, _)| host).collect(),
        })
    }

    /// The hosts that have used it, and whether the lock of each is held.
    fn hosts(&self) -> Result<Vec<(PoolHost, bool)>> {
        let folder = self.folder.join(HOSTS);
        let entries = fs::read_dir(&folder).map_err(Error::host(&folder))?;
        let mut hosts = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::host(&folder))?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<Id>().ok()) else {
                continue;
            };
            // One that was only just made has nothing in it yet.
            let text = fs::read(entry.path()).unwrap_or_default();
            let Ok(beat) = serde_json::from_slice::<Beat>(&text) else { continue };
            let file = File::options().read(true).write(true).open(entry.path());
            let locked = id == self.host.id || file.is_ok_and(|file| disk::lock(&file, false).is_err());
            let silent = Time::now().duration_since(beat.seen).unsigned_abs() > SILENCE;
            let host = PoolHost { id, name: beat.name, seen: beat.seen, alive: locked || !silent };
            hosts.push((host, locked));
        }
        hosts.sort_by_key(|(host, _)| host.id);
        Ok(hosts)
    }

    fn check_others(&self, patience: Duration) -> Result<()> {
        for (other, locked) in self.hosts()? {
            if other.id == self.host.id || !other.alive || !locked && !self.speaks(&other, patience)? {
                continue;
            }
            let (path, host) = (self.folder.clone(), format!("{} ({})", other.name, other.id));
            match self.about.kind {
                PoolKind::Directory => return Err(Error::PoolTaken { path, host }),
                // Two guests could write to one disk.
                PoolKind::Shared if !locked => return Err(Error::PoolUnlocked { path, host }),
                PoolKind::Shared => {}
            }
        }
        Ok(())
    }

    /// Whether a host says again that it is there.
    fn speaks(&self, other: &PoolHost, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            if self.hosts()?.iter().any(|(host, _)| host.id == other.id && host.seen != other.seen) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Pool {
    /// A host that goes in order is not waited for.
    fn drop(&mut self) {
        let _ = fs::remove_file(self.folder.join(HOSTS).join(self.host.id.to_string()));
    }
}

fn invalid_path(folder: &Path, error: io::Error) -> Error {
    let value = folder.to_string_lossy().into_owned();
    Error::Invalid(vec![Invalid::new("/path", value, format!("it cannot be used: {error}"))])
}

/// What is known of the pool in a folder; a new one is what it is to be.
fn about(folder: &Path, kind: PoolKind) -> Result<About> {
    let path = folder.join(ABOUT);
    match fs::read(&path) {
        Ok(text) => {
            let about: About =
                serde_json::from_slice(&text).map_err(|error| Error::unusable(&path, error))?;
            if about.kind != kind {
                let is = match about.kind {
                    PoolKind::Directory => "a pool of one host: use it as directory",
                    PoolKind::Shared => "a pool of several hosts: use it as shared",
                };
                return Err(Error::Invalid(vec![Invalid::new(
                    "/kind",
                    word(kind),
                    format!("the folder is {is}"),
                )]));
            }
            Ok(about)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let about = About { id: Id::new(), kind };
            let text = serde_json::to_vec_pretty(&about).map_err(io::Error::from);
            text.and_then(|text| draft::write(&path, &text)).map_err(|error| invalid_path(folder, error))?;
            // Another host may have made it in the same moment: the last one counts for both.
            let text = fs::read(&path).map_err(Error::host(&path))?;
            serde_json::from_slice(&text).map_err(|error| Error::unusable(&path, error))
        }
        Err(error) => Err(Error::unusable(&path, error)),
    }
}

fn word(kind: PoolKind) -> &'static str {
    match kind {
        PoolKind::Directory => "directory",
        PoolKind::Shared => "shared",
    }
}

/// Makes and locks the file by which a host is seen.
fn mark(path: &Path, pool: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|error| invalid_path(pool, error))?;
    match disk::lock(&file, false) {
        Ok(()) => Ok(file),
        Err(disk::OpenError::InUse) => {
            Err(Error::PoolTaken { path: pool.to_owned(), host: "another daemon of this host".into() })
        }
        // Without locks two guests could write to one disk.
        Err(error) => Err(Error::unusable(pool, format!("files there cannot be locked: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host { id: Id::new(), name: name.into() }
    }

    fn definition(folder: &Path, kind: PoolKind) -> PoolDefinition {
        PoolDefinition {
            name: "pool".parse().unwrap(),
            description: String::new(),
            kind,
            path: folder.join("pool"),
            bandwidth: None,
            operations: None,
        }
    }

    #[test]
    fn a_folder_of_one_host_is_refused_to_another_until_the_first_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let definition = definition(home.path(), PoolKind::Directory);
        let (one, two) = (host("one"), host("two"));
        let pool = Pool::open(&definition, &one).unwrap();
        let error = Pool::open(&definition, &two).unwrap_err();
        assert!(matches!(&error, Error::PoolTaken { host, .. } if host.starts_with("one (")), "{error}");
        assert!(matches!(Pool::open(&definition, &one), Err(Error::PoolTaken { .. })));
        assert_eq!(pool.status().unwrap().hosts.len(), 1, "the one that was refused left no trace");
        drop(pool);
        Pool::open(&definition, &two).unwrap();
    }

    /// Puts down that a host was there, whose lock is not seen.
    fn heard(pool: &Path, id: Id, age: i64) {
        let seen = Time::now() - jiff::SignedDuration::from_secs(age);
        let beat = Beat { name: "far".into(), seen };
        fs::write(pool.join(HOSTS).join(id.to_string()), serde_json::to_vec(&beat).unwrap()).unwrap();
    }

    #[test]
    fn a_host_that_died_is_in_nobodys_way() {
        let home = tempfile::tempdir().unwrap();
        let definition = definition(home.path(), PoolKind::Directory);
        drop(Pool::open(&definition, &host("x")).unwrap());
        for age in [1, 500] {
            heard(&definition.path, Id::new(), age);
            Pool::open_within(&definition, &host("x"), Duration::from_millis(120)).unwrap();
        }
    }

    #[test]
    fn a_shared_folder_is_used_by_all_and_each_sees_the_others() {
        let home = tempfile::tempdir().unwrap();
        let shared = definition(home.path(), PoolKind::Shared);
        let one = Pool::open(&shared, &host("one")).unwrap();
        let two = Pool::open(&shared, &host("two")).unwrap();
        let (mine, theirs) = (one.status().unwrap(), two.status().unwrap());
        assert_eq!(mine, PoolStatus { available: mine.available, ..theirs });
        assert_eq!(
            mine.hosts.iter().map(|host| (host.name.as_str(), host.alive)).collect::<Vec<_>>(),
            [("one", true), ("two", true)]
        );
        let error = Pool::open(&definition(home.path(), PoolKind::Directory), &host("three")).unwrap_err();
        assert!(matches!(&error, Error::Invalid(wrong) if wrong[0].pointer == "/kind"), "{error}");
    }

    #[test]
    fn a_shared_folder_whose_locks_do_not_reach_other_hosts_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let shared = definition(home.path(), PoolKind::Shared);
        drop(Pool::open(&shared, &host("one")).unwrap());
        let (far, done) = (Id::new(), std::sync::atomic::AtomicBool::new(false));
        heard(&shared.path, far, 0);
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                    heard(&shared.path, far, 0);
                }
            });
            let error = Pool::open(&shared, &host("two")).unwrap_err();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            error
        });
        assert!(matches!(&error, Error::PoolUnlocked { .. }), "{error}");
    }

    #[test]
    fn a_path_that_cannot_be_a_pool_is_named() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("pool"), "a file").unwrap();
        let error = Pool::open(&definition(home.path(), PoolKind::Directory), &host("one")).unwrap_err();
        assert!(matches!(&error, Error::Invalid(wrong) if wrong[0].pointer == "/path"), "{error}");
    }
}
