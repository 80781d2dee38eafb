//! `/vms/{vm}/snapshots`.

use std::sync::Arc;

use api::{Id, List, NewSnapshot, Problem, Snapshot, Task, Vm};
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::caller::{Operator, Viewer};
use super::error::Result;
use super::input::{Body, Query};
use super::tasks::{Wait, accepted, check};
use super::vms::new_task;
use crate::daemon::{Host, TaskProgress};
use crate::snapshots;
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
    (status = 200, description = "The snapshot", body = Snapshot),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path((vm, snapshot)): Path<(String, String)>,
) -> Result<axum::Json<Snapshot>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let mut all = host.supervisor.snapshots(&vm).await?.into_iter();
    let found = all.find(|one| one.name.as_str() == snapshot || one.id.to_string() == snapshot);
    Ok(axum::Json(found.ok_or_else(|| snapshots::none(&snapshot))?))
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
    let mut all = host.supervisor.snapshots(&vm).await?.into_iter();
    let found = all.find(|one| one.name.as_str() == snapshot || one.id.to_string() == snapshot);
    Ok((vm, found.ok_or_else(|| snapshots::none(snapshot))?.id))
}
