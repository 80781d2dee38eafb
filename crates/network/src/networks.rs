//! All networks of one host, kept as wanted.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::definition::{Network, NetworkKind, Port, Site};
use crate::dhcp::{Lease, Servers};
use crate::error::{Error, Result};
use crate::firewall::Firewall;
use crate::kernel::{Change, Kernel, Observed, SET_RULES, settings, tap};
use crate::names::Owner;
use crate::plan::{Plan, Problem, plan};
use crate::rules::{Rules, taps};

/// How often it is looked again whether the kernel is as wanted: once for what hangs on what was not there, once to see
/// that nothing is left, and more for what others change meanwhile.
const ROUNDS: u32 = 5;

/// Who a host's networks belong to, and where it keeps what must last.
#[derive(Clone, Debug)]
pub struct Config {
    /// Drawn once for each host, and kept.
    pub owner: Owner,
    /// A folder of the host's own for leases and the like. Everyone must be able to pass through it, since the DHCP server is
    /// no root.
    pub state: PathBuf,
}

/// All networks of one host. One caller at a time changes them; others wait.
#[derive(Debug)]
pub struct Networks {
    owner: Owner,
    kernel: Kernel,
    firewall: Firewall,
    servers: Servers,
    site: Mutex<Site>,
    /// Whether nothing hindered what was made last.
    is_whole: AtomicBool,
}

/// What `apply` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Report {
    /// What was changed, in order, in words.
    pub changes: Vec<String>,
    /// What could not be.
    pub problems: Vec<Problem>,
}

/// What has passed through a port since it was attached, from the guest's side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Traffic {
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Frames that the guest received.
    pub received_frames: u64,
    /// Bytes that the guest sent, those that a rule or limit dropped included.
    pub sent_bytes: u64,
    /// Frames that the guest sent.
    pub sent_frames: u64,
}

impl Networks {
    /// Connects to the kernel of the calling thread's network namespace, within a tokio runtime. Changes nothing.
    ///
    /// # Errors
    /// If the kernel cannot be talked to, or the folder cannot be made.
    pub fn open(config: Config) -> Result<Self> {
        let Config { owner, state } = config;
        std::fs::create_dir_all(&state).map_err(Error::file("making", &state))?;
        let state = state.canonicalize().map_err(Error::file("finding", &state))?;
        let servers = Servers::new(owner, state.join("dnsmasq"));
        let firewall = Firewall::new(owner, state.join("rules.json"));
        Ok(Self {
            owner,
            kernel: Kernel::connect()?,
            firewall,
            servers,
            site: Mutex::default(),
            is_whole: AtomicBool::new(false),
        })
    }

    /// What [`apply`](Self::apply) would change, in words; what hangs on an interface that is still to be made is not told.
    ///
    /// # Errors
    /// If a definition is wrong, or the kernel does not tell what is there.
    pub async fn plan(&self, site: &Site) -> Result<Report> {
        check(site)?;
        let rules = self.firewall.lacks(site).await?;
        let Plan { changes, problems } = self.look_and_plan(site, rules, &View::All).await?.1;
        let mut changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
        changes.extend(self.servers.plan(site).await);
        Ok(Report { changes, problems })
    }

    /// Makes the networks as wanted, and removes those of our own that are not. Does nothing where all is as wanted.
    ///
    /// # Errors
    /// If a definition is wrong, or nothing can be done at all; what concerns single networks is in the report.
    pub async fn apply(&self, site: &Site) -> Result<Report> {
        check(site)?;
        let mut kept = self.site.lock().await;
        let rules = self.firewall.lacks(site).await?;
        // Only rules and servers know of a port to which nothing is attached yet.
        let was_whole = self.is_whole.swap(false, Ordering::Relaxed);
        let mut report = if was_whole && has_more(site, &kept) {
            let mut report = Report::default();
            if let Some(rules) = rules {
                self.set_rules(rules, &mut report).await?;
            }
            report
        } else {
            self.settle(site, rules, &View::All).await?.0
        };
        self.is_whole.store(report.problems.is_empty(), Ordering::Relaxed);
        self.servers.apply(site, &mut report).await;
        *kept = site.clone();
        Ok(report)
    }

