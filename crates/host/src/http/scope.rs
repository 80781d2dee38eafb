//! What those see and do who are bound to labels: guests that carry these, what happens to them, and what one needs to know to use them.
//! Whatever is not named here is not theirs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use api::{Disk, DiskSource, Invalid, Network, Problem, Vm, VmDefinition};
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams};
use axum::http::Method;
use axum::http::request::Parts;

use super::error::Error;
use crate::access::Identity;
use crate::daemon::Host;
use crate::records::{self, Record};
use crate::store::{StoreError, Update};
use crate::supervisor::no_guest;

/// What else they may ask for. Lists of guests, events, tasks and alarms hold only theirs: their handlers see to that.
const OPEN: [(&str, &[Method]); 21] = [
    ("/api/v1/vms", &[Method::GET, Method::POST]),
    ("/api/v1/events", &[Method::GET]),
    ("/api/v1/tasks", &[Method::GET]),
    ("/api/v1/watch", &[Method::GET]),
    ("/api/v1/session", &[Method::GET, Method::DELETE]),
    ("/api/v1/session/password", &[Method::POST]),
    ("/api/v1/host", &[Method::GET]),
    ("/api/v1/host/history", &[Method::GET]),
    ("/api/v1/stats", &[Method::GET]),
    ("/api/v1/memory", &[Method::GET]),
    ("/api/v1/images", &[Method::GET]),
    ("/api/v1/images/{image}", &[Method::GET]),
    ("/api/v1/templates", &[Method::GET]),
    ("/api/v1/templates/{template}", &[Method::GET]),
    ("/api/v1/networks", &[Method::GET]),
    ("/api/v1/networks/{network}", &[Method::GET]),
    ("/api/v1/pools", &[Method::GET]),
    ("/api/v1/pools/{pool}", &[Method::GET]),
    ("/api/v1/alarms", &[Method::GET]),
    ("/api/v1/alarms/{alarm}", &[Method::GET]),
    ("/api/v1/alarms/{alarm}/acknowledge", &[Method::POST]),
];

/// The guests that somebody sees.
///
/// # Errors
/// If the store cannot be read.
pub async fn guests(host: &Host, identity: &Identity) -> Result<Vec<Vm>, StoreError> {
    let (records, _) = records::list(&*host.store).await?;
    Ok(records.into_iter().map(|(record, _)| record.vm).filter(|vm| identity.sees(vm)).collect())
}

/// Whether what is asked for is theirs.
///
/// # Errors
/// 404 where it is something of others, 403 where it belongs to the host as a whole.
pub async fn check(parts: &mut Parts, host: &Arc<Host>, identity: &Identity) -> Result<(), Error> {
    let matched = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let matched = matched.unwrap_or_default();
    let parameters = RawPathParams::from_request_parts(parts, host).await;
    let parameter = |name: &str| {
        let found = parameters.as_ref().ok()?.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_owned())
    };
    if matched.starts_with("/api/v1/vms/{vm}") {
        let name = parameter("vm").unwrap_or_default();
        let (vm, _) = host.supervisor.find(&name).await?;
        return if identity.sees(&vm) { Ok(()) } else { Err(Error(no_guest(&name))) };
    }
    if matched == "/api/v1/tasks/{task}" {
        let id = parameter("task").and_then(|id| id.parse().ok());
        let task = match id {
            Some(id) => host.tasks.get(id).await?,
            None => None,
        };
        let theirs = Theirs::of(host, identity).await?;
        return match task.filter(|task| theirs.has(&task.target)) {
            Some(_) => Ok(()),
            None => Err(Error(Problem::not_found("there is no such task"))),
        };
    }
    if OPEN.iter().any(|(path, methods)| *path == matched && methods.contains(&parts.method)) {
        return Ok(());
    }
    let labels: Vec<_> = identity.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let detail = format!(
        "{} is bound to guests with {}; this concerns others, too",
        identity.actor,
        labels.join(", ")
    );
    Err(Error(Problem::new(403, "Not allowed", detail)))
}

/// The guests that somebody may see: all of them, or those with their labels.
pub struct Theirs {
    identity: Identity,
    /// Guests that they have seen, those since removed, too.
    ids: Mutex<HashSet<String>>,
}

impl Theirs {
    /// What somebody may see now.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn of(host: &Host, identity: &Identity) -> Result<Self, Error> {
        let mut ids = HashSet::new();
        if identity.is_bound() {
            ids.extend(guests(host, identity).await?.iter().map(|vm| vm.id.to_string()));
        }
        Ok(Self { identity: identity.clone(), ids: Mutex::new(ids) })
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event or a task about `target` is theirs to see.
    pub fn has(&self, target: &str) -> bool {
        if !self.identity.is_bound() {
            return true;
        }
        let id = target.strip_prefix("/api/v1/vms/").map(|rest| rest.split('/').next().unwrap_or_default());
        id.is_some_and(|id| self.ids().contains(id))
    }

