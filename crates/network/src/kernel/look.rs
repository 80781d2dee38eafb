//! Looking at what is there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::LinkGetRequest;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    AfSpecBridge, BridgeVlanInfoFlags, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::tc::TcMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Kernel, Link, LinkKind, Observed, Shape, Vlan};
use crate::error::{Error, Result};
use crate::names::Owner;

impl Kernel {
    /// Those of these interfaces that are there, and those of others that have addresses, which a network may overlap. A tap among them has been made just
    /// now: nobody has given it VLANs or limits yet. To list hundreds of interfaces for one takes a multiple of what is done with it.
    pub(crate) async fn look_at(&self, owner: Owner, names: &[String]) -> Result<Observed> {
        let get = || self.handle.link().get();
        let mut found = Vec::new();
        for name in names {
            found.extend(one(get().match_name(name.clone())).await?);
        }
        let addresses = self.addresses().await?;
        let known: BTreeSet<_> = found.iter().map(|link| link.index).collect();
        let others: BTreeSet<_> = addresses.iter().map(|(index, _)| *index).collect();
        for index in others.difference(&known).copied() {
            found.extend(one(get().match_index(index)).await?.filter(|link| !owner.owns(&link.name)));
        }
        let mut observed = Observed::of(found);
        observed.have(addresses);
        for link in observed.links.values_mut().filter(|link| link.kind == LinkKind::Tun) {
            link.vlans.insert(Vlan::FIRST);
        }
        Ok(observed)
    }

    /// All interfaces, with their addresses, VLANs and limits. Settings are read when it is known which are wanted.
    pub(crate) async fn look(&self) -> Result<Observed> {
        let mut all = Vec::new();
        let told = |source| Error::Kernel { doing: "listing interfaces".into(), source };
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await.map_err(told)? {
            all.push(read_link(&message));
        }
        let mut observed = Observed::of(all);
        self.look_for_addresses(&mut observed).await?;
        self.look_for_vlans(&mut observed).await?;
        self.look_for_shapes(&mut observed).await?;
        Ok(observed)
    }

    pub(super) async fn look_for_addresses(&self, observed: &mut Observed) -> Result<()> {
        observed.have(self.addresses().await?);
        Ok(())
    }

    /// All addresses, each with the number of its interface.
    async fn addresses(&self) -> Result<Vec<(u32, IpNet)>> {
        let told = |source| Error::Kernel { doing: "listing addresses".into(), source };
        let mut addresses = self.handle.address().get().execute();
        let mut found = Vec::new();
        while let Some(message) = addresses.try_next().await.map_err(told)? {
            let length = message.header.prefix_len;
            let mut own: Option<IpAddr> = None;
            for attribute in &message.attributes {
                match attribute {
                    // Where both are told, this one is the peer's.
                    AddressAttribute::Address(address) => own = own.or(Some(*address)),
                    AddressAttribute::Local(address) => own = Some(*address),
                    _ => {}
                }
            }
            let address = own.and_then(|address| IpNet::new(address, length).ok());
            found.extend(address.map(|address| (message.header.index, address)));
        }
        Ok(found)
    }

    async fn look_for_vlans(&self, observed: &mut Observed) -> Result<()> {
        let told = |source| Error::Kernel { doing: "listing VLANs".into(), source };
        let request = self.handle.link().get();
        let mut links =
            request.set_filter_mask(AddressFamily::Bridge, vec![LinkExtentMask::Brvlan]).execute();
        while let Some(message) = links.try_next().await.map_err(told)? {
            let Some(link) = observed.links.get_mut(&message.header.index) else { continue };
            let specs = message.attributes.iter().filter_map(|attribute| match attribute {
                LinkAttribute::AfSpecBridge(specs) => Some(specs),
                _ => None,
            });
            for spec in specs.flatten() {
                if let AfSpecBridge::VlanInfo(vlan) = spec {
                    let untagged = vlan.flags.contains(BridgeVlanInfoFlags::Untagged);
                    link.vlans.insert(Vlan { id: vlan.vid, untagged });
                }
            }
        }
        Ok(())
    }

    /// The crate's own request for these cannot ask for those of all interfaces.
    async fn look_for_shapes(&self, observed: &mut Observed) -> Result<()> {
        let told = |source| Error::Kernel { doing: "listing limits".into(), source };
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()));
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = self.handle.clone().request(message).map_err(told)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::Error(error) => return Err(told(rtnetlink::Error::NetlinkError(error))),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewQueueDiscipline(message)) => {
                    let index = u32::try_from(message.header.index).unwrap_or(0);
                    if let Some(link) = observed.links.get_mut(&index) {
                        link.shape = link.shape.or(Shape::read(&message));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The interface that is asked for, if it is there.
async fn one(request: LinkGetRequest) -> Result<Option<Link>> {
    let told = |source| Error::Kernel { doing: "looking at an interface".into(), source };
    match request.execute().try_next().await {
        Ok(message) => Ok(message.as_ref().map(read_link)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(told(error)),
    }
}

pub(super) fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(bridge) => link.bridge = Some(*bridge),
            LinkAttribute::LinkInfo(infos) => link.kind = read_kind(infos),
            LinkAttribute::Stats64(stats) => {
                link.received = (stats.rx_bytes, stats.rx_packets);
                link.sent = (stats.tx_bytes, stats.tx_packets);
            }
            _ => {}
        }
    }
    link
}

fn read_kind(infos: &[LinkInfo]) -> LinkKind {
    let mut kind = LinkKind::Other;
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => kind = LinkKind::Bridge { can_filter: false, filters: false },
            LinkInfo::Kind(InfoKind::Tun) => kind = LinkKind::Tun,
            LinkInfo::Data(InfoData::Bridge(data)) => {
                // Told only by a kernel whose bridges know VLANs (br_fill_info).
                let can_filter = data.iter().any(|info| matches!(info, InfoBridge::VlanDefaultPvid(_)));
                let filters = data.iter().any(|info| matches!(info, InfoBridge::VlanFiltering(true)));
                kind = LinkKind::Bridge { can_filter, filters };
            }
            _ => {}
        }
    }
    kind
}