    /// Removes all that is ours: interfaces, rules, servers, and the folder's contents. A setting such as `ip_forward`, on
    /// which others may rely by now, stays.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn teardown(&self) -> Result<Report> {
        let mut kept = self.site.lock().await;
        *kept = Site::default();
        let mut report = Report::default();
        self.servers.apply(&Site::default(), &mut report).await;
        for (_, link) in self.kernel.look().await?.links {
            if self.owner.owns(&link.name) {
                let change = Change::RemoveLink((&link).into());
                self.kernel.make(&change).await?;
                report.changes.push(change.to_string());
            }
        }
        self.firewall.remove().await?;
        Ok(report)
    }

    /// Makes a port's tap and connects it. It has virtio headers and one queue, does not block, and lives as long as this
    /// descriptor or a copy of it, in whatever process.
    ///
    /// # Errors
    /// If `apply` was told no such port, its network has no taps, it is attached already, or cannot be connected.
    pub async fn attach(&self, port: &str) -> Result<OwnedFd> {
        let site = self.site.lock().await;
        let refused = |why: String| Error::Port { port: port.to_owned(), why };
        let (wanted, network) = find(&site, port)?;
        let name = self.owner.tap(&wanted.id);
        let tap = tap::open(&name).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => refused("is attached already; detach it first".into()),
            _ => Error::Io { doing: format!("making the tap of port {port}"), source: error },
        })?;
        // Whether each rule is as it was is for `apply` to see: that takes long where there are many guests.
        let rules = match self.firewall.is_there().await? {
            true => None,
            false => self.firewall.lacks(&site).await?,
        };
        let (report, observed) = match alone(wanted, network) {
            Some(alone) => {
                let view = View::Of(vec![self.owner.bridge(&network.name), name.clone()]);
                self.settle(&alone, rules, &view).await?
            }
            None => self.settle(&site, rules, &View::All).await?,
        };
        match observed.named(&name) {
            Some(link) if link.bridge.is_some() && link.up => Ok(tap),
            _ => {
                let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
                Err(refused(format!("cannot be connected: {}", problems.join("; "))))
            }
        }
    }

    /// Removes a port's tap, whoever holds its descriptor. Does nothing if there is none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn detach(&self, port: &str) -> Result<()> {
        let _site = self.site.lock().await;
        match self.kernel.look().await?.named(&self.owner.tap(port)) {
            Some(link) => self.kernel.make(&Change::RemoveLink(link.into())).await,
            None => Ok(()),
        }
    }

    /// The addresses that guests have taken, as the DHCP servers keep them.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn leases(&self) -> Result<Vec<Lease>> {
        let site = self.site.lock().await;
        self.servers.leases(&site)
    }

    /// What has passed through each port that is attached, by its id.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub async fn traffic(&self) -> Result<HashMap<String, Traffic>> {
        let site = self.site.lock().await;
        let observed = self.kernel.look().await?;
        let by_name: HashMap<_, _> = observed.links.values().map(|link| (link.name.as_str(), link)).collect();
        let of = |(port, _): (&Port, _)| {
            let link = by_name.get(self.owner.tap(&port.id).as_str())?;
            // What comes in at the host's end is what the guest sent.
            let traffic = Traffic {
                received_bytes: link.sent.0,
                received_frames: link.sent.1,
                sent_bytes: link.received.0,
                sent_frames: link.received.1,
            };
            Some((port.id.clone(), traffic))
        };
        Ok(taps(&site).filter_map(of).collect())
    }

    /// Watches the DHCP and DNS servers, and starts again, with growing pauses, those that end; and notes what nobody waits for. Never
    /// returns: run it beside the rest, and drop it to stop watching.
    pub async fn watch(&self) -> ! {
        tokio::join!(self.watch_servers(), self.firewall.note()).0
    }

    async fn watch_servers(&self) -> ! {
        loop {
            self.servers.wait_for_end().await;
            let site = self.site.lock().await;
            let mut report = Report::default();
            self.servers.apply(&site, &mut report).await;
            for change in &report.changes {
                tracing::warn!("{change}");
            }
            for problem in &report.problems {
                tracing::error!("{problem}");
            }
        }
    }

    /// Changes interfaces and rules until they are as wanted; what was done, and what is there then.
    async fn settle(&self, site: &Site, mut rules: Option<Rules>, view: &View) -> Result<(Report, Observed)> {
        let mut report = Report::default();
        let mut refused = Vec::new();
        for _ in 0..ROUNDS {
            let (observed, plan) = self.look_and_plan(site, rules.take(), view).await?;
            report.problems = plan.problems;
            // Nothing hangs on rules.
            let last = plan.changes.iter().all(|change| matches!(change, Change::SetRules(_)));
            refused.clear();
            for change in plan.changes {
                match change {
                    // No guest may be connected without its rules.
                    Change::SetRules(rules) => self.set_rules(rules, &mut report).await?,
                    change => match self.kernel.make(&change).await {
                        Ok(()) => report.changes.push(change.to_string()),
                        Err(error) => refused.push(error.to_string()),
                    },
                }
            }
            if last {
                return Ok((report, observed));
            }
        }
        if refused.is_empty() {
            return Err(Error::Unstable(report.changes.pop().unwrap_or_default()));
        }
        report.problems.extend(refused.into_iter().map(|detail| Problem { network: None, detail }));
        Ok((report, self.look(view).await?))
    }

    async fn set_rules(&self, rules: Rules, report: &mut Report) -> Result<()> {
        self.firewall.set(rules).await?;
        report.changes.push(SET_RULES.into());
        Ok(())
    }

    async fn look(&self, view: &View) -> Result<Observed> {
        match view {
            View::All => self.kernel.look().await,
            View::Of(names) => self.kernel.look_at(self.owner, names).await,
        }
    }

    async fn look_and_plan(
        &self,
        site: &Site,
        rules: Option<Rules>,
        view: &View,
    ) -> Result<(Observed, Plan)> {
        let mut observed = self.look(view).await?;
        settings::look(self.owner, site, &mut observed);
        let plan = plan(self.owner, site, &observed, rules.map(Change::SetRules));
        Ok((observed, plan))
    }
}

