//! The options by which pools and networks say what they carry, and guests are promised some of it; and what came of that.

use std::fmt::Write;

use api::{
    BandwidthFlow, BandwidthPlace, BandwidthReport, BandwidthShare, GroupPlace, ShareGroupInfo, Size, Way,
};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::options::{OrNone, share_patch};

/// What a guest is promised of the pools that its disks are on.
#[derive(Debug, Default, Clone, Args)]
pub struct DiskShareOption {
    /// Bytes each second that are always its own, of each pool that its disks are on
    #[arg(long, value_name = "SIZE")]
    disk_reserve: Option<Size>,
    /// Its part of what is left of a pool's bandwidth, compared with others': 1 to 1000000, 1000 is usual
    #[arg(long, value_name = "N")]
    disk_weight: Option<u32>,
    /// Bytes each second that it never passes on a pool, all of its disks there together
    #[arg(long, value_name = "SIZE|none")]
    disk_limit: Option<OrNone<Size>>,
}

/// What a guest is promised of the networks that its cards are on.
#[derive(Debug, Default, Clone, Args)]
pub struct NetworkShareOption {
    /// Bytes each second, each way, that are always its own, of each network that its cards are on
    #[arg(long, value_name = "SIZE")]
    network_reserve: Option<Size>,
    /// Its part of what is left of a network's bandwidth, compared with others': 1 to 1000000, 1000 is usual
    #[arg(long, value_name = "N")]
    network_weight: Option<u32>,
    /// Bytes each second, each way, that it never passes on a network, all of its cards there together
    #[arg(long, value_name = "SIZE|none")]
    network_limit: Option<OrNone<Size>>,
}

impl DiskShareOption {
    /// A JSON merge patch of the share of a guest, if anything is said of it.
    pub fn patch(&self) -> Option<Value> {
        share_patch(self.disk_reserve, self.disk_weight, self.disk_limit.as_ref())
    }
}

impl NetworkShareOption {
    /// A JSON merge patch of the share of a guest, if anything is said of it.
    pub fn patch(&self) -> Option<Value> {
        share_patch(self.network_reserve, self.network_weight, self.network_limit.as_ref())
    }
}

/// How much a network carries.
#[derive(Debug, Clone, Args)]
pub struct NetworkBandwidthOption {
    /// Bytes each second, each way, that are divided among its guests; none divides nothing
    #[arg(long, value_name = "SIZE|none")]
    bandwidth: Option<OrNone<Size>>,
}

/// How much a pool carries.
#[derive(Debug, Clone, Args)]
pub struct PoolBandwidthOption {
    /// Bytes each second, read and written, that are divided among guests with disks on it; none divides nothing
    #[arg(long, value_name = "SIZE|none")]
    bandwidth: Option<OrNone<Size>>,
    /// Requests each second that are divided among them, by weight alone
    #[arg(long, value_name = "N|none")]
    operations: Option<OrNone<u64>>,
}

impl NetworkBandwidthOption {
    /// Adds what is said to a definition or a patch of one.
    pub fn add_to(&self, fields: &mut Map<String, Value>) {
        fields.extend(self.bandwidth.iter().map(|OrNone(amount)| ("bandwidth".to_owned(), json!(amount))));
    }
}

impl PoolBandwidthOption {
    /// Adds what is said to a definition or a patch of one.
    pub fn add_to(&self, fields: &mut Map<String, Value>) {
        fields.extend(self.bandwidth.iter().map(|OrNone(amount)| ("bandwidth".to_owned(), json!(amount))));
        fields.extend(self.operations.iter().map(|OrNone(count)| ("operations".to_owned(), json!(count))));
    }
}

/// A share as a person reads it.
pub fn told(share: &BandwidthShare) -> String {
    let limit = share.limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}/s"));
    format!("reserve {}/s, weight {}, {limit}", share.reserve, share.weight)
}

/// What a group is promised of pools or networks, and has of them.
type OfGroup = fn(&ShareGroupInfo) -> (&BandwidthShare, &[GroupPlace]);

/// What a guest in these groups is promised and has of pools and networks, in lines below those of its memory. Nothing is told of what it does
/// not use.
pub fn explained(disks: &BandwidthReport, networks: &BandwidthReport, groups: &[ShareGroupInfo]) -> String {
    let mut text = String::new();
    let of_pools: OfGroup = |group| (&group.definition.disk_share, &group.pools);
    let of_networks: OfGroup = |group| (&group.definition.network_share, &group.networks);
    for (what, kind, report, of) in
        [("disks", "pool", disks, of_pools), ("networks", "network", networks, of_networks)]
    {
        if report.places.is_empty() && report.promised.is_usual() {
            continue;
        }
        // Writing to a string never fails.
        let _ = writeln!(text, "  {what}\n  {:<12}{}", "promised", told(&report.promised));
        for place in &report.places {
            let _ = writeln!(text, "  {kind:<12}{}: {}", place.name, carries(place));
            for flow in &place.flows {
                let _ = writeln!(text, "  {:<12}{}", way(flow.way), flows(flow, &report.promised));
            }
            for group in groups {
                let (share, places) = of(group);
                let here = places.iter().find(|here| here.name == place.name);
                let bytes = Size(here.map_or(0, |here| here.bytes));
                let (name, share) = (&group.definition.name, told(share));
                let _ = writeln!(text, "  {:<12}{name} ({share}): {bytes}/s in all", "in group");
            }
            for other in &place.others {
                let words = format!(
                    "{:9}  {} ({})",
                    format!("{}/s", Size(other.bytes)),
                    other.name,
                    told(&other.promised)
                );
                let _ = writeln!(text, "  {:<12}{words}", "other");
            }
            if place.bandwidth.is_none() && (report.promised.reserve.0 > 0 || has_weight(&report.promised)) {
                let why =
                    format!("nobody has said what {} carries (tessera {kind} edit --bandwidth)", place.name);
                let _ = writeln!(text, "  {:<12}{why}", "NOT HELD TO");
            }
        }
    }
    text
}

