//! Settings of the kernel's network code (sysctl), which are files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Link, LinkKind, Observed};
use crate::definition::{NetworkKind, Site};
use crate::error::{Error, Result};
use crate::names::Owner;

/// What a setting should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Below /proc/sys/net.
    pub(crate) path: String,
    pub(crate) value: &'static str,
}

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(path)
}

/// The settings that a site needs on the interfaces that are there. What is not named keeps its value.
pub(crate) fn wanted(owner: Owner, site: &Site, observed: &Observed) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut want = |path: String, value| settings.push(Setting { path, value });
    for network in &site.networks {
        let Some(bridge) = observed.named(&owner.bridge(&network.name)) else { continue };
        let name = &bridge.name;
        if !network.is_managed() || network.ipv6.is_none() {
            // The host itself has no business there.
            want(format!("ipv6/conf/{name}/disable_ipv6"), "1");
        } else {
            want(format!("ipv6/conf/{name}/disable_ipv6"), "0");
            want(format!("ipv6/conf/{name}/accept_ra"), "0");
        }
        let routed = if network.is_managed() && !network.forwards.is_empty() { "1" } else { "0" };
        // For forwards from the host's own loopback. What guests send there is dropped by a rule.
        want(format!("ipv4/conf/{name}/route_localnet"), routed);
    }
    for link in observed.links.values().filter(|link| is_tap(owner, link)) {
        want(format!("ipv6/conf/{}/disable_ipv6", link.name), "1");
    }
    let routes = |kind| matches!(kind, NetworkKind::Nat | NetworkKind::Routed);
    let there = || {
        site.networks
            .iter()
            .filter(|network| routes(network.kind) && observed.named(&owner.bridge(&network.name)).is_some())
    };
    if there().any(|network| network.ipv4.is_some()) {
        want("ipv4/ip_forward".into(), "1");
    }
    if there().any(|network| network.ipv6.is_some()) {
        // A host that routes no longer listens to its own router's advertisements, unless told twice.
        for link in observed.links.values().filter(|link| !owner.owns(&link.name)) {
            let path = format!("ipv6/conf/{}/accept_ra", link.name);
            if observed.settings.get(&path).is_some_and(|value| value == "1") {
                want(path, "2");
            }
        }
        want("ipv6/conf/all/forwarding".into(), "1");
    }
    settings
}

fn is_tap(owner: Owner, link: &Link) -> bool {
    link.kind == LinkKind::Tun && owner.owns(&link.name)
}

/// Reads those that a site may want changed. One that is not there, as with a kernel without IPv6, is left out.
pub(crate) fn look(owner: Owner, site: &Site, observed: &mut Observed) {
    // Only what routing IPv6 may change.
    let routes = site.networks.iter().any(|network| network.ipv6.is_some());
    let others = observed.links.values().filter(|link| routes && !owner.owns(&link.name));
    let accept = others.map(|link| format!("ipv6/conf/{}/accept_ra", link.name));
    let known: BTreeMap<_, _> = accept.filter_map(|path| read(&path).map(|value| (path, value))).collect();
    observed.settings = known;
    for setting in wanted(owner, site, observed) {
        if let Some(value) = read(&setting.path) {
            observed.settings.insert(setting.path, value);
        }
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(file(path)).ok().map(|text| text.trim().to_owned())
}

/// Changes one.
pub(crate) fn write(setting: &Setting) -> Result<()> {
    let path = file(&setting.path);
    std::fs::write(&path, setting.value).map_err(Error::file("setting", &path))
}
