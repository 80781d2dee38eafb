//! The storage pools of this host, and which guests have which volumes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use api::{Disk, DiskSource, Id, Invalid, Name, Problem, VmDefinition, VolumeName};
use serde::{Deserialize, Serialize};
use storage::{BEAT, Host, Pool, Silent};
use storage::{PoolDefinition, PoolKind, PoolStatus, Volume};
use utoipa::ToSchema;

use crate::events::Happening;
use crate::paths::Paths;
use crate::records;
use crate::shares::{Carries, Place, Shares};
use crate::store::{Store, StoreError, Transaction};
use crate::supervisor::{storage_problem, store_problem};

/// Where pools are in the store.
const PREFIX: &str = "pool/";
/// How long an upload may say nothing before it is given up.
pub const UPLOADS: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// A storage pool.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PoolInfo {
    /// What it should be.
    #[serde(flatten)]
    pub definition: PoolDefinition,
    /// What it is now, if it can be used.
    pub status: Option<PoolStatus>,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

struct Known {
    definition: PoolDefinition,
    pool: Result<Arc<Pool>, String>,
}

/// Keeps the pools.
pub struct Pools {
    store: Arc<dyn Store>,
    host: Host,
    known: RwLock<BTreeMap<Name, Known>>,
    /// What they carry is divided there.
    shares: Arc<Shares>,
    /// One is changed at a time.
    turn: tokio::sync::Mutex<()>,
}

/// The volume that is disk `number` of a guest, one of its own.
pub fn own_volume(id: Id, number: usize) -> Result<Name, Problem> {
    format!("vm-{id}-{number}").parse().map_err(|error: api::NameError| Problem::internal(error.to_string()))
}

/// The guest whose own a volume is, by its name.
pub fn owner(volume: &Name) -> Option<Id> {
    volume.as_str().strip_prefix("vm-")?.rsplit_once('-')?.0.parse().ok()
}

/// How much a pool carries, as far as somebody has said it.
fn carries(definition: &PoolDefinition) -> Carries {
    Carries { bandwidth: definition.bandwidth, operations: definition.operations }
}

fn no_pool(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("there is no pool {shown}"))
}

fn key(name: &Name) -> String {
    format!("{PREFIX}{name}")
}

/// Where the API has a pool.
pub fn path(name: &Name) -> String {
    format!("/api/v1/pools/{name}")
}

/// Opens a pool on a thread that may wait: it listens for other hosts.
async fn open(definition: &PoolDefinition, host: &Host) -> Result<Arc<Pool>, Problem> {
    let (definition, host) = (definition.clone(), host.clone());
    let opened = tokio::task::spawn_blocking(move || Pool::open(&definition, &host)).await;
    let opened = opened.map_err(|error| Problem::internal(error.to_string()))?;
    opened.map(Arc::new).map_err(storage_problem)
}