fn has_weight(share: &BandwidthShare) -> bool {
    share.weight != BandwidthShare::default().weight
}

fn carries(place: &BandwidthPlace) -> String {
    let mut words = match place.bandwidth {
        Some(bandwidth) => format!("{bandwidth}/s, of which {}/s are reserved", place.reserved),
        None => "what it carries is not divided".into(),
    };
    if let Some(operations) = place.operations {
        let _ = write!(words, "; {operations} ops/s");
    }
    words
}

fn way(way: Way) -> &'static str {
    match way {
        Way::All => "does",
        Way::Receive => "receives",
        Way::Send => "sends",
    }
}

fn flows(flow: &BandwidthFlow, promised: &BandwidthShare) -> String {
    let mut words = format!("{}/s, {} ops/s", Size(flow.bytes), flow.operations);
    if let Some(allowed) = flow.allowed {
        let _ = write!(words, "; may do {allowed}/s");
    }
    if let Some(allowed) = flow.allowed_operations {
        let _ = write!(words, ", {allowed} ops/s");
    }
    if flow.waited >= 0.005 {
        let at_limit =
            promised.limit.is_some_and(|limit| flow.allowed.is_some_and(|allowed| allowed >= limit));
        let whom = match flow.waited_for_group {
            _ if at_limit => "its own limit",
            true => "others in its group, which has all that it may have,",
            false => "others",
        };
        let _ = write!(words, "; waited for {whom} {:.0} % of the time", flow.waited * 100.0);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that waits nearly all the time, perhaps for its group.
    fn waiting(waited_for_group: bool) -> BandwidthFlow {
        BandwidthFlow {
            way: Way::All,
            bytes: 4 << 20,
            operations: 80,
            waited: 0.9,
            allowed: Some(Size(4 << 20)),
            allowed_operations: None,
            waited_for_group,
        }
    }

    #[test]
    fn what_is_held_to_and_what_is_not_is_told() {
        let promised = BandwidthShare { weight: 2000, ..BandwidthShare::default() };
        let flow = waiting(false);
        let (id, name) = (api::Id::new(), "web".parse().unwrap());
        let other = api::BandwidthOther { id, name, promised: BandwidthShare::default(), bytes: 5 << 20 };
        let place = |bandwidth| BandwidthPlace {
            name: "fast".into(),
            bandwidth,
            operations: None,
            reserved: Size(0),
            flows: vec![flow],
            others: vec![other.clone()],
        };
        let report = |bandwidth| BandwidthReport { promised, places: vec![place(bandwidth)] };
        let said = explained(&report(Some(Size(8 << 20))), &BandwidthReport::default(), &[]);
        assert_eq!(
            said,
            "  disks\n  promised    reserve 0B/s, weight 2000, no limit\n  pool        fast: 8M/s, of which 0B/s are reserved\n  \
             does        4M/s, 80 ops/s; may do 4M/s; waited for others 90 % of the time\n  \
             other       5M/s       web (reserve 0B/s, weight 1000, no limit)\n"
        );
        let said = explained(&BandwidthReport::default(), &report(None), &[]);
        assert!(
            said.contains("NOT HELD TO nobody has said what fast carries (tessera network edit --bandwidth)")
        );
        assert_eq!(explained(&BandwidthReport::default(), &BandwidthReport::default(), &[]), "");
    }

    #[test]
    fn through_which_groups_a_guest_shares_is_told() {
        let flow = waiting(true);
        let name = "fast".to_owned();
        let place = BandwidthPlace {
            name: name.clone(),
            bandwidth: Some(Size(32 << 20)),
            operations: None,
            reserved: Size(0),
            flows: vec![flow],
            others: Vec::new(),
        };
        let group = serde_json::json!({
            "name": "eng", "disk_share": { "limit": "8M" }, "promised": 0, "got_10s": 0.0, "guests": 2,
            "pools": [{ "name": name, "promised": 0, "bytes": 8 << 20 }],
        });
        let group: ShareGroupInfo = serde_json::from_value(group).unwrap();
        let report = BandwidthReport { promised: BandwidthShare::default(), places: vec![place] };
        let said = explained(&report, &BandwidthReport::default(), &[group]);
        assert!(
            said.ends_with(
                "waited for others in its group, which has all that it may have, 90 % of the time\n  \
                 in group    eng (reserve 0B/s, weight 1000, limit 8M/s): 8M/s in all\n"
            ),
            "{said}"
        );
    }
}
