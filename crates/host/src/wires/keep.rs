//! Making, changing and removing networks.

use api::{Id, Invalid, Problem, Time};
use ipnet::Ipv4Net;
use network::definition::Network;

use super::{Inner, Known, PREFIX, Record, Wires, carries, choose_subnet, invalid, place};
use crate::events::Happening;
use crate::records;
use crate::store::{Revision, StoreError, Transaction};
use crate::supervisor::store_problem;

/// Where the API has a network.
pub fn path(id: Id) -> String {
    format!("/api/v1/networks/{id}")
}

/// The subnets that the machine itself reaches (proc_net_route: destination and mask, in the machine's byte order).
pub(super) fn own_subnets() -> Vec<Ipv4Net> {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let subnet = |line: &str| {
        let mut words = line.split_whitespace();
        let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok().map(|n| u32::from_be(n).into());
        let destination = number(words.nth(1));
        let mask = number(words.nth(5));
        Ipv4Net::with_netmask(destination?, mask?).ok().filter(|net| net.prefix_len() > 0)
    };
    routes.lines().skip(1).filter_map(subnet).collect()
}

impl Wires {
    /// Finds the networks again that a daemon before this one left, plugs in the cards of the guests in `records`, and makes the kernel
    /// so.
    ///
    /// # Errors
    /// If the store cannot be read. A kernel that cannot be made so is each network's problem.
    pub async fn recover(&self, records: &[records::Versioned]) -> Result<(), StoreError> {
        let mut inner = self.lock().await;
        let (entries, _) = self.store.list(PREFIX).await?;
        for entry in entries {
            let record: Record = serde_json::from_slice(&entry.value)?;
            self.load(&record.definition);
            inner.networks.push(Known { record, revision: entry.revision });
        }
        for (record, _) in records {
            let vm = &record.vm;
            // One that has been removed since is told when the guest starts.
            let ports = inner.ports_of(vm.id, &vm.definition).unwrap_or_default();
            inner.ports.insert(vm.id, ports);
        }
        let had = self.store.get(super::OWNER).await?.is_some();
        if !had && inner.networks.is_empty() {
            return Ok(());
        }
        let opened = match self.open(&mut inner).await {
            Ok(()) => inner.apply().await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = opened {
            tracing::error!("the networks cannot be made: {problem}");
            inner.problems = vec![network::Problem { network: None, detail: problem.detail }];
        }
        Ok(())
    }

    /// What a network carries is what its definition says.
    fn load(&self, network: &Network) {
        if let Some(place) = place(network) {
            self.shares.load_place(place, carries(network));
        }
    }

    /// What is wrong with a definition beside the other networks; addresses that it lacks are chosen.
    ///
    /// # Errors
    /// If a field is wrong.
    pub async fn check(&self, definition: &mut Network, own: Option<Id>) -> Result<(), Problem> {
        let inner = self.lock().await;
        choose_subnet(definition, &inner)?;
        let others = inner.networks.iter().filter(|known| Some(known.record.id) != own);
        let others: Vec<_> = others.map(|known| known.record.definition.clone()).collect();
        let faults = definition.check(&others);
        if faults.is_empty() {
            return Ok(());
        }
        Err(Problem::invalid(faults.into_iter().map(invalid).collect()))
    }

    /// Makes a network. When this returns it is there for good, or nothing of it is.
    ///
    /// # Errors
    /// If it is not valid, or this machine cannot have it.
    pub async fn create(&self, id: Id, mut definition: Network, actor: &str) -> Result<(), Problem> {
        self.check(&mut definition, None).await?;
        let mut inner = self.lock().await;
        if inner.network(&definition.name).is_some() {
            return Err(taken(&definition.name));
        }
        self.open(&mut inner).await?;
        let name = definition.name.clone();
        let record = Record { id, definition, created: Time::now() };
        let happening = Happening::new("network.created", "was made").to(path(id), &name).by(actor);
        let transaction = Transaction::new().put(key(id), &record).and_then(|all| happening.add(all));
        let revision = self.store.commit(transaction.map_err(store_problem)?).await.map_err(store_problem)?;
        inner.networks.push(Known { record, revision });
        let applied = inner.apply().await;
        let problems = inner.problems_of(&name);
        if applied.is_ok() && problems.is_empty() {
            inner.network(&name).into_iter().for_each(|network| self.load(network));
            return Ok(());
        }
        inner.networks.retain(|known| known.record.id != id);
        let happening = Happening::new("network.deleted", "could not be made").to(path(id), &name);
        let transaction = happening.add(Transaction::new().delete(key(id))).map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem)?;
        // What hinders the network may hinder its removal as well; that is tried again with the next change.
        let _ = inner.apply().await;
        applied?;
        Err(Problem::conflict(problems.join("; ")))
    }

