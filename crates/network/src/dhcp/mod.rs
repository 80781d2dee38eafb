//! Addresses and names for guests: one `dnsmasq` for each network, which outlives this process and is found again.

mod leases;
mod process;
mod text;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use tokio::sync::Notify;

pub use leases::Lease;

use crate::definition::{Network, Site};
use crate::error::{Error, Result};
use crate::names::Owner;
use crate::networks::Report;
use crate::plan::Problem;
use process::Process;

/// The pause after the first end of a server; it doubles with each one after.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Who has run this long has started well.
const WELL: Duration = Duration::from_secs(60);

/// The servers of all networks.
#[derive(Debug)]
pub(crate) struct Servers {
    owner: Owner,
    folder: PathBuf,
    running: Mutex<HashMap<String, Running>>,
    changed: Notify,
}

#[derive(Debug)]
struct Running {
    process: Process,
    since: Instant,
    /// How often it has ended one after another.
    ends: u32,
}

/// The files of one network's server.
pub(super) struct Files {
    folder: PathBuf,
}

impl Files {
    fn configuration(&self) -> PathBuf {
        self.folder.join("dnsmasq.conf")
    }

    fn addresses(&self) -> PathBuf {
        self.folder.join("addresses")
    }

    fn names(&self) -> PathBuf {
        self.folder.join("names")
    }

    /// The only folder that the server can write to. What is in it is not trusted.
    fn own(&self) -> PathBuf {
        self.folder.join("own")
    }

    fn leases(&self) -> PathBuf {
        self.own().join("leases")
    }

    fn pid(&self) -> PathBuf {
        self.own().join("pid")
    }

    fn log(&self) -> PathBuf {
        self.own().join("log")
    }
}

/// Whether a network has a server.
fn is_served(network: &Network) -> bool {
    let dhcp =
        network.ipv4.as_ref().is_some_and(|ip| ip.dhcp) || network.ipv6.as_ref().is_some_and(|ip| ip.dhcp);
    let addressed = network.ipv4.is_some() || network.ipv6.is_some();
    network.is_managed() && (dhcp || addressed && network.dns.enabled)
}

impl Servers {
    pub(crate) fn new(owner: Owner, folder: PathBuf) -> Self {
        Self { owner, folder, running: Mutex::default(), changed: Notify::new() }
    }

    fn files(&self, network: &str) -> Files {
        Files { folder: self.folder.join(network) }
    }

    /// What [`apply`](Self::apply) would do, in words.
    pub(crate) async fn plan(&self, site: &Site) -> Vec<String> {
        let mut told = Vec::new();
        for name in self.left_over(site) {
            told.push(format!("stop DHCP and DNS of {name}"));
        }
        for network in site.networks.iter().filter(|network| is_served(network)) {
            let files = self.files(&network.name);
            let running = Process::find(&files).is_some();
            let configuration = text::configuration(self.owner, network, &files);
            if !running || !is_same(&files.configuration(), &configuration) {
                told.push(format!("start DHCP and DNS of {}", network.name));
            } else if hosts(site, network, &files).iter().any(|(path, text)| !is_same(path, text)) {
                told.push(format!("tell DHCP and DNS of {} its guests", network.name));
            }
        }
        told
    }

    /// Makes each network's server as wanted, and stops the others. What fails is in the report.
    pub(crate) async fn apply(&self, site: &Site, report: &mut Report) {
        for name in self.left_over(site) {
            let files = self.files(&name);
            let told = self.stop(&name, &files).await.and_then(|()| remove_folder(&files.folder));
            report.note(&name, format!("stop DHCP and DNS of {name}"), told);
        }
        if self.folder.is_dir() && !site.networks.iter().any(is_served) {
            // It is empty; and if not, what is in it has been told of.
            let _ = std::fs::remove_dir(&self.folder);
        }
        for network in site.networks.iter().filter(|network| is_served(network)) {
            match self.serve(site, network).await {
                Ok(None) => {}
                Ok(Some(change)) => report.changes.push(change),
                Err(error) => report.problems.push(problem(&network.name, &error)),
            }
        }
        self.changed.notify_one();
    }

