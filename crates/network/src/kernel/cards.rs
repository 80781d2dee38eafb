//! The machine's own network cards, for people to look at.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::{Kernel, Observed};
use crate::error::{Error, Result};

/// A network card of the machine, or what stands for one: a bridge, a bond, a VLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// The number that the kernel gave it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is in the kernel's words (`bridge`, `bond`, `vlan`, `veth`); empty for a card.
    pub kind: String,
    /// Its hardware address; empty if it has none.
    pub mac: String,
    /// Whether it carries frames, in the kernel's words: `up`, `down`, `unknown` (RFC 2863, ifOperStatus).
    pub state: String,
    /// The largest packet that it carries, bytes.
    pub mtu: u32,
    /// The bridge or bond that it is a part of.
    pub part_of: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// The cards that this process's network namespace has, by name, but for the loopback one and those that are guests'.
///
/// # Errors
/// If the kernel does not tell.
pub async fn cards() -> Result<Vec<Card>> {
    let kernel = Kernel::connect()?;
    let told = |source| Error::Kernel { doing: "listing interfaces".into(), source };
    let mut links = kernel.handle.link().get().execute();
    let (mut seen, mut found) = (Vec::new(), Vec::new());
    while let Some(message) = links.try_next().await.map_err(told)? {
        seen.push(super::look::read_link(&message));
        found.extend(read(&message));
    }
    let names: BTreeMap<u32, String> = seen.iter().map(|link| (link.index, link.name.clone())).collect();
    let mut observed = Observed::of(seen);
    kernel.look_for_addresses(&mut observed).await?;
    for card in &mut found {
        if let Some(link) = observed.links.get(&card.index) {
            card.addresses = link.addresses.iter().copied().collect();
            card.part_of = link.bridge.and_then(|index| names.get(&index).cloned());
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read(message: &LinkMessage) -> Option<Card> {
    if message.header.flags.contains(LinkFlags::Loopback) {
        return None;
    }
    let mut card = Card {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        mac: String::new(),
        state: "unknown".into(),
        mtu: 0,
        part_of: None,
        addresses: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => card.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => card.mtu = *mtu,
            LinkAttribute::OperState(state) => card.state = state.to_string().to_lowercase(),
            LinkAttribute::Address(bytes) if bytes.len() == 6 => {
                card.mac = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Tun | InfoKind::Ifb) => return None,
                        LinkInfo::Kind(kind) => card.kind = kind.to_string(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(card)
}
