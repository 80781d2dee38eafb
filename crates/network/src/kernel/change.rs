//! Changing what is there, one thing at a time. Each change can be said to a person, and be made twice without harm.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::StreamExt;
use ipnet::IpNet;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    BridgeVlanInfoFlags, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkBridgeVlan, LinkUnspec};

use super::settings::{self, Setting};
use super::{Kernel, Link, Shape, Vlan};
use crate::error::{Error, Result};
use crate::rules::Rules;

/// An interface that is there: its number, and its name and what it is for, to tell a person.
#[derive(Clone, Debug)]
pub(crate) struct At {
    index: u32,
    what: String,
}

impl From<&Link> for At {
    fn from(link: &Link) -> Self {
        let what = match &link.alias {
            Some(alias) => format!("{} ({alias})", link.name),
            None => link.name.clone(),
        };
        Self { index: link.index, what }
    }
}

/// What is told of rules that are set.
pub(crate) const SET_RULES: &str = "set the firewall's rules";

/// One thing to change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    RemoveLink(At),
    AddBridge {
        name: String,
        mac: [u8; 6],
        mtu: u32,
    },
    SetAlias {
        at: At,
        alias: String,
    },
    SetMtu {
        at: At,
        mtu: u32,
    },
    AddAddress {
        at: At,
        address: IpNet,
    },
    RemoveAddress {
        at: At,
        address: IpNet,
    },
    SetDown(At),
    SetUp(At),
    /// Puts it into a bridge, or out of any.
    SetBridge {
        at: At,
        bridge: Option<At>,
    },
    FilterVlans(At),
    SetVlans {
        at: At,
        add: BTreeSet<Vlan>,
        remove: BTreeSet<Vlan>,
    },
    SetShape {
        at: At,
        shape: Option<Shape>,
    },
    SetRules(Rules),
    Set {
        setting: Setting,
        before: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |vlans: &BTreeSet<Vlan>| {
            let tagged = |vlan: &Vlan| if vlan.untagged { "" } else { " tagged" };
            let texts: Vec<_> = vlans.iter().map(|vlan| format!("{}{}", vlan.id, tagged(vlan))).collect();
            if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
        };
        match self {
            Self::RemoveLink(at) => write!(f, "remove {}", at.what),
            Self::AddBridge { name, .. } => write!(f, "add bridge {name}"),
            Self::SetAlias { at, alias } => write!(f, "describe {} as {alias}", at.what),
            Self::SetMtu { at, mtu } => write!(f, "set the longest packet of {} to {mtu} bytes", at.what),
            Self::AddAddress { at, address } => write!(f, "add {address} to {}", at.what),
            Self::RemoveAddress { at, address } => write!(f, "remove {address} from {}", at.what),
            Self::SetDown(at) => write!(f, "set {} down", at.what),
            Self::SetUp(at) => write!(f, "set {} up", at.what),
            Self::SetBridge { at, bridge: Some(bridge) } => write!(f, "put {} into {}", at.what, bridge.what),
            Self::SetBridge { at, bridge: None } => write!(f, "take {} out of its bridge", at.what),
            Self::FilterVlans(at) => write!(f, "separate VLANs on {}", at.what),
            Self::SetVlans { at, add, remove } => {
                write!(f, "VLANs of {}: add {}, remove {}", at.what, ids(add), ids(remove))
            }
            Self::SetShape { at, shape: Some(shape) } => {
                let (rate, burst) = (shape.rate, shape.burst);
                write!(f, "limit what {} gets to {rate} bytes/s, {burst} at once", at.what)
            }
            Self::SetShape { at, shape: None } => write!(f, "limit what {} gets no more", at.what),
            Self::SetRules(_) => f.write_str(SET_RULES),
            Self::Set { setting, before } => {
                write!(f, "set net/{} to {}, from {before}", setting.path, setting.value)
            }
        }
    }
}

impl Kernel {
    /// Makes a change other than that of rules, which is the firewall's.
    pub(crate) async fn make(&self, change: &Change) -> Result<()> {
        if let Change::Set { setting, .. } = change {
            return settings::write(setting);
        }
        match self.tell(change).await {
            Err(error) if is_done(change, &error) => Ok(()),
            told => told.map_err(|source| Error::Kernel { doing: change.to_string(), source }),
        }
    }

