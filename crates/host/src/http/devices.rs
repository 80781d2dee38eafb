//! `/vms/{vm}/disks` and `/vms/{vm}/nics`: devices of a guest one by one. Each is a change of its definition.

use std::sync::Arc;

use api::{Disk, Nic, Problem, Size, Task, VmDefinition, merge};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::caller::Admin;
use super::error::Result;
use super::input::{Body, Query, read};
use super::tasks::{Wait, accepted, check};
use super::vms::{EditQuery, new_task, reshape};
use crate::access::Identity;
use crate::daemon::Host;

/// Changes a guest's definition by `edit`.
async fn with(
    host: Arc<Host>,
    identity: Identity,
    vm: &str,
    query: EditQuery,
    headers: &HeaderMap,
    edit: impl FnOnce(&mut VmDefinition) -> Result<()>,
) -> Result<Response> {
    let edit = |definition: &VmDefinition| {
        let mut after = definition.clone();
        edit(&mut after)?;
        Ok(after)
    };
    reshape(host, identity, vm, query, headers, edit).await
}

fn no_device(what: &str, name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("the guest has no {what} {shown}"))
}

fn find_disk(definition: &VmDefinition, name: &str) -> Result<usize> {
    let fits = |(place, disk): &(usize, &Disk)| {
        let number = disk.number(*place);
        number.to_string() == name || disk.serial_at(number) == name
    };
    let found = definition.disks.iter().enumerate().find(fits);
    found.map(|(place, _)| place).ok_or_else(|| no_device("disk", name).into())
}

fn find_card(definition: &VmDefinition, name: &str) -> Result<usize> {
    let fits = |nic: &Nic| nic.mac.as_deref().is_some_and(|mac| mac.eq_ignore_ascii_case(name));
    definition.nics.iter().position(fits).ok_or_else(|| no_device("network card", name).into())
}

/// What a device is after a JSON merge patch (RFC 7396).
fn patched<T: serde::Serialize + serde::de::DeserializeOwned>(device: &T, patch: Value) -> Result<T> {
    let mut whole = serde_json::to_value(device).map_err(|error| Problem::internal(error.to_string()))?;
    // A device that has another source has not the old one, too.
    if let (Value::Object(whole), Value::Object(patch)) = (&mut whole, &patch)
        && SOURCES.iter().any(|source| patch.contains_key(*source))
    {
        whole.retain(|field, _| !SOURCES.contains(&field.as_str()) && field != "format");
    }
    merge(&mut whole, patch);
    read(&whole)
}

/// The fields of which a disk has one.
const SOURCES: [&str; 4] = ["image", "size", "volume", "file"];

/// Gives a guest one more disk, at once if it runs.
#[utoipa::path(post, path = "/vms/{vm}/disks", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "The guest's name or id"),
        ("If-Match" = Option<String>, Header, description = "Only if the guest is still this version"), EditQuery), request_body = Disk, responses(
    (status = 202, description = "It is being added", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn add_disk(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(vm): Path<String>,
    Query(query): Query<EditQuery>,
    headers: HeaderMap,
    Body(disk): Body<Value>,
) -> Result<Response> {
    let disk: Disk = read(&disk)?;
    with(host, identity, &vm, query, &headers, |definition| {
        definition.disks.push(disk);
        Ok(())
    })
    .await
}

/// Changes a disk of a guest: a JSON merge patch (RFC 7396). One that runs lets go of it and takes it again: so another disc comes into a
/// drive.
#[utoipa::path(patch, path = "/vms/{vm}/disks/{disk}", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("disk" = String, Path, description = "The disk's number or serial number"),
        ("If-Match" = Option<String>, Header, description = "Only if the guest is still this version"), EditQuery),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 202, description = "It is being changed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit_disk(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((vm, disk)): Path<(String, String)>,
    Query(query): Query<EditQuery>,
    headers: HeaderMap,
    Body(patch): Body<Value>,
) -> Result<Response> {
    with(host, identity, &vm, query, &headers, |definition| {
        let place = find_disk(definition, &disk)?;
        definition.disks[place] = patched(&definition.disks[place], patch)?;
        Ok(())
    })
    .await
}

