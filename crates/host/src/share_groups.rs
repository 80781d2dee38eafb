//! Groups in which guests share, as they are kept.
//!
//! What a group is promised is taken first ([`Shares`]) and made durable then: if that fails, it is given back.

use std::collections::HashMap;
use std::sync::Arc;

use api::{GroupMemory, GroupPlace, Id, Name, Problem, ShareGroup, ShareGroupInfo, Size, Vm};

use crate::bandwidth::Bandwidth;
use crate::events::Happening;
use crate::memory::Pool;
use crate::records;
use crate::shares::{Claimant, Nested, Place, Promised, Shares};
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
    bandwidth: Arc<Bandwidth>,
    memory: Arc<Pool>,
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

/// Those of these guests that are in a group, or in a group in it.
fn inside<'a>(groups: &Nested, name: &Name, guests: &'a [(Id, Claimant)]) -> Vec<&'a (Id, Claimant)> {
    guests.iter().filter(|(_, of)| groups.above(of.group.as_ref()).any(|group| group == name)).collect()
}

fn none(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("there is no group {shown}"))
}

impl ShareGroups {
    /// The groups that `shares` has been told of, which `store` has; what guests in them have is seen in `bandwidth` and `memory`.
    pub fn new(
        store: Arc<dyn Store>,
        shares: Arc<Shares>,
        bandwidth: Arc<Bandwidth>,
        memory: Arc<Pool>,
    ) -> Self {
        Self { store, shares, bandwidth, memory, turn: tokio::sync::Mutex::default() }
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
        let running = self.shares.running();
        let nested = self.shares.nested();
        let seen = self.memory.seen().guests;
        let told = |(definition, promised): (ShareGroup, Promised)| {
            let got_10s =
                self.shares.seen(|seen| seen.groups.get(&definition.name).map_or(0.0, |group| group.got_10s));
            let is_in = |vm: &&Vm| vm.definition.share_group.as_ref() == Some(&definition.name);
            let guests = vms.iter().filter(is_in).count() as u32;
            let inside = inside(&nested, &definition.name, &running);
            let held = inside.iter().filter_map(|(id, _)| seen.get(id)).map(|now| now.held.0).sum();
            let memory = GroupMemory { promised: promised.memory, held: Size(held) };
            let (pools, networks) = self.places(&promised, &inside);
            ShareGroupInfo { definition, promised: promised.cpu, got_10s, guests, memory, pools, networks }
        };
        Ok(groups.into_iter().map(told).collect())
    }

    /// What is promised in a group of the pools and networks that these guests in it use, and what they do there.
    fn places(&self, promised: &Promised, guests: &[&(Id, Claimant)]) -> (Vec<GroupPlace>, Vec<GroupPlace>) {
        let (mut pools, mut networks) = (Vec::new(), Vec::new());
        for (place, promised) in &promised.places {
            let here: Vec<_> = guests.iter().filter(|(_, of)| of.places.contains(place)).collect();
            if here.is_empty() {
                continue;
            }
            let mut ways = HashMap::<_, u64>::new();
            for flow in here.iter().flat_map(|(id, _)| self.bandwidth.of(*id, place)) {
                let bytes = ways.entry(flow.way).or_default();
                *bytes = bytes.saturating_add(flow.bytes);
            }
            let (name, bytes) = (place.name().to_string(), ways.into_values().max().unwrap_or_default());
            let list = if matches!(place, Place::Pool(_)) { &mut pools } else { &mut networks };
            list.push(GroupPlace { name, promised: *promised, bytes });
        }
        (pools, networks)
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
