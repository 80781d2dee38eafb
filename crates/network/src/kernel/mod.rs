//! The kernel's side: what is there, and how it is changed. Over rtnetlink, and for rules by the program `nft`.

mod cards;
mod change;
mod look;
pub(crate) mod nft;
pub(crate) mod settings;
mod shape;
pub(crate) mod tap;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use rtnetlink::{Handle, new_connection};

pub use cards::{Card, cards};
pub(crate) use change::{Change, SET_RULES};
pub(crate) use shape::Shape;

use crate::error::{Error, Result};

/// A connection to the kernel of the network namespace that it was made in.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    handle: Handle,
}

/// What is there, as far as it concerns networks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// All interfaces, by their numbers.
    pub(crate) links: BTreeMap<u32, Link>,
    /// Settings (sysctl) that somebody may want changed, by their paths below /proc/sys/net.
    pub(crate) settings: BTreeMap<String, String>,
    by_name: HashMap<String, u32>,
}

/// An interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) kind: LinkKind,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// The bridge it is in.
    pub(crate) bridge: Option<u32>,
    pub(crate) addresses: BTreeSet<IpNet>,
    /// Of a bridge's port, where bridges know VLANs.
    pub(crate) vlans: BTreeSet<Vlan>,
    /// How what goes out is slowed down.
    pub(crate) shape: Option<Shape>,
    /// Bytes and frames that came in, and that went out.
    pub(crate) received: (u64, u64),
    pub(crate) sent: (u64, u64),
}

/// What an interface is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// A bridge, and whether this kernel's know VLANs, and whether this one separates them.
    Bridge { can_filter: bool, filters: bool },
    /// A tap or tun device.
    Tun,
    #[default]
    Other,
}

/// A VLAN of a bridge's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Vlan {
    pub(crate) id: u16,
    /// Its frames are untagged on this port, both ways.
    pub(crate) untagged: bool,
}

impl Vlan {
    /// What a port is in at first.
    pub(crate) const FIRST: Self = Self { id: 1, untagged: true };
}

impl Observed {
    /// Interfaces, and nothing about settings.
    pub(crate) fn of(links: impl IntoIterator<Item = Link>) -> Self {
        let links: BTreeMap<_, _> = links.into_iter().map(|link| (link.index, link)).collect();
        let by_name = links.values().map(|link| (link.name.clone(), link.index)).collect();
        Self { links, by_name, settings: BTreeMap::new() }
    }

    /// Interfaces, by their numbers, have these addresses.
    fn have(&mut self, addresses: Vec<(u32, IpNet)>) {
        for (index, address) in addresses {
            if let Some(link) = self.links.get_mut(&index) {
                link.addresses.insert(address);
            }
        }
    }

    /// The interface of a name.
    pub(crate) fn named(&self, name: &str) -> Option<&Link> {
        self.links.get(self.by_name.get(name)?)
    }
}

impl Kernel {
    /// Connects to the kernel. The calling thread's network namespace is the one that is seen.
    pub(crate) fn connect() -> Result<Self> {
        let (connection, handle, _) = new_connection().map_err(|source| Error::Connect { source })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }
}
