//! `/vms/{vm}/snapshots`.

use std::io;
use std::sync::Arc;

use api::{Id, List, NewSnapshot, Problem, Snapshot, SnapshotLabel, Task, Vm, merge};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::bytes::{archive, while_wanted};
use super::caller::{Operator, Viewer};
use super::error::Result;
use super::input::{Body, Query, if_match, read};
use super::tasks::{Wait, accepted, check};
use super::vms::{new_task, with_tag};
use crate::daemon::{Host, TaskProgress};
use crate::machine;
use crate::snapshots;
use crate::supervisor::storage_problem;
use crate::tasks::told;

/// The snapshots of a guest, the oldest first. Each names the one that it came after.
#[utoipa::path(get, path = "/vms/{vm}/snapshots", tag = "snapshots", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "The guest's name or id")), responses(
    (status = 200, description = "All of them", body = List<Snapshot>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(vm): Path<String>,
) -> Result<axum::Json<List<Snapshot>>> {
    let (vm, revision) = host.supervisor.find(&vm).await?;
    Ok(axum::Json(List { items: host.supervisor.snapshots(&vm).await?, next: None, revision }))
}

/// One snapshot.
#[utoipa::path(get, path = "/vms/{vm}/snapshots/{snapshot}", tag = "snapshots", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("snapshot" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "The snapshot", body = Snapshot, headers(("ETag" = String, description = "What it is a version of"))),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path((vm, snapshot)): Path<(String, String)>,
) -> Result<Response> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let (found, revision) = host.supervisor.snapshot(&vm, &snapshot).await?;
    Ok(with_tag(&found, revision))
}

/// Changes what is said of a snapshot, its name and its description: a JSON merge patch (RFC 7396) of these.
#[utoipa::path(patch, path = "/vms/{vm}/snapshots/{snapshot}", tag = "snapshots", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("snapshot" = String, Path, description = "Its name or id"),
        ("If-Match" = Option<String>, Header, description = "Only if it is still this version")),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "The snapshot as it is now", body = Snapshot, headers(("ETag" = String, description = "What it is a version of"))),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path((vm, snapshot)): Path<(String, String)>,
    headers: HeaderMap,
    Body(patch): Body<Value>,
) -> Result<Response> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let (found, revision) = host.supervisor.snapshot(&vm, &snapshot).await?;
    if if_match(&headers)?.is_some_and(|expect| expect != revision) {
        return Err(snapshots::stale().into());
    }
    let mut label = json!({ "name": found.name, "description": found.description });
    merge(&mut label, patch);
    let label: SnapshotLabel = read(&label)?;
    let wrong = label.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    let edited = Snapshot { name: label.name.clone(), description: label.description.clone(), ..found };
    // What was read must still be so: the patch was made into a whole.
    let revision = host.supervisor.label_snapshot(vm.id, edited.id, label, revision, &identity.actor).await?;
    Ok(with_tag(&edited, revision))
}

/// Makes a snapshot of a guest that runs, stands still or is stopped. The guest goes on meanwhile. The task's result is the snapshot.
#[utoipa::path(post, path = "/vms/{vm}/snapshots", tag = "snapshots", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id"), Wait), request_body = NewSnapshot, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path(vm): Path<String>,
    Query(wait): Query<Wait>,
    Body(new): Body<NewSnapshot>,
) -> Result<Response> {
    check(&wait)?;
    let wrong = new.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    let (vm, _) = host.supervisor.find(&vm).await?;
    let task = new_task("vm.snapshot", vm.id, vm.definition.name.as_str(), &identity);
    let doing = Arc::clone(&host);
    let work = move |work| async move {
        let progress = Arc::new(TaskProgress::new(work));
        let made = doing.supervisor.snap(vm.id, new, &identity.actor, progress).await?;
        told(made)
    };
    let task = host.tasks.begin(task, work).await?;
    accepted(&host, task, &wait).await
}

/// A snapshot as one file, to make a guest of it elsewhere (`POST /uploads/{upload}/restore`): a tar archive of the guest's definition and of each
/// disk as a qcow2 file of its own. The memory is not in it. It may take a while until the first byte comes.
#[utoipa::path(get, path = "/vms/{vm}/snapshots/{snapshot}/data", tag = "snapshots", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("snapshot" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "A tar archive", content_type = "application/x-tar"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn download(
    State(host): State<Arc<Host>>,
    _: Operator,
    Path((vm, snapshot)): Path<(String, String)>,
) -> Result<Response> {
    let (vm, id) = find(&host, &vm, &snapshot).await?;
    let (leaving, wanting) = while_wanted();
    let packed = host.supervisor.pack_snapshot(&vm, id, machine::host_name(), Arc::new(wanting)).await?;
    drop(leaving);
    let length = packed.length().map_err(storage_problem)?;
    let write = move |to: &mut dyn io::Write| packed.write(to, &storage::Silent);
    Ok(archive(&format!("{}-{snapshot}", vm.definition.name), length, write))
}

/// How a guest goes back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revert {
    /// Pull its plug first if it runs: what it is doing is lost.
    #[serde(default)]
    pub force: bool,
}

/// Has a guest go back to a snapshot: what has been written since the last one is lost. One whose memory was kept goes on from there if
/// it ran then. The task's result is the guest.
#[utoipa::path(post, path = "/vms/{vm}/snapshots/{snapshot}/revert", tag = "snapshots", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("snapshot" = String, Path, description = "Its name or id"), Wait), request_body = Revert, responses(
    (status = 202, description = "It is being done", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn revert(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path((vm, snapshot)): Path<(String, String)>,
    Query(wait): Query<Wait>,
    Body(how): Body<Revert>,
) -> Result<Response> {
    check(&wait)?;
    let (vm, id) = find(&host, &vm, &snapshot).await?;
    let task = new_task("vm.revert", vm.id, vm.definition.name.as_str(), &identity);
    let doing = Arc::clone(&host);
    let work = move |_| async move {
        doing.supervisor.revert(vm.id, &id.to_string(), how.force, &identity.actor).await?;
        let (vm, _) = doing.supervisor.find(&vm.id.to_string()).await?;
        told(vm)
    };
    let task = host.tasks.begin(task, work).await?;
    accepted(&host, task, &wait).await
}

/// Deletes a snapshot. The guest and its other snapshots stay what they are.
#[utoipa::path(delete, path = "/vms/{vm}/snapshots/{snapshot}", tag = "snapshots", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("snapshot" = String, Path, description = "Its name or id"), Wait), responses(
    (status = 202, description = "It is being done", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path((vm, snapshot)): Path<(String, String)>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let (vm, id) = find(&host, &vm, &snapshot).await?;
    let task = new_task("vm.snapshot-delete", vm.id, vm.definition.name.as_str(), &identity);
    let doing = Arc::clone(&host);
    let work = move |work| async move {
        let progress = Arc::new(TaskProgress::new(work));
        doing.supervisor.delete_snapshot(vm.id, &id.to_string(), &identity.actor, progress).await?;
        Ok::<Value, Problem>(json!({}))
    };
    let task = host.tasks.begin(task, work).await?;
    accepted(&host, task, &wait).await
}

/// The guest and its snapshot.
async fn find(host: &Host, vm: &str, snapshot: &str) -> std::result::Result<(Vm, Id), Problem> {
    let (vm, _) = host.supervisor.find(vm).await?;
    let (found, _) = host.supervisor.snapshot(&vm, snapshot).await?;
    Ok((vm, found.id))
}
