//! The networks of this host's guests: which there are, and where each guest's cards are plugged in. The kernel is made so by
//! the crate `network`, whenever that has to be.

mod keep;
mod plug;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use api::{Id, Invalid, Problem, Size, Time};
use network::definition::{Fault, Network, Port, Site, free_subnet};
use network::{Config, Networks, Owner, Traffic};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};
use utoipa::ToSchema;

use crate::shares::{Carries, Place, Shares};
use crate::store::{Revision, Store, Transaction};
use crate::supervisor::store_problem;

pub use keep::path as network_path;
pub use plug::Plug;

/// Where networks are in the store.
pub const PREFIX: &str = "network/";
/// Where it is who the kernel's networks belong to.
const OWNER: &str = "network-owner";

/// A network of this host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NetworkInfo {
    /// Its id.
    pub id: Id,
    /// What it should be.
    #[serde(flatten)]
    pub definition: Network,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// What it is now.
    pub status: NetworkStatus,
}

/// What a network is at the moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// What keeps it from being as it should.
    pub problems: Vec<String>,
    /// The cards on it.
    pub ports: Vec<PortInfo>,
}

/// A card on a network.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PortInfo {
    /// The guest's id.
    pub vm: Id,
    /// The guest's name there.
    pub name: Option<String>,
    /// The card's hardware address.
    pub mac: String,
    /// Its IPv4 address.
    pub address: Option<String>,
    /// Its IPv6 address.
    pub address6: Option<String>,
    /// What has passed through it, while the guest runs.
    pub traffic: Option<PortTraffic>,
}

/// What has passed through a card, from the guest's side.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct PortTraffic {
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// A network as the store has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    id: Id,
    definition: Network,
    created: Time,
}

/// A network as it is known here.
struct Known {
    record: Record,
    revision: Revision,
}

#[derive(Default)]
struct Inner {
    networks: Vec<Known>,
    /// The ports of each guest.
    ports: HashMap<Id, Vec<Port>>,
    /// The kernel's side, once there has been a network.
    kernel: Option<Arc<Networks>>,
    /// What the kernel has been made.
    applied: Option<Site>,
    problems: Vec<network::Problem>,
}

/// Keeps the networks.
pub struct Wires {
    store: Arc<dyn Store>,
    folder: PathBuf,
    inner: Mutex<Inner>,
    /// What they carry is divided there.
    shares: Arc<Shares>,
}

/// A network as something whose bandwidth guests share; the names of networks are such.
fn place(network: &Network) -> Option<Place> {
    network.name.parse().ok().map(Place::Network)
}

fn carries(network: &Network) -> Carries {
    Carries { bandwidth: network.bandwidth.map(Size), operations: None }
}

fn no_network(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("there is no network {shown}"))
}

fn kernel_problem(error: network::Error) -> Problem {
    match error {
        network::Error::Definition(faults) => Problem::invalid(faults.into_iter().map(invalid).collect()),
        error @ (network::Error::Missing { .. } | network::Error::Port { .. }) => {
            Problem::conflict(error.to_string())
        }
        error => Problem::internal(error.to_string()),
    }
}

fn invalid(fault: Fault) -> Invalid {
    Invalid::new(fault.pointer, fault.value, format!("{}; {}", fault.detail, fault.expected))
}

impl Inner {
    fn site(&self) -> Site {
        Site {
            networks: self.networks.iter().map(|known| known.record.definition.clone()).collect(),
            ports: self.ports.values().flatten().cloned().collect(),
        }
    }

    fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().map(|known| &known.record.definition).find(|network| network.name == name)
    }

    fn find(&self, name_or_id: &str) -> Result<&Known, Problem> {
        let id = name_or_id.parse::<Id>().ok();
        let fits = |known: &&Known| known.record.definition.name == name_or_id || Some(known.record.id) == id;
        self.networks.iter().find(fits).ok_or_else(|| no_network(name_or_id))
    }

    /// Makes the kernel as it should be, if it has not been made so. What concerns single networks is kept as their problem.
    async fn apply(&mut self) -> Result<(), Problem> {
        let Some(kernel) = self.kernel.clone() else { return Ok(()) };
        let site = self.site();
        if self.applied.as_ref() == Some(&site) && self.problems.is_empty() {
            return Ok(());
        }
        self.applied = None;
        // Where there is no network nothing of ours is left in the kernel.
        let report = match site.networks.is_empty() {
            true => kernel.teardown().await,
            false => kernel.apply(&site).await,
        };
        let report = report.map_err(kernel_problem)?;
        for change in &report.changes {
            tracing::debug!("network: {change}");
        }
        for problem in &report.problems {
            tracing::warn!("{problem}");
        }
        (self.applied, self.problems) = (Some(site), report.problems);
        Ok(())
    }

    fn problems_of(&self, name: &str) -> Vec<String> {
        let concerns =
            |problem: &&network::Problem| problem.network.as_ref().is_none_or(|network| network == name);
        self.problems.iter().filter(concerns).map(|problem| problem.detail.clone()).collect()
    }

    fn info(&self, known: &Known, traffic: &HashMap<String, Traffic>) -> NetworkInfo {
        let name = &known.record.definition.name;
        let mut ports: Vec<_> = self
            .ports
            .iter()
            .flat_map(|(vm, ports)| ports.iter().map(move |port| (*vm, port)))
            .filter(|(_, port)| port.network == *name)
            .map(|(vm, port)| PortInfo {
                vm,
                name: port.hostname.clone(),
                mac: port.mac.to_string(),
                address: port.address.map(|address| address.to_string()),
                address6: port.address6.map(|address| address.to_string()),
                traffic: traffic.get(&port.id).map(|traffic| PortTraffic {
                    received_bytes: traffic.received_bytes,
                    sent_bytes: traffic.sent_bytes,
                }),
            })
            .collect();
        ports.sort_by(|a, b| (&a.name, &a.mac).cmp(&(&b.name, &b.mac)));
        NetworkInfo {
            id: known.record.id,
            definition: known.record.definition.clone(),
            created: known.record.created,
            status: NetworkStatus { problems: self.problems_of(name), ports },
        }
    }
}

