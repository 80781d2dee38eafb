//! Groups in which guests share, as they are kept.
//!
//! What a group is promised is taken first ([`Shares`]) and made durable then: if that fails, it is given back.

use std::sync::Arc;

use api::{Name, Problem, ShareGroup, ShareGroupInfo, Vm};

use crate::events::Happening;
use crate::records;
use crate::shares::Shares;
use crate::store::{self, Store, StoreError, Transaction};
use crate::supervisor::store_problem;

/// Where groups are in the store.
const PREFIX: &str = "share-group/";

fn key(name: &Name) -> String {
    format!("{PREFIX}{name}")
}

fn path(name: &Name) -> String {
    format!("/api/v1/share-groups/{name}")
}

/// The groups of a host.
pub struct ShareGroups {
    store: Arc<dyn Store>,
    shares: Arc<Shares>,
    /// One is changed at a time, so that the store has them as they are promised.
    turn: tokio::sync::Mutex<()>,
}

/// All groups that a store has.
///
/// # Errors
/// If it cannot be read.
pub async fn load(store: &dyn Store) -> Result<Vec<ShareGroup>, StoreError> {
    store::values(store, PREFIX).await
}

fn none(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("there is no group {shown}"))
}

impl ShareGroups {
    /// The groups that `shares` has been told of, which `store` has.
    pub fn new(store: Arc<dyn Store>, shares: Arc<Shares>) -> Self {
        Self { store, shares, turn: tokio::sync::Mutex::default() }
    }

    async fn vms(&self) -> Result<Vec<Vm>, Problem> {
        let (records, _) = records::list(&*self.store).await.map_err(store_problem)?;
        Ok(records.into_iter().map(|(record, _)| record.vm).collect())
    }

    /// All groups, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list(&self) -> Result<Vec<ShareGroupInfo>, Problem> {
        let vms = self.vms().await?;
        let groups = self.shares.groups();
        let told = |(definition, promised): (ShareGroup, api::Processors)| {
            let got_10s =
                self.shares.seen(|seen| seen.groups.get(&definition.name).map_or(0.0, |group| group.got_10s));
            let is_in = |vm: &&Vm| vm.definition.share_group.as_ref() == Some(&definition.name);
            let guests = vms.iter().filter(is_in).count() as u32;
            ShareGroupInfo { definition, promised, got_10s, guests }
        };
        Ok(groups.into_iter().map(told).collect())
    }

    /// The group of this name.
    ///
    /// # Errors
    /// If there is none.
    pub async fn get(&self, name: &str) -> Result<ShareGroupInfo, Problem> {
        let all = self.list().await?;
        all.into_iter().find(|group| group.definition.name.as_str() == name).ok_or_else(|| none(name))
    }

    /// The groups that a guest is in, the nearest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn of(&self, vm: &Vm) -> Result<Vec<ShareGroupInfo>, Problem> {
        let Some(nearest) = &vm.definition.share_group else { return Ok(Vec::new()) };
        let all = self.list().await?;
        let find = |name: &Name| all.iter().find(|group| group.definition.name == *name);
        let groups =
            std::iter::successors(find(nearest), |group| group.definition.within.as_ref().and_then(find));
        // None is in itself; if a store says otherwise, that ends it.
        Ok(groups.take(all.len()).cloned().collect())
    }

    /// Makes a group.
    ///
    /// # Errors
    /// If its name is taken, or it cannot be promised what it is to be.
    pub async fn create(&self, new: ShareGroup, actor: &str) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        let name = new.name.clone();
        if self.shares.groups().iter().any(|(group, _)| group.name == name) {
            let detail = format!("there is a group called {name} already: give it another name");
            return Err(Problem::conflict_of(api::Invalid::new("/name", name.as_str(), detail)));
        }
        self.set(new, ("share-group.created", "was made"), actor).await
    }

    /// Makes a group what `change` makes of it.
    ///
    /// # Errors
    /// If there is none of this name, or it cannot be promised what it is to be.
    pub async fn edit(
        &self,
        name: &str,
        change: impl FnOnce(ShareGroup) -> Result<ShareGroup, Problem>,
        actor: &str,
    ) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        let groups = self.shares.groups();
        let before = groups.into_iter().find(|(group, _)| group.name.as_str() == name);
        let new = change(before.ok_or_else(|| none(name))?.0)?;
        self.set(new, ("share-group.edited", "was edited"), actor).await
    }

    async fn set(&self, new: ShareGroup, (kind, message): (&str, &str), actor: &str) -> Result<(), Problem> {
        let name = new.name.clone();
        let happening = Happening::new(kind, message).by(actor).to(path(&name), name.as_str());
        let put = Transaction::new().put(key(&name), &new).map_err(store_problem)?;
        let transaction = happening.add(put).map_err(store_problem)?;
        let before = self.shares.set_group(new)?;
        self.store.commit(transaction).await.map(drop).map_err(|error| {
            self.shares.undo_group(&name, before);
            store_problem(error)
        })
    }

    /// Removes a group.
    ///
    /// # Errors
    /// If there is none of this name, or something is in it.
    pub async fn delete(&self, name: &str, actor: &str) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        let name: Name = self.get(name).await?.definition.name;
        let vms = self.vms().await?;
        if let Some(vm) = vms.iter().find(|vm| vm.definition.share_group.as_ref() == Some(&name)) {
            let detail = format!("the guest {} is in {name}: take it out first", vm.definition.name);
            return Err(Problem::conflict(detail));
        }
        let happening = Happening::new("share-group.deleted", "was deleted").by(actor);
        let happening = happening.to(path(&name), name.as_str());
        let transaction = happening.add(Transaction::new().delete(key(&name))).map_err(store_problem)?;
        let before = self.shares.remove_group(&name)?;
        self.store.commit(transaction).await.map(drop).map_err(|error| {
            self.shares.undo_group(&name, before);
            store_problem(error)
        })
    }
}
