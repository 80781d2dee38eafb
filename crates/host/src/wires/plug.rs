//! Where guests' cards are plugged in.

use std::os::fd::OwnedFd;

use api::{Id, Invalid, Nic, Problem, VmDefinition};
use network::definition::{
    AntiSpoofing, Forward, Mac, Network, NetworkKind, Port, free_address, free_address6,
};

use network::Networks;

use super::{Inner, Wires, invalid, kernel_problem};

/// The host's end of a card on a network of this host.
pub enum Plug {
    /// A tap.
    Tap(OwnedFd),
    /// A program of the card's own, to which these ports of the host lead.
    User(Vec<Forward>),
}

/// The network that a card is on, if it is one of this host's.
fn named(nic: &Nic) -> Option<&str> {
    match &nic.network {
        api::Network::Named(name) => Some(name.as_str()),
        _ => None,
    }
}

/// What names a card's port for good: a guest's cards come and go, and each has an address of its own.
fn port_id(vm: Id, mac: Mac) -> String {
    format!("{vm}/{mac}")
}

fn mac(nic: &Nic) -> Mac {
    Mac(nic.mac_bytes().unwrap_or_default())
}

impl Inner {
    /// The ports of a guest as its definition has them.
    pub(super) fn ports_of(&self, id: Id, definition: &VmDefinition) -> Result<Vec<Port>, Vec<Invalid>> {
        let mut ports = Vec::new();
        let mut wrong = Vec::new();
        for (number, nic) in definition.nics.iter().enumerate() {
            let Some(name) = named(nic) else { continue };
            let Some(network) = self.network(name) else {
                let detail = format!("there is no network {name}");
                wrong.push(Invalid::new(format!("/nics/{number}/network/named"), name, detail));
                continue;
            };
            let mut port = port(id, definition, nic);
            // A name stands for one address: of several cards on a network that of the first.
            if ports.iter().any(|mine: &Port| mine.network == name) {
                port.hostname = None;
            }
            let others: Vec<_> =
                self.ports.iter().filter(|(vm, _)| **vm != id).flat_map(|(_, ports)| ports).collect();
            let mine = ports.iter();
            let beside: Vec<&Port> =
                others.into_iter().chain(mine).filter(|other| other.network == name).collect();
            let faults = port.check(network, &beside);
            let pointer = |fault: network::definition::Fault| fault.within(&format!("/nics/{number}"));
            wrong.extend(faults.into_iter().map(pointer).map(invalid));
            ports.push(port);
        }
        if wrong.is_empty() { Ok(ports) } else { Err(wrong) }
    }

    async fn attach(&self, kernel: &Networks, id: Id, nic: &Nic) -> Result<Option<Plug>, Problem> {
        let Some(network) = named(nic).and_then(|name| self.network(name)) else { return Ok(None) };
        Ok(Some(match network.kind {
            NetworkKind::User => Plug::User(network.forwards.clone()),
            _ => Plug::Tap(kernel.attach(&port_id(id, mac(nic))).await.map_err(kernel_problem)?),
        }))
    }

    /// Gives cards that need addresses and have none some that are free.
    fn choose_addresses(&self, id: Id, definition: &mut VmDefinition) -> Result<(), Problem> {
        let mut taken: Vec<_> =
            self.ports.iter().filter(|(vm, _)| **vm != id).flat_map(|(_, ports)| ports).cloned().collect();
        for nic in &mut definition.nics {
            let Some(network) = named(nic).and_then(|name| self.network(name)) else {
                (nic.address, nic.address6) = (None, None);
                continue;
            };
            let (network, mac) = (network.clone(), mac(nic));
            if let (Some(ipv4), None) = (&network.ipv4, nic.address) {
                let used =
                    taken.iter().filter(|port| port.network == network.name).filter_map(|port| port.address);
                let free = free_address(ipv4, mac, used);
                nic.address =
                    Some(free.map_err(|error| Problem::conflict(format!("{}: {error}", network.name)))?);
            }
            if let (Some(ipv6), None) = (&network.ipv6, nic.address6) {
                nic.address6 = Some(free_address6(ipv6, mac));
            }
            let mut port = blank(id, &network, mac);
            port.address = nic.address;
            taken.push(port);
        }
        Ok(())
    }
}

fn blank(vm: Id, network: &Network, mac: Mac) -> Port {
    Port {
        id: port_id(vm, mac),
        network: network.name.clone(),
        hostname: None,
        mac,
        vlan: None,
        trunk: Vec::new(),
        anti_spoofing: AntiSpoofing::default(),
        receive: None,
        send: None,
        address: None,
        address6: None,
    }
}