impl Pools {
    /// Opens the pool that every host has, and those that are in the store. One that cannot be used is known as such.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn open(
        store: Arc<dyn Store>,
        paths: &Paths,
        host: Host,
        shares: Arc<Shares>,
    ) -> Result<Self, StoreError> {
        let mut usual = PoolDefinition {
            name: api::default_pool(),
            description: "guests' own disks".into(),
            kind: PoolKind::Directory,
            path: paths.state().join("pools/default"),
            bandwidth: None,
            operations: None,
        };
        let (entries, _) = store.list(PREFIX).await?;
        let mut definitions = Vec::new();
        for entry in entries {
            let definition: PoolDefinition = serde_json::from_slice(&entry.value)?;
            match definition.name == usual.name {
                // Its folder is where the state is, wherever that was when it was changed.
                true => usual = PoolDefinition { path: usual.path, ..definition },
                false => definitions.push(definition),
            }
        }
        definitions.insert(0, usual);
        let mut known = BTreeMap::new();
        for definition in definitions {
            let pool = open(&definition, &host).await.map_err(|problem| problem.detail);
            if let Err(why) = &pool {
                tracing::error!("the pool {} cannot be used: {why}", definition.name);
            }
            shares.load_place(Place::Pool(definition.name.clone()), carries(&definition));
            known.insert(definition.name.clone(), Known { definition, pool });
        }
        Ok(Self { store, host, known: RwLock::new(known), shares, turn: Default::default() })
    }

    /// The pool of this name.
    ///
    /// # Errors
    /// If there is none, or it cannot be used.
    pub fn get(&self, name: &str) -> Result<Arc<Pool>, Problem> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known =
            name.parse::<Name>().ok().and_then(|name| known.get(&name).map(|known| known.pool.clone()));
        known
            .ok_or_else(|| no_pool(name))?
            .map_err(|why| Problem::conflict(format!("the pool {name}: {why}")))
    }

    /// The pool of guests' own disks.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn usual(&self) -> Result<Arc<Pool>, Problem> {
        self.get(api::default_pool().as_str())
    }

    /// All pools that can be used, with their names.
    pub fn opened(&self) -> Vec<(Name, Arc<Pool>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter_map(|(name, known)| Some((name.clone(), known.pool.clone().ok()?))).collect()
    }

    /// All pools by name; nothing for those that cannot be used.
    pub fn usable(&self) -> BTreeMap<Name, Option<Arc<Pool>>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(name, known)| (name.clone(), known.pool.clone().ok())).collect()
    }

    /// All pools, by name.
    pub fn list(&self) -> Vec<PoolInfo> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(info).collect()
    }

    /// What there is to know of one.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn info(&self, name: &str) -> Result<PoolInfo, Problem> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let found = name.parse::<Name>().ok().and_then(|name| known.get(&name).map(info));
        found.ok_or_else(|| no_pool(name))
    }

    /// Takes a pool in, and makes its folder if it is not there.
    ///
    /// # Errors
    /// If there is one of this name, or it cannot be used.
    pub async fn create(&self, definition: PoolDefinition, actor: &str) -> Result<PoolInfo, Problem> {
        let name = definition.name.clone();
        if self.info(name.as_str()).is_ok() {
            let detail = format!("there is a pool called {name} already: give it another name");
            return Err(Problem::conflict_of(Invalid::new("/name", name.as_str(), detail)));
        }
        let pool = open(&definition, &self.host).await?;
        let happening =
            Happening::new("pool.created", "was taken in").to(path(&name), name.as_str()).by(actor);
        let transaction = Transaction::new().expect_none(key(&name)).put(key(&name), &definition);
        let transaction = transaction.and_then(|all| happening.add(all)).map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem)?;
        self.shares.load_place(Place::Pool(name.clone()), carries(&definition));
        let known = Known { definition, pool: Ok(pool) };
        let told = info(&known);
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(name, known);
        Ok(told)
    }

    /// Makes a pool what `change` makes of it, at once for the guests with disks on it. Its name, its kind and its folder stay.
    ///
    /// # Errors
    /// If there is none of this name, or guests that run are promised more of it than it is to carry.
    pub async fn edit(
        &self,
        name: &str,
        change: impl FnOnce(PoolDefinition) -> Result<PoolDefinition, Problem>,
        actor: &str,
    ) -> Result<PoolInfo, Problem> {
        let _turn = self.turn.lock().await;
        let before = self.info(name)?.definition;
        let after = change(before.clone())?;
        let stays = "a pool keeps it: take the folder in under another name";
        let mut wrong = after.check();
        for (pointer, is_other) in [
            ("/name", after.name != before.name),
            ("/kind", after.kind != before.kind),
            ("/path", after.path != before.path),
        ] {
            wrong.extend(is_other.then(|| Invalid::new(pointer, (), stays)));
        }
        if !wrong.is_empty() {
            return Err(Problem::invalid(wrong));
        }
        let (name, place) = (before.name, Place::Pool(after.name.clone()));
        let happening = Happening::new("pool.edited", "was edited").to(path(&name), name.as_str()).by(actor);
        let transaction = Transaction::new().put(key(&name), &after).and_then(|all| happening.add(all));
        let transaction = transaction.map_err(store_problem)?;
        let carried = self.shares.set_place(place.clone(), carries(&after))?;
        if let Err(error) = self.store.commit(transaction).await {
            self.shares.load_place(place, carried);
            return Err(store_problem(error));
        }
        if let Some(known) = self.known.write().unwrap_or_else(PoisonError::into_inner).get_mut(&name) {
            known.definition = after;
        }
        self.info(name.as_str())
    }

    /// Uses a pool no more. What is in it stays.
    ///
    /// # Errors
    /// If guests have volumes in it, or it is the one that every host has.
    pub async fn delete(&self, name: &str, actor: &str) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        let name = self.info(name)?.definition.name;
        if name == api::default_pool() {
            return Err(Problem::conflict("guests' own disks are in the pool default: it stays"));
        }
        let users = self.users(&name).await?;
        if let Some((volume, vms)) = users.iter().next() {
            let detail = format!("{} has the volume {volume} in {name}: take it off first", vms.join(", "));
            return Err(Problem::conflict(detail));
        }
        let happening = Happening::new("pool.deleted", "is not used any more").to(path(&name), name.as_str());
        let transaction =
            happening.by(actor).add(Transaction::new().delete(key(&name))).map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem)?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
        self.shares.forget_place(&Place::Pool(name));
        Ok(())
    }

    /// The guests that have volumes in a pool, by volume.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn users(&self, pool: &Name) -> Result<BTreeMap<Name, Vec<String>>, Problem> {
        let (records, _) = records::list(&*self.store).await.map_err(store_problem)?;
        let mut users: BTreeMap<Name, Vec<String>> = BTreeMap::new();
        for (record, _) in &records {
            let vm = &record.vm;
            for volume in volumes_of(vm.id, &vm.definition)? {
                if volume.pool == *pool {
                    users.entry(volume.name).or_default().push(vm.definition.name.to_string());
                }
            }
        }
        Ok(users)
    }

    /// The volumes of a pool, with the guests that have them.
    ///
    /// # Errors
    /// If the pool cannot be read.
    pub async fn volumes(&self, pool: &str) -> Result<Vec<Volume>, Problem> {
        let (name, opened) = (self.info(pool)?.definition.name, self.get(pool)?);
        let users = self.users(&name).await?;
        let list = move || opened.list(|name| users.get(name).cloned().unwrap_or_default());
        let listed = tokio::task::spawn_blocking(list).await;
        listed.map_err(|error| Problem::internal(error.to_string()))?.map_err(storage_problem)
    }

    /// Removes guests' own disks that are not among the `known`: they were being made or removed when a daemon was killed. Those of guests
    /// that are `kept` stay.
    pub fn sweep(&self, known: &HashSet<Name>, kept: &[Id]) {
        let Ok(pool) = self.usual() else { return };
        let volumes = pool.list(|_| Vec::new()).unwrap_or_default();
        let own = |volume: &&Volume| owner(&volume.name).is_some_and(|id| !kept.contains(&id));
        for volume in volumes.iter().filter(own).filter(|volume| !known.contains(&volume.name)) {
            match pool.delete(&volume.name, &[]) {
                Ok(()) => tracing::info!("removed the disk {} of no guest", volume.name),
                Err(error) => tracing::warn!("the disk {} of no guest stays: {error}", volume.name),
            }
        }
    }

    /// Tells other hosts that this one is there, and finishes what earlier daemons began. Never returns.
    pub async fn keep(self: Arc<Self>) {
        let finishing = Arc::clone(&self);
        tokio::task::spawn_blocking(move || {
            for (_, pool) in finishing.opened() {
                pool.expire_uploads(UPLOADS);
                if let Err(error) = pool.finish_wipes(&Silent) {
                    tracing::warn!("{}: {error}", pool.folder().display());
                }
            }
        });
        loop {
            tokio::time::sleep(BEAT).await;
            let beating = Arc::clone(&self);
            let beat = move || {
                for (_, pool) in beating.opened() {
                    if let Err(error) = pool.beat() {
                        tracing::warn!("{}: {error}", pool.folder().display());
                    }
                }
            };
            // It is tried again.
            let _ = tokio::task::spawn_blocking(beat).await;
        }
    }
}