    /// Makes a network what `definition` says, if it is still what it was at revision `expect`.
    ///
    /// # Errors
    /// If it is not valid, has changed, or this machine cannot have it so; it is as it was then.
    pub async fn edit(
        &self,
        id: Id,
        mut definition: Network,
        expect: Revision,
        actor: &str,
    ) -> Result<(), Problem> {
        self.check(&mut definition, Some(id)).await?;
        let mut inner = self.lock().await;
        let name = definition.name.clone();
        let at = inner.networks.iter().position(|known| known.record.id == id);
        let at = at.ok_or_else(|| super::no_network(&name))?;
        if inner.networks[at].revision != expect {
            return Err(Problem::new(412, "It has changed", "the network has changed since it was read"));
        }
        let place = place(&definition);
        let carried =
            place.clone().map(|place| self.shares.set_place(place, carries(&definition))).transpose()?;
        let done = self.remake(&mut inner, at, definition, actor).await;
        if let (Err(_), Some(place), Some(carried)) = (&done, place, carried) {
            self.shares.load_place(place, carried);
        }
        done
    }

    /// Makes the network that is at `at` another one, or leaves it as it is.
    async fn remake(
        &self,
        inner: &mut Inner,
        at: usize,
        definition: Network,
        actor: &str,
    ) -> Result<(), Problem> {
        let (name, id, expect) =
            (definition.name.clone(), inner.networks[at].record.id, inner.networks[at].revision);
        let before = inner.networks[at].record.clone();
        inner.networks[at].record.definition = definition;
        // Guests' addresses must still fit.
        let faults = inner.site().check();
        let result = match faults.is_empty() {
            true => inner.apply().await,
            false => Err(Problem::invalid(faults.into_iter().map(invalid).collect())),
        };
        let problems = inner.problems_of(&name);
        if result.is_err() || !problems.is_empty() {
            inner.networks[at].record = before;
            // As above.
            let _ = inner.apply().await;
            result?;
            return Err(Problem::conflict(problems.join("; ")));
        }
        let happening = Happening::new("network.edited", "was edited").to(path(id), &name).by(actor);
        let transaction = Transaction::new().expect(key(id), expect).put(key(id), &inner.networks[at].record);
        let transaction = transaction.and_then(|all| happening.add(all)).map_err(store_problem)?;
        match self.store.commit(transaction).await {
            Ok(revision) => inner.networks[at].revision = revision,
            Err(error) => {
                inner.networks[at].record = before;
                let _ = inner.apply().await;
                return Err(store_problem(error));
            }
        }
        Ok(())
    }

    /// Removes a network that no guest uses.
    ///
    /// # Errors
    /// If a guest has a card on it.
    pub async fn delete(&self, id: Id, actor: &str) -> Result<(), Problem> {
        let mut inner = self.lock().await;
        let known = inner.find(&id.to_string())?;
        let name = known.record.definition.name.clone();
        let mut users: Vec<_> = inner.ports.values().flatten().filter(|port| port.network == name).collect();
        users.sort_by_key(|port| &port.hostname);
        if !users.is_empty() {
            let names: Vec<_> =
                users.iter().map(|port| port.hostname.as_deref().unwrap_or(&port.id)).collect();
            let detail = format!("{name} is used by {}: take their cards off it first", names.join(", "));
            return Err(Problem::conflict(detail));
        }
        let happening = Happening::new("network.deleted", "was deleted").to(path(id), &name).by(actor);
        let transaction = happening.add(Transaction::new().delete(key(id))).map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem)?;
        if let Some(place) = inner.network(&name).and_then(place) {
            self.shares.forget_place(&place);
        }
        inner.networks.retain(|known| known.record.id != id);
        inner.apply().await
    }
}

fn key(id: Id) -> String {
    format!("{PREFIX}{id}")
}

fn taken(name: &str) -> Problem {
    let detail = format!("there is a network called {name} already: give it another name");
    Problem::conflict_of(Invalid::new("/name", name, detail))
}