fn port(vm: Id, definition: &VmDefinition, nic: &Nic) -> Port {
    let name = definition.name.as_str();
    let is_label = name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    Port {
        id: port_id(vm, mac(nic)),
        network: named(nic).unwrap_or_default().to_owned(),
        hostname: is_label.then(|| name.to_owned()),
        mac: mac(nic),
        vlan: nic.vlan,
        trunk: Vec::new(),
        anti_spoofing: AntiSpoofing { mac: !nic.allow_spoofing, ip: !nic.allow_spoofing },
        // The card keeps its limits itself, whatever it is connected to.
        receive: None,
        send: None,
        address: nic.address,
        address6: nic.address6,
    }
}

impl Wires {
    /// Plugs a guest's cards in, and completes its definition with the addresses that they get. If it runs, the cards of its `machine`
    /// that its definition has no more stay.
    ///
    /// # Errors
    /// If a network is not there, or an address cannot be had. The guest is plugged in as it was then.
    pub async fn plug(
        &self,
        id: Id,
        definition: &mut VmDefinition,
        machine: Option<&VmDefinition>,
    ) -> Result<(), Problem> {
        let mut inner = self.lock().await;
        inner.choose_addresses(id, definition)?;
        let mut ports = inner.ports_of(id, definition).map_err(Problem::invalid)?;
        let before = inner.ports.remove(&id).unwrap_or_default();
        if let Some(machine) = machine {
            let is_in_it = |port: &&Port| machine.nics.iter().any(|nic| port_id(id, mac(nic)) == port.id);
            // A new card may have the name and the address of one that goes.
            let keeps = |old: &&Port| {
                ports
                    .iter()
                    .all(|port| port.id != old.id && (port.address.is_none() || port.address != old.address))
            };
            let gone = before
                .iter()
                .filter(is_in_it)
                .filter(keeps)
                .cloned()
                .map(|old| Port { hostname: None, ..old });
            ports.extend(gone.collect::<Vec<_>>());
        }
        inner.ports.insert(id, ports);
        // A guest that runs has what it may do there changed at once; for others it is soon enough when they start.
        match machine {
            Some(_) => inner.apply().await,
            None => Ok(()),
        }
    }

    /// Unplugs a guest that is no more.
    pub async fn unplug(&self, id: Id) {
        let mut inner = self.lock().await;
        let had = inner.ports.remove(&id).is_some_and(|ports| !ports.is_empty());
        if had && let Err(problem) = inner.apply().await {
            tracing::warn!("the networks cannot be changed: {problem}");
        }
    }

    /// What is wrong with a guest's cards beside the others' on their networks.
    pub async fn check_cards(&self, id: Option<Id>, definition: &VmDefinition) -> Vec<Invalid> {
        let inner = self.lock().await;
        let id = id.unwrap_or_else(Id::new);
        let mut chosen = definition.clone();
        for (number, nic) in chosen.nics.iter_mut().enumerate() {
            // What is made up later is free; until then it is anything that no other card has.
            nic.mac.get_or_insert_with(|| format!("02:00:00:00:ff:{number:02x}"));
        }
        // A network that is full is told when an address is chosen.
        let _ = inner.choose_addresses(id, &mut chosen);
        inner.ports_of(id, &chosen).err().unwrap_or_default()
    }

    /// The host's ends of a guest's cards, in their order; none for those that are on no network of this host.
    ///
    /// # Errors
    /// If one cannot be connected.
    pub async fn connect(&self, id: Id, definition: &VmDefinition) -> Result<Vec<Option<Plug>>, Problem> {
        if definition.nics.iter().all(|nic| named(nic).is_none()) {
            return Ok(definition.nics.iter().map(|_| None).collect());
        }
        let mut inner = self.lock().await;
        let ports = inner.ports_of(id, definition).map_err(Problem::invalid)?;
        inner.ports.insert(id, ports);
        self.open(&mut inner).await?;
        inner.apply().await?;
        let Some(kernel) = inner.kernel.clone() else {
            return Err(Problem::internal("the kernel's networks cannot be reached"));
        };
        let mut plugs = Vec::new();
        for nic in &definition.nics {
            plugs.push(inner.attach(&kernel, id, nic).await?);
        }
        Ok(plugs)
    }

    /// The host's end of one card of a guest that is plugged in already; none if it is on no network of this host.
    ///
    /// # Errors
    /// If it cannot be connected.
    pub async fn connect_one(&self, id: Id, nic: &Nic) -> Result<Option<Plug>, Problem> {
        if named(nic).is_none() {
            return Ok(None);
        }
        let mut inner = self.lock().await;
        self.open(&mut inner).await?;
        inner.apply().await?;
        let Some(kernel) = inner.kernel.clone() else {
            return Err(Problem::internal("the kernel's networks cannot be reached"));
        };
        inner.attach(&kernel, id, nic).await
    }
}