    /// Networks that have a folder and should have no server.
    fn left_over(&self, site: &Site) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let wanted = |name: &String| site.networks.iter().any(|net| net.name == *name && is_served(net));
        names.filter(|name| !wanted(name)).collect()
    }

    /// Makes one network's server as wanted; what was done, if anything.
    async fn serve(&self, site: &Site, network: &Network) -> Result<Option<String>> {
        let name = &network.name;
        let files = self.files(name);
        process::make_folders(&files)?;
        let configuration = text::configuration(self.owner, network, &files);
        let found = Process::find(&files);
        let known = self.is_known(name, found.as_ref());
        let mut fresh = false;
        if found.is_none() || !is_same(&files.configuration(), &configuration) {
            self.stop(name, &files).await?;
            replace(&files.configuration(), &configuration)?;
            fresh = true;
        }
        let mut told_hosts = false;
        for (path, text) in hosts(site, network, &files) {
            if !is_same(&path, &text) {
                replace(&path, &text)?;
                told_hosts = true;
            }
        }
        let Some(process) = found.filter(|_| !fresh) else {
            let process = process::start(&files).await?;
            self.keep(name, process);
            return Ok(Some(format!("start DHCP and DNS of {name}")));
        };
        // One that was started by an earlier process of ours may have missed what that one wrote last.
        if told_hosts || !known {
            process.reload()?;
        }
        if !known {
            self.keep(name, process);
        }
        Ok(told_hosts.then(|| format!("tell DHCP and DNS of {name} its guests")))
    }

    fn is_known(&self, name: &str, found: Option<&Process>) -> bool {
        let running = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        matches!((running.get(name), found), (Some(known), Some(found)) if known.process.pid == found.pid)
    }

    fn keep(&self, name: &str, process: Process) {
        let mut running = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let ends = match running.get(name) {
            Some(before) if before.since.elapsed() < WELL => before.ends + 1,
            _ => 0,
        };
        running.insert(name.to_owned(), Running { process, since: Instant::now(), ends });
    }

    async fn stop(&self, name: &str, files: &Files) -> Result<()> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(name);
        match Process::find(files) {
            Some(process) => process.end().await,
            None => Ok(()),
        }
    }

    /// Returns when a server has ended and the pause after that is over. Never, if none ends.
    pub(crate) async fn wait_for_end(&self) {
        loop {
            let ends: Vec<_> = {
                let running = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                running
                    .values()
                    .filter_map(|running| Some((running.process.ended()?, pause_after(running.ends))))
                    .collect()
            };
            if ends.is_empty() {
                self.changed.notified().await;
                continue;
            }
            let ends = ends.into_iter().map(|(ended, pause)| {
                Box::pin(async move {
                    ended.await;
                    tokio::time::sleep(pause).await;
                })
            });
            tokio::select! {
                _ = select_all(ends) => return,
                () = self.changed.notified() => {}
            }
        }
    }

    /// The leases of all networks.
    pub(crate) fn leases(&self, site: &Site) -> Result<Vec<Lease>> {
        let mut all = Vec::new();
        for network in site.networks.iter().filter(|network| is_served(network)) {
            leases::read(&network.name, &self.files(&network.name).leases(), &mut all)?;
        }
        Ok(all)
    }
}

/// The pause after an end, before which there were so many.
fn pause_after(ends: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << ends.min(16)).min(LONGEST_PAUSE)
}

fn problem(network: &str, error: &Error) -> Problem {
    Problem { network: Some(network.to_owned()), detail: error.to_string() }
}

impl Report {
    fn note(&mut self, network: &str, change: String, told: Result<()>) {
        match told {
            Ok(()) => self.changes.push(change),
            Err(error) => self.problems.push(problem(network, &error)),
        }
    }
}

/// What the server reads again when it is told to.
fn hosts(site: &Site, network: &Network, files: &Files) -> [(PathBuf, String); 2] {
    [(files.addresses(), text::addresses(site, network)), (files.names(), text::names(site, network))]
}

fn is_same(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|present| present == text)
}

/// Writes a file as a whole or not at all.
fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(Error::file("writing", path))
}

fn remove_folder(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).map_err(Error::file("removing", folder))
}
