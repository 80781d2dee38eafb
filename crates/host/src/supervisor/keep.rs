//! Disks that stay when their guest goes: they become volumes like others.
//!
//! That they are to is committed together with the end of the guest, and done after that. A daemon that is killed in between has the next
//! one do it: either the guest is there with its disks, or it is gone and they are volumes.

use std::sync::Arc;

use api::{Disk, Id, Invalid, Name, Problem, VolumeName};
use serde::{Deserialize, Serialize};
use storage::{Held, Pool};

use super::disks::is_own;
use super::{storage_problem, store_problem};
use crate::pools::{self, Pools, own_volume};
use crate::store::{Store, StoreError, Transaction};

/// Where they are in the store.
const PREFIX: &str = "keep/";
/// The longest name, bytes.
const LONGEST: usize = 63;
/// How many names are tried.
const MOST: usize = 10_000;

/// That a guest's own disks are to stay.
#[derive(Debug, Clone)]
pub struct Keep {
    /// What they are to be called: so where there is one, so with a number behind it where there are several. By the guest's name if
    /// nothing is said.
    pub name: Option<Name>,
}

/// The disks of a guest that is gone, and what they are to become.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    id: Id,
    guest: Name,
    disks: Vec<Move>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Move {
    number: usize,
    from: Name,
    to: Name,
}

/// The same while nobody else can use them.
pub struct Ready {
    pool: Arc<Pool>,
    kept: Kept,
    held: Vec<Held>,
}

/// A time as it stands behind names of what is made then: `-20261127-140309`.
pub fn stamp(time: api::Time) -> String {
    time.strftime("-%Y%m%d-%H%M%S").to_string()
}

/// `base` with `rest` behind it, cut so that it is a name.
pub fn joined(base: &Name, rest: &str) -> Result<Name, Problem> {
    let base: String = base.as_str().chars().take(LONGEST - rest.len()).collect();
    let text = format!("{}{rest}", base.trim_end_matches('-'));
    text.parse().map_err(|error: api::NameError| Problem::internal(error.to_string()))
}

/// `name`, or with a number behind it the first that no volume of the pool and none of `others` has.
fn free(pool: &Pool, name: &Name, others: &[Move]) -> Result<Name, Problem> {
    let taken = |name: &Name| others.iter().any(|other| other.to == *name) || !is_free(pool, name);
    let mut found = name.clone();
    for n in 2..MOST {
        if !taken(&found) {
            return Ok(found);
        }
        found = joined(name, &format!("-{n}"))?;
    }
    Err(Problem::conflict(format!("there is no name left of those that begin with {name}: give another one")))
}

fn is_free(pool: &Pool, name: &Name) -> bool {
    matches!(pool.get(name, Vec::new()), Err(storage::Error::NoVolume(_)))
}

/// What the own disks of a guest are to become.
///
/// # Errors
/// If the name that is wanted is taken, or something is based on one of the disks.
pub fn plan(pools: &Pools, id: Id, guest: &Name, disks: &[Disk], keep: &Keep) -> Result<Kept, Problem> {
    let pool = pools.usual()?;
    let own: Vec<_> = disks
        .iter()
        .enumerate()
        .filter(|(_, disk)| is_own(disk))
        .map(|(place, disk)| disk.number(place))
        .collect();
    let mut kept = Kept { id, guest: guest.clone(), disks: Vec::new() };
    for &number in &own {
        let to = match &keep.name {
            Some(name) => {
                let wanted = if own.len() == 1 { name.clone() } else { joined(name, &format!("-{number}"))? };
                check(&pool, &wanted)?;
                wanted
            }
            None => free(&pool, &joined(guest, &format!("-disk-{number}"))?, &kept.disks)?,
        };
        let from = own_volume(id, number)?;
        let others = pool.get(&from, Vec::new()).map_err(storage_problem)?.base_of;
        if !others.is_empty() {
            return Err(storage_problem(storage::Error::BaseOf { name: from, others }));
        }
        kept.disks.push(Move { number, from, to });
    }
    Ok(kept)
}