/// Which interfaces are looked at.
enum View {
    All,
    /// Those with these names, and those of the host that have addresses.
    Of(Vec<String>),
}

/// A port and its network, if nothing else has to be looked at to attach it.
fn alone(port: &Port, network: &Network) -> Option<Site> {
    let is_plain =
        port.vlan.is_none() && port.trunk.is_empty() && port.receive.is_none() && port.send.is_none();
    let is_own = network.kind != NetworkKind::Bridged;
    (is_plain && is_own).then(|| Site { networks: vec![network.clone()], ports: vec![port.clone()] })
}

/// Whether a site is what was before, and ports besides.
fn has_more(site: &Site, before: &Site) -> bool {
    let ports: HashMap<_, _> = site.ports.iter().map(|port| (&port.id, port)).collect();
    site.networks == before.networks
        && site.ports.len() > before.ports.len()
        && before.ports.iter().all(|port| ports.get(&port.id) == Some(&port))
}

fn check(site: &Site) -> Result<()> {
    let faults = site.check();
    if faults.is_empty() { Ok(()) } else { Err(Error::Definition(faults)) }
}

/// A port that has a tap, and its network.
fn find<'a>(site: &'a Site, id: &str) -> Result<(&'a Port, &'a Network)> {
    let refused = |why: &str| Error::Port { port: id.to_owned(), why: why.to_owned() };
    if let Some(found) = taps(site).find(|(port, _)| port.id == id) {
        return Ok(found);
    }
    let known = site.ports.iter().any(|port| port.id == id);
    Err(refused(if known { "is on a user-mode network, which has no taps" } else { "is not defined" }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::definition::read;

    fn site(ports: Value) -> Site {
        let networks = json!([
            { "name": "lan", "kind": "isolated" },
            { "name": "street", "kind": "bridged", "interface": "eth1" },
        ]);
        read(&json!({ "networks": networks, "ports": ports })).unwrap()
    }

    fn port(id: &str, more: Value) -> Value {
        let mut port = json!({ "id": id, "network": "lan", "mac": format!("52:54:00:00:00:0{id}") });
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        port
    }

    #[test]
    fn ports_that_come_to_others_need_no_look_at_what_is_there() {
        let (one, two) = (port("1", json!({})), port("2", json!({})));
        let before = site(json!([one]));
        assert!(has_more(&site(json!([two, one])), &before));
        assert!(!has_more(&before, &before), "whoever applies the same wants all to be looked at");
        assert!(!has_more(&site(json!([two])), &before));
        assert!(!has_more(&site(json!([two, port("1", json!({ "vlan": 7 }))])), &before), "that one changed");
        let mut fewer = site(json!([two, one]));
        fewer.networks.pop();
        assert!(!has_more(&fewer, &before));
    }

    #[test]
    fn a_port_is_attached_by_itself_unless_others_or_what_is_seldom_looked_at_matter() {
        let is_alone = |more: Value| {
            let site = site(json!([port("1", more), port("2", json!({}))]));
            let (port, network) = find(&site, "1").unwrap();
            alone(port, network).map(|alone| (alone.networks.len(), alone.ports.len()))
        };
        assert_eq!(is_alone(json!({})), Some((1, 1)));
        assert_eq!(is_alone(json!({ "vlan": 7 })), None);
        assert_eq!(is_alone(json!({ "trunk": [7] })), None);
        assert_eq!(is_alone(json!({ "network": "street" })), None, "its interface carries all ports' VLANs");
    }
}
