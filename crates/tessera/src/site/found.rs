//! What a host has, in the form in which files say it.

use std::collections::{BTreeMap, BTreeSet};

use api::{Account, ImageInfo, SITE_LABEL, ShareGroupInfo, Site, SiteKind, Template, Vm, VmState};
use host::pools::PoolInfo;
use host::wires::NetworkInfo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use storage::{Volume, VolumeSource};

use super::{Key, schedules};
use crate::client::{Client, everything};
use crate::failure::{Failure, Result, Status};

/// Something that is there.
#[derive(Debug, Clone)]
pub struct Found {
    /// What tells it from another one of its name.
    pub identity: String,
    /// What it is. A guest has the fields `state` and `schedules` more.
    pub definition: Value,
    /// The state of a guest.
    pub state: Option<VmState>,
}

/// What a host has.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The host's name.
    pub name: String,
    /// What is there.
    pub things: BTreeMap<Key, Found>,
    /// The images that guests can be made of.
    pub images: BTreeSet<String>,
    /// What is remembered of the site, if anything is, and the tag of that.
    pub site: Option<(Site, String)>,
    /// Whether users may not be looked at by whoever asks.
    pub without_users: bool,
}

/// The word for a guest's state in a file: whether it runs.
pub fn power(state: VmState) -> &'static str {
    if state.is_alive() { "running" } else { "stopped" }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Failure::internal(format!("the host's answer: {error}")))
}

/// A definition in JSON.
///
/// # Errors
/// Never: it is plain data.
pub fn plain(definition: &impl Serialize) -> Result<Value> {
    serde_json::to_value(definition).map_err(|error| Failure::internal(error.to_string()))
}

async fn list<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Vec<T>> {
    everything(client, path, &[]).await?.into_iter().map(read).collect()
}

/// A volume as a file would say it: where it was copied from nobody knows.
fn volume(volume: &Volume, pool: &str) -> Value {
    let mut definition = json!({
        "name": volume.name, "pool": pool, "format": volume.format, "size": volume.size, "linked": volume.based_on.is_some(),
    });
    if !volume.description.is_empty() {
        definition["description"] = json!(volume.description);
    }
    if let Some(source) = &volume.based_on {
        definition["source"] = json!(source);
    }
    definition
}

/// A user as a file would say it.
pub fn user(name: &api::Name, role: api::Role, labels: &api::Bound, disabled: bool) -> Value {
    json!({ "name": name, "role": role, "labels": labels, "disabled": disabled })
}

impl Host {
    /// Looks at a host, and at what it remembers of a site.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses.
    pub async fn look(client: &Client, site: Option<&str>) -> Result<Host> {
        let info: api::HostInfo = client.get("/host", &[]).await?;
        let mut host = Host { name: info.name, ..Host::default() };
        for pool in list::<PoolInfo>(client, "/pools").await? {
            host.pool(client, pool).await?;
        }
        for network in list::<NetworkInfo>(client, "/networks").await? {
            let key = Key::new(SiteKind::Network, network.definition.name.clone());
            host.add(key, network.id.to_string(), plain(&network.definition)?);
        }
        for group in list::<ShareGroupInfo>(client, "/share-groups").await? {
            let name = group.definition.name.to_string();
            host.add(Key::new(SiteKind::ShareGroup, &*name), name, plain(&group.definition)?);
        }
        for template in list::<Template>(client, "/templates").await? {
            let key = Key::new(SiteKind::Template, template.template.name.as_str());
            host.add(key, template.created.to_string(), plain(&template.template)?);
        }
        for vm in list::<Vm>(client, "/vms").await? {
            let mut definition = plain(&vm.definition)?;
            definition["state"] = power(vm.status.state).into();
            definition[schedules::FIELD] = schedules::look(client, vm.id).await?;
            let key = Key::new(SiteKind::Vm, vm.definition.name.as_str());
            let found = Found { identity: vm.id.to_string(), definition, state: Some(vm.status.state) };
            host.things.insert(key, found);
        }
        match list::<Account>(client, "/users").await {
            Ok(users) => {
                for account in users {
                    let key = Key::new(SiteKind::User, account.name.as_str());
                    let definition = user(&account.name, account.role, &account.labels, account.disabled);
                    host.add(key, account.id.to_string(), definition);
                }
            }
            Err(failure) if failure.status == Status::NotAllowed => host.without_users = true,
            Err(failure) => return Err(failure),
        }
        let images = list::<ImageInfo>(client, "/images").await?;
        host.images = images.into_iter().map(|image| image.name.to_string()).collect();
        if let Some(site) = site {
            host.site = remembered(client, site).await?;
        }
        Ok(host)
    }

    /// A pool and its volumes, but for those that are guests' own disks.
    async fn pool(&mut self, client: &Client, pool: PoolInfo) -> Result<()> {
        let name = pool.definition.name.to_string();
        if pool.status.is_some() {
            for found in list::<Volume>(client, &format!("/pools/{name}/volumes")).await? {
                if host::pools::owner(&found.name).is_none() {
                    let key = Key::new(SiteKind::Volume, format!("{name}/{}", found.name));
                    self.add(key, found.id.to_string(), volume(&found, &name));
                }
            }
        }
        let identity = pool.definition.path.to_string_lossy().into_owned();
        self.add(Key::new(SiteKind::Pool, name), identity, plain(&pool.definition)?);
        Ok(())
    }

    fn add(&mut self, key: Key, identity: String, definition: Value) {
        self.things.insert(key, Found { identity, definition, state: None });
    }

    /// What is there of this kind and name.
    pub fn get(&self, kind: SiteKind, name: &str) -> Option<&Found> {
        self.things.get(&Key::new(kind, name))
    }

    /// Whether something is what the site has made: it is remembered, and a guest still carries the site's label.
    pub fn is_member(&self, key: &Key) -> bool {
        let (Some((site, _)), Some(found)) = (&self.site, self.things.get(key)) else { return false };
        let labelled =
            key.kind != SiteKind::Vm || found.definition["labels"][SITE_LABEL] == site.name.as_str();
        let same = |member: &api::SiteMember| {
            (member.kind, &member.name, &member.identity) == (key.kind, &key.name, &found.identity)
        };
        labelled && site.memory.members.iter().any(same)
    }
}

/// What a host remembers of a site, and the tag of that.
async fn remembered(client: &Client, site: &str) -> Result<Option<(Site, String)>> {
    match client.tagged(reqwest::Method::GET, &format!("/sites/{site}"), None, None).await {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.status == Status::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The volume that another one is based on or begins with, of the same pool; the group that another one is in.
pub fn source_of(key: &Key, definition: &Value) -> Option<Key> {
    if key.kind == SiteKind::ShareGroup {
        return Some(Key::new(SiteKind::ShareGroup, definition.get("within")?.as_str()?));
    }
    let source: VolumeSource = serde_json::from_value(definition.get("source")?.clone()).ok()?;
    let (VolumeSource::Volume(name), Some((pool, _))) = (source, key.name.split_once('/')) else {
        return None;
    };
    Some(Key::new(SiteKind::Volume, format!("{pool}/{name}")))
}