    /// What a change of a guest is to them: nothing, the guest, or that it is not theirs any more.
    pub fn change(&self, update: &Update) -> Seen {
        let id = update.key.trim_start_matches(records::PREFIX);
        let record = update.value.as_deref().and_then(|value| serde_json::from_slice::<Record>(value).ok());
        if !self.identity.is_bound() {
            return record.map_or(Seen::Gone, |record| Seen::Put(Box::new(record)));
        }
        match record.filter(|record| self.identity.sees(&record.vm)) {
            Some(record) => {
                self.ids().insert(id.to_owned());
                Seen::Put(Box::new(record))
            }
            None if self.ids().contains(id) => Seen::Gone,
            None => Seen::Nothing,
        }
    }
}

/// What somebody sees of a change.
pub enum Seen {
    /// A guest as it is now.
    Put(Box<Record>),
    /// A guest is gone.
    Gone,
    /// It does not concern them.
    Nothing,
}

/// Makes a definition that somebody wants theirs: it carries their labels, and nothing of the host's that nobody has given out. What `given`
/// has was given out: what the guest has been until now, or its template. Labels of a guest that is `new` are added.
///
/// # Errors
/// If it asks for what is not theirs to give.
pub fn claim(
    identity: &Identity,
    definition: &mut VmDefinition,
    given: Option<&VmDefinition>,
    new: bool,
) -> Result<(), Error> {
    if !identity.is_bound() {
        return Ok(());
    }
    let mut wrong = Vec::new();
    for (key, value) in &identity.labels {
        match definition.labels.get(key) {
            None if new => {
                definition.labels.insert(key.clone(), value.clone());
            }
            Some(found) if found == value => {}
            _ => {
                let detail =
                    format!("{} is bound to {key}={value}: the guest has to carry it", identity.actor);
                wrong.push(Invalid::new("/labels", key.as_str(), detail));
            }
        }
    }
    let kept = |disk: &Disk| given.is_some_and(|given| given.disks.contains(disk));
    for (n, disk) in definition.disks.iter().enumerate() {
        let open = matches!(disk.source, DiskSource::Image(_) | DiskSource::Size(_));
        if !open && !kept(disk) {
            let detail = "only images and new disks: files and volumes of the host are given out by who is bound to no labels";
            wrong.push(Invalid::new(format!("/disks/{n}"), (), detail));
        }
    }
    for (n, nic) in definition.nics.iter().enumerate() {
        let tap = matches!(nic.network, Network::Tap(_));
        if (tap || nic.allow_spoofing) && !given.is_some_and(|given| given.nics.contains(nic)) {
            let detail = "only networks of the host, without allow_spoofing: the rest is given out by who is bound to no labels";
            wrong.push(Invalid::new(format!("/nics/{n}"), (), detail));
        }
    }
    // Who has dedicated processors is promised as many as it has.
    let cpu = given.map_or_else(Default::default, |given| given.cpu_share.of(given.cpus));
    let memory = given.map_or_else(Default::default, |given| given.memory_share);
    let disks = given.map_or_else(Default::default, |given| given.disk_share);
    let networks = given.map_or_else(Default::default, |given| given.network_share);
    let group = given.and_then(|given| given.share_group.as_ref());
    for (field, is_other) in [
        ("cpu_share", definition.cpu_share.of(definition.cpus) != cpu),
        ("memory_share", definition.memory_share != memory),
        ("merge_memory", definition.merge_memory != given.is_some_and(|given| given.merge_memory)),
        ("disk_share", definition.disk_share != disks),
        ("network_share", definition.network_share != networks),
        ("share_group", definition.share_group.as_ref() != group),
    ] {
        if is_other {
            let detail = "what guests are promised of the host is given out by who is bound to no labels";
            wrong.push(Invalid::new(format!("/{field}"), (), detail));
        }
    }
    let boot = |definition: &VmDefinition| (definition.boot.kernel.clone(), definition.boot.initrd.clone());
    if boot(definition) != given.map_or((None, None), boot) {
        let detail = "files of the host are given out by who is bound to no labels";
        wrong.push(Invalid::new("/boot", (), detail));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let problem = Problem::invalid(wrong);
    Err(Error(Problem { status: 403, title: "Not allowed".into(), ..problem }))
}