impl Ready {
    /// Keeps the own disks of a guest that does not run from being used, to make of them what is planned.
    ///
    /// # Errors
    /// As [`plan`], or if something else uses one of the disks, or one is damaged.
    pub fn new(pools: &Pools, id: Id, guest: &Name, disks: &[Disk], keep: &Keep) -> Result<Self, Problem> {
        let (kept, pool) = (plan(pools, id, guest, disks, keep)?, pools.usual()?);
        let held = kept.disks.iter().map(|disk| pool.hold(&disk.from)).collect::<Result<_, _>>();
        Ok(Self { pool, kept, held: held.map_err(storage_problem)? })
    }

    /// What the disks are to be called, with commas between.
    pub fn names(&self) -> String {
        self.kept.disks.iter().map(|disk| disk.to.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Has it done after `transaction`, whatever happens.
    ///
    /// # Errors
    /// If it cannot be JSON.
    pub fn add(&self, transaction: Transaction) -> Result<Transaction, StoreError> {
        if self.kept.disks.is_empty() {
            return Ok(transaction);
        }
        transaction.put(key(self.kept.id), &self.kept)
    }

    /// Does it; gives the volumes.
    ///
    /// # Errors
    /// If the host fails.
    fn finish(&self) -> Result<Vec<VolumeName>, Problem> {
        let mut volumes = Vec::new();
        for (disk, held) in self.kept.disks.iter().zip(&self.held) {
            volumes.push(self.rename(disk, held)?);
        }
        Ok(volumes)
    }

    fn rename(&self, disk: &Move, held: &Held) -> Result<VolumeName, Problem> {
        let description = format!("was disk {} of the guest {}", disk.number, self.kept.guest);
        loop {
            // Somebody may have taken the name since.
            let name = free(&self.pool, &disk.to, &[])?;
            match self.pool.rename(held, &name, &description) {
                Ok(_) => return Ok(VolumeName { pool: api::default_pool(), name }),
                Err(storage::Error::VolumeExists(_)) => {}
                Err(error) => return Err(storage_problem(error)),
            }
        }
    }
}

fn key(id: Id) -> String {
    format!("{PREFIX}{id}")
}

/// Whether a volume can have the name that somebody wants.
fn check(pool: &Pool, name: &Name) -> Result<(), Problem> {
    let wrong = |detail: String| Problem::invalid(vec![Invalid::new("/keep_as", name.as_str(), detail)]);
    if pools::owner(name).is_some() {
        return Err(wrong("names that are vm-, an id and a number are those of guests' own disks".into()));
    }
    match is_free(pool, name) {
        true => Ok(()),
        false => Err(wrong(format!("there is a volume called {name} already: give another name"))),
    }
}

/// Makes volumes of the disks of a guest that is gone.
///
/// # Errors
/// If the host fails: it is done at the daemon's next start then.
pub async fn finish(store: &dyn Store, ready: Ready) -> Result<Vec<VolumeName>, Problem> {
    let id = ready.kept.id;
    let finished = tokio::task::spawn_blocking(move || ready.finish()).await;
    let volumes = finished.map_err(|error| Problem::internal(error.to_string()))??;
    store.commit(Transaction::new().delete(key(id))).await.map_err(store_problem)?;
    Ok(volumes)
}

/// Does what daemons before this one did not come to. Gives the guests whose disks are still to be kept.
///
/// # Errors
/// If the store cannot be read or written.
pub async fn recover(store: &dyn Store, pools: &Arc<Pools>) -> Result<Vec<Id>, StoreError> {
    let (entries, _) = store.list(PREFIX).await?;
    let mut waiting = Vec::new();
    for entry in entries {
        let kept: Kept = serde_json::from_slice(&entry.value)?;
        let (id, guest, pools) = (kept.id, kept.guest.clone(), Arc::clone(pools));
        let take_up = move || -> Result<Ready, Problem> {
            let pool = pools.usual()?;
            // One that is not there any more is a volume already.
            let there = |disk: &Move| !is_free(&pool, &disk.from);
            let disks: Vec<_> = kept.disks.into_iter().filter(there).collect();
            let held = disks.iter().map(|disk| pool.hold(&disk.from)).collect::<Result<_, _>>();
            let held = held.map_err(storage_problem)?;
            Ok(Ready { pool, kept: Kept { disks, ..kept }, held })
        };
        let taken_up = tokio::task::spawn_blocking(take_up).await;
        let done = match taken_up.map_err(|error| Problem::internal(error.to_string())) {
            Ok(Ok(ready)) => finish(store, ready).await,
            Ok(Err(problem)) | Err(problem) => Err(problem),
        };
        match done {
            Ok(volumes) => {
                let names: Vec<_> = volumes.iter().map(ToString::to_string).collect();
                tracing::info!(
                    "the disks of {guest}, which was deleted, are now volumes: {}",
                    names.join(", ")
                );
            }
            Err(problem) => {
                tracing::error!("the disks of {guest}, which was deleted, are not volumes yet: {problem}");
                waiting.push(id);
            }
        }
    }
    Ok(waiting)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::paths::Paths;
    use crate::store::Sqlite;

    #[tokio::test]
    async fn what_a_killed_daemon_was_keeping_the_next_one_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path()).unwrap();
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&paths.database()).unwrap());
        let host = storage::Host { id: Id::new(), name: "here".into() };
        let pools = Arc::new(Pools::open(Arc::clone(&store), &paths, host, Arc::default()).await.unwrap());
        let (id, pool) = (Id::new(), pools.usual().unwrap());
        let name = |text: &str| text.parse::<Name>().unwrap();
        let images = storage::images::Store::new(paths.images());
        let make = |name: &Name| {
            let wanted = serde_json::json!({ "name": name, "size": "1MiB" });
            pool.create(&serde_json::from_value(wanted).unwrap(), &images, &storage::Silent).unwrap();
        };
        // It had come to the first one; the second one's name was taken since; the third one is in use at first.
        let own = |number| own_volume(id, number).unwrap();
        let to = ["a-disk-0", "a-disk-1", "a-disk-2"].map(name);
        let disks = (0..3).map(|number| Move { number, from: own(number), to: to[number].clone() });
        let kept = Kept { id, guest: name("a"), disks: disks.collect() };
        [&to[0], &to[1], &own(1), &own(2)].into_iter().for_each(make);
        store.commit(Transaction::new().put(key(id), &kept).unwrap()).await.unwrap();
        let used = pool.hold(&own(2)).unwrap();
        assert_eq!(recover(&*store, &pools).await.unwrap(), [id]);
        pools.sweep(&HashSet::new(), &[id]);
        drop(used);
        assert!(recover(&*store, &pools).await.unwrap().is_empty());
        let names = |pool: &Pool| pool.list(|_| Vec::new()).unwrap().into_iter().map(|v| v.name.to_string());
        assert_eq!(names(&pool).collect::<Vec<_>>(), ["a-disk-0", "a-disk-1", "a-disk-1-2", "a-disk-2"]);
        assert!(store.list(PREFIX).await.unwrap().0.is_empty());
    }

    #[test]
    fn a_long_name_is_cut_so_that_it_stays_one() {
        let base: Name = "a".repeat(63).parse().unwrap();
        assert_eq!(joined(&base, "-disk-0").unwrap().as_str(), format!("{}-disk-0", "a".repeat(56)));
        let base: Name = format!("{}-{}", "a".repeat(55), "b".repeat(7)).parse().unwrap();
        assert_eq!(joined(&base, "-disk-0").unwrap().as_str(), format!("{}-disk-0", "a".repeat(55)));
    }
}