/// How long a disk is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Grow {
    /// At least as long as it is, in whole sectors of 512 bytes.
    pub size: Size,
}

/// Makes a disk of a guest longer, its own or a volume. One that runs is told: Linux sees it at once, and file systems are made larger with
/// its own tools.
#[utoipa::path(post, path = "/vms/{vm}/disks/{disk}/grow", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("disk" = String, Path, description = "The disk's number or serial number"), Wait),
    request_body = Grow, responses(
    (status = 202, description = "It is being made longer", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn grow_disk(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((vm, disk)): Path<(String, String)>,
    Query(wait): Query<Wait>,
    Body(wanted): Body<Grow>,
) -> Result<Response> {
    check(&wait)?;
    let (vm, _) = host.supervisor.find(&vm).await?;
    let place = find_disk(&vm.definition, &disk)?;
    let number = vm.definition.disks[place].number(place);
    let new = new_task("vm.grow-disk", vm.id, vm.definition.name.as_str(), &identity);
    let doing = Arc::clone(&host);
    let work = move |_| async move {
        doing.supervisor.grow(vm.id, number, wanted.size, &identity.actor).await?;
        Ok(Value::Null)
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

/// Takes a disk away from a guest, at once if it runs and lets go of it. One of its own is removed for good.
#[utoipa::path(delete, path = "/vms/{vm}/disks/{disk}", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("disk" = String, Path, description = "The disk's number or serial number"),
        ("If-Match" = Option<String>, Header, description = "Only if the guest is still this version"), EditQuery), responses(
    (status = 202, description = "It is being taken away", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn remove_disk(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((vm, disk)): Path<(String, String)>,
    Query(query): Query<EditQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    with(host, identity, &vm, query, &headers, |definition| {
        let place = find_disk(definition, &disk)?;
        definition.disks.remove(place);
        Ok(())
    })
    .await
}

/// Gives a guest one more network card, at once if it runs.
#[utoipa::path(post, path = "/vms/{vm}/nics", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "The guest's name or id"),
        ("If-Match" = Option<String>, Header, description = "Only if the guest is still this version"), EditQuery), request_body = Nic, responses(
    (status = 202, description = "It is being added", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn add_nic(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(vm): Path<String>,
    Query(query): Query<EditQuery>,
    headers: HeaderMap,
    Body(nic): Body<Value>,
) -> Result<Response> {
    let nic: Nic = read(&nic)?;
    with(host, identity, &vm, query, &headers, |definition| {
        definition.nics.push(nic);
        Ok(())
    })
    .await
}

/// Changes a network card of a guest: a JSON merge patch (RFC 7396). Limits are changed at once; one that runs lets go of a card whose
/// network changes, and takes it again.
#[utoipa::path(patch, path = "/vms/{vm}/nics/{nic}", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("nic" = String, Path, description = "The card's hardware address"),
        ("If-Match" = Option<String>, Header, description = "Only if the guest is still this version"), EditQuery),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 202, description = "It is being changed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit_nic(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((vm, nic)): Path<(String, String)>,
    Query(query): Query<EditQuery>,
    headers: HeaderMap,
    Body(patch): Body<Value>,
) -> Result<Response> {
    with(host, identity, &vm, query, &headers, |definition| {
        let place = find_card(definition, &nic)?;
        definition.nics[place] = patched(&definition.nics[place], patch)?;
        Ok(())
    })
    .await
}

/// Takes a network card away from a guest, at once if it runs and lets go of it.
#[utoipa::path(delete, path = "/vms/{vm}/nics/{nic}", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("nic" = String, Path, description = "The card's hardware address"),
        ("If-Match" = Option<String>, Header, description = "Only if the guest is still this version"), EditQuery), responses(
    (status = 202, description = "It is being taken away", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn remove_nic(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((vm, nic)): Path<(String, String)>,
    Query(query): Query<EditQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    with(host, identity, &vm, query, &headers, |definition| {
        let place = find_card(definition, &nic)?;
        definition.nics.remove(place);
        Ok(())
    })
    .await
}