impl Wires {
    /// The networks in `store`, none of which is known yet: [`recover`](Self::recover) comes first. `folder` is for leases and the like.
    pub fn new(store: Arc<dyn Store>, folder: PathBuf, shares: Arc<Shares>) -> Self {
        Self { store, folder, inner: Mutex::default(), shares }
    }

    async fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().await
    }

    /// The kernel's side; it is not looked for before there is a network.
    async fn open(&self, inner: &mut Inner) -> Result<(), Problem> {
        if inner.kernel.is_some() {
            return Ok(());
        }
        let known = self.store.get(OWNER).await.map_err(store_problem)?;
        let owner: Owner = match known {
            Some(entry) => serde_json::from_slice(&entry.value)
                .map_err(|error| Problem::internal(format!("{OWNER}: {error}")))?,
            None => {
                let mut random = [0; 4];
                getrandom::fill(&mut random).map_err(|error| Problem::internal(error.to_string()))?;
                let owner = Owner::from_number(u32::from_ne_bytes(random));
                let transaction = Transaction::new().put(OWNER, &owner).map_err(store_problem)?;
                self.store.commit(transaction).await.map_err(store_problem)?;
                owner
            }
        };
        let config = Config { owner, state: self.folder.clone() };
        let kernel = Arc::new(Networks::open(config).map_err(kernel_problem)?);
        inner.kernel = Some(Arc::clone(&kernel));
        tokio::spawn(async move { kernel.watch().await });
        Ok(())
    }

    /// All networks, the oldest first.
    pub async fn list(&self) -> Vec<NetworkInfo> {
        let inner = self.lock().await;
        let traffic = traffic(&inner).await;
        inner.networks.iter().map(|known| inner.info(known, &traffic)).collect()
    }

    /// A network, and the revision that it is of.
    ///
    /// # Errors
    /// If there is none of this name or id.
    pub async fn get(&self, name_or_id: &str) -> Result<(NetworkInfo, Revision), Problem> {
        let inner = self.lock().await;
        let traffic = traffic(&inner).await;
        let known = inner.find(name_or_id)?;
        Ok((inner.info(known, &traffic), known.revision))
    }

    /// What the network of this name should be, if there is one.
    pub async fn definition(&self, name: &str) -> Option<Network> {
        self.lock().await.find(name).ok().map(|known| known.record.definition.clone())
    }

    /// The addresses that guests have taken on a network.
    ///
    /// # Errors
    /// If there is no such network, or its leases cannot be read.
    pub async fn leases(&self, name_or_id: &str) -> Result<Vec<network::Lease>, Problem> {
        let inner = self.lock().await;
        let name = inner.find(name_or_id)?.record.definition.name.clone();
        let Some(kernel) = inner.kernel.clone() else { return Ok(Vec::new()) };
        drop(inner);
        let mut leases = kernel.leases().await.map_err(kernel_problem)?;
        leases.retain(|lease| lease.network == name);
        Ok(leases)
    }
}

/// What has passed through each port. A kernel that does not tell it is no reason not to tell the rest.
async fn traffic(inner: &Inner) -> HashMap<String, Traffic> {
    match &inner.kernel {
        Some(kernel) => kernel.traffic().await.unwrap_or_default(),
        None => HashMap::new(),
    }
}

/// Gives a network that needs addresses some that nobody has.
fn choose_subnet(network: &mut Network, inner: &Inner) -> Result<(), Problem> {
    use network::definition::{Ipv4, NetworkKind};
    let needs = matches!(network.kind, NetworkKind::Nat | NetworkKind::Routed);
    if !needs || network.ipv4.is_some() {
        return Ok(());
    }
    let taken = inner.networks.iter().filter_map(|known| Some(known.record.definition.ipv4.as_ref()?.subnet));
    let taken: Vec<_> = taken.chain(keep::own_subnets()).collect();
    let subnet = free_subnet(&taken).map_err(|error| Problem::conflict(error.to_string()))?;
    network.ipv4 = Some(Ipv4 { subnet, gateway: None, dhcp: true, range: None });
    Ok(())
}