fn info(known: &Known) -> PoolInfo {
    let status = match &known.pool {
        Ok(pool) => pool.status().map_err(|error| error.to_string()),
        Err(why) => Err(why.clone()),
    };
    let (status, problem) = match status {
        Ok(status) => (Some(status), None),
        Err(why) => (None, Some(why)),
    };
    PoolInfo { definition: known.definition.clone(), status, problem }
}

/// The volume that disk `number` of a guest is; the path of one that is a file of the host's.
///
/// # Errors
/// Never: a guest's own disks have names.
pub fn volume_of(id: Id, number: usize, disk: &Disk) -> Result<Result<VolumeName, &Path>, Problem> {
    Ok(match &disk.source {
        DiskSource::Image(_) | DiskSource::Size(_) => {
            Ok(VolumeName { pool: api::default_pool(), name: own_volume(id, number)? })
        }
        DiskSource::Volume(volume) => Ok(volume.clone()),
        DiskSource::File(path) => Err(path),
    })
}

/// The volumes that a guest has.
///
/// # Errors
/// Never: a guest's own disks have names.
pub fn volumes_of(id: Id, definition: &VmDefinition) -> Result<Vec<VolumeName>, Problem> {
    let mut volumes = Vec::new();
    for (place, disk) in definition.disks.iter().enumerate() {
        volumes.extend(volume_of(id, disk.number(place), disk)?.ok());
    }
    Ok(volumes)
}