    async fn tell(&self, change: &Change) -> std::result::Result<(), rtnetlink::Error> {
        let link = self.handle.link();
        let set = |at: &At| LinkUnspec::new_with_index(at.index);
        match change {
            // Not over rtnetlink.
            Change::SetRules(_) | Change::Set { .. } => Ok(()),
            Change::RemoveLink(at) => link.del(at.index).execute().await,
            Change::AddBridge { name, mac, mtu } => self.add_bridge(name, *mac, *mtu).await,
            Change::SetAlias { at, alias } => link.set(set(at).alias(alias).build()).execute().await,
            Change::SetMtu { at, mtu } => link.set(set(at).mtu(*mtu).build()).execute().await,
            Change::AddAddress { at, address } => {
                let mut request = self.handle.address().add(at.index, address.addr(), address.prefix_len());
                if address.addr().is_ipv6() {
                    // It is ours to give: nobody else can have it, and programs can be bound to it at once.
                    let flags = AddressAttribute::Flags(AddressFlags::Nodad);
                    request.message_mut().attributes.push(flags);
                }
                request.execute().await
            }
            Change::RemoveAddress { at, address } => {
                self.handle.address().del(address_message(at.index, address)).execute().await
            }
            Change::SetDown(at) => link.set(set(at).down().build()).execute().await,
            Change::SetUp(at) => link.set(set(at).up().build()).execute().await,
            Change::SetBridge { at, bridge: Some(bridge) } => {
                link.set(set(at).controller(bridge.index).build()).execute().await
            }
            Change::SetBridge { at, bridge: None } => {
                link.set(set(at).nocontroller().build()).execute().await
            }
            Change::FilterVlans(at) => {
                let data = InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]);
                let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)];
                let message = set(at).append_extra_attribute(LinkAttribute::LinkInfo(info)).build();
                link.change(message).execute().await
            }
            Change::SetVlans { at, add, remove } => {
                for vlan in remove {
                    link.del_with_message(vlan_message(at.index, *vlan)).execute().await?;
                }
                for vlan in add {
                    link.set(vlan_message(at.index, *vlan)).execute().await?;
                }
                Ok(())
            }
            Change::SetShape { at, shape: Some(shape) } => {
                let message = RouteNetlinkMessage::NewQueueDiscipline(shape.message(at.index));
                self.send(message, NLM_F_CREATE | NLM_F_REPLACE).await
            }
            Change::SetShape { at, shape: None } => {
                let mut handle = self.handle.qdisc();
                let index = i32::try_from(at.index).unwrap_or(0);
                let mut request = handle.del(index);
                request.message_mut().header.parent = TcHandle::ROOT;
                request.execute().await
            }
        }
    }

    async fn add_bridge(
        &self,
        name: &str,
        mac: [u8; 6],
        mtu: u32,
    ) -> std::result::Result<(), rtnetlink::Error> {
        let bridge = || LinkBridge::new(name).address(mac.to_vec()).mtu(mtu);
        let separate = bridge().append_info_data(InfoBridge::VlanFiltering(true)).build();
        match self.handle.link().add(separate).execute().await {
            Err(error) if code(&error) == -libc::EOPNOTSUPP => {
                self.handle.link().add(bridge().build()).execute().await
            }
            told => told,
        }
    }

    async fn send(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> std::result::Result<(), rtnetlink::Error> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(message)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }
}

/// The kernel's number of an error, which is negative; 0 if it is another's.
fn code(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map_or(0, |code| code.get()),
        _ => 0,
    }
}

/// Whether an error says that somebody else, such as a guest that ended, has made the change already.
fn is_done(change: &Change, error: &rtnetlink::Error) -> bool {
    let code = -code(error);
    match change {
        Change::RemoveLink(_) | Change::RemoveAddress { .. } => {
            [libc::ENODEV, libc::ENXIO, libc::EADDRNOTAVAIL].contains(&code)
        }
        Change::AddBridge { .. } | Change::AddAddress { .. } => code == libc::EEXIST,
        _ => false,
    }
}

fn vlan_message(index: u32, vlan: Vlan) -> LinkMessage {
    let untagged = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
    let flags = if vlan.untagged { untagged } else { BridgeVlanInfoFlags::empty() };
    LinkBridgeVlan::new(index).vlan(vlan.id, flags).build()
}

fn address_message(index: u32, address: &IpNet) -> AddressMessage {
    let length = address.prefix_len();
    match address {
        IpNet::V4(net) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(net.addr(), length).build()
        }
        IpNet::V6(net) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(net.addr(), length).build()
        }
    }
}
