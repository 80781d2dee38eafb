//! `/backups`, and `/vms/{vm}/backups`.

use std::sync::Arc;

use api::{
    Backup, Id, List, ListQuery, NewBackup, NewTask, Problem, RestoreBackup, Task, VerifiedBackup, Vm,
};
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::caller::{Admin, Operator, Viewer};
use super::error::Result;
use super::input::{Body, Query};
use super::lists;
use super::tasks::{Wait, accepted, check};
use super::vms::{begun, new_task};
use crate::access::Identity;
use crate::daemon::{Host, TaskProgress};
use crate::machine;
use crate::supervisor::backup_path;
use crate::tasks::told;

fn task_of(action: &'static str, backup: &Backup, identity: &Identity) -> NewTask {
    let (target, name) = (backup_path(backup.id), backup.name.to_string());
    NewTask { action, target, name, actor: identity.actor.clone() }
}

async fn page(host: &Host, query: &ListQuery, of: Option<Id>) -> Result<axum::Json<List<Value>>> {
    let mut all = host.supervisor.backups().await?;
    all.retain(|backup| of.is_none() || backup.vm == of);
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(all, query, revision)?))
}

/// The backups in all pools of the host, the oldest first.
#[utoipa::path(get, path = "/backups", tag = "backups", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of backups", body = List<Backup>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    page(&host, &query, None).await
}

/// The backups of a guest, the oldest first.
#[utoipa::path(get, path = "/vms/{vm}/backups", tag = "backups", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ListQuery), responses(
    (status = 200, description = "A page of backups", body = List<Backup>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn of_guest(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(vm): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    page(&host, &query, Some(vm.id)).await
}

/// Makes a backup of a guest that runs, stands still or is stopped, into a pool. The guest goes on meanwhile. It has what differs from the last
/// one in that pool, or all. The task's result is the backup.
#[utoipa::path(post, path = "/vms/{vm}/backups", tag = "backups", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id"), Wait), request_body = NewBackup, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path(vm): Path<String>,
    Query(wait): Query<Wait>,
    Body(new): Body<NewBackup>,
) -> Result<Response> {
    check(&wait)?;
    let wrong = new.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    let (vm, _): (Vm, _) = host.supervisor.find(&vm).await?;
    host.supervisor.pools().get(new.pool.as_str())?;
    let task = new_task("vm.backup", vm.id, vm.definition.name.as_str(), &identity);
    let doing = Arc::clone(&host);
    let work = move |work| async move {
        let progress = Arc::new(TaskProgress::new(work));
        let made = doing.supervisor.back_up(vm.id, new, machine::host_name(), &identity.actor, progress);
        told(made.await?)
    };
    let task = host.tasks.begin(task, work).await?;
    accepted(&host, task, &wait).await
}

/// One backup.
#[utoipa::path(get, path = "/backups/{backup}", tag = "backups", security(("token" = ["viewer"])),
    params(("backup" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "The backup", body = Backup),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(backup): Path<String>,
) -> Result<axum::Json<Backup>> {
    Ok(axum::Json(host.supervisor.backup(&backup).await?))
}

/// Looks at all of a backup and of those that it needs, whether it is what was written. The task fails with what is wrong; its result is what
/// was looked at.
#[utoipa::path(post, path = "/backups/{backup}/verify", tag = "backups", security(("token" = ["operator"])),
    params(("backup" = String, Path, description = "Its name or id"), Wait), responses(
    (status = 202, description = "It is being done", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn verify(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path(backup): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let backup = host.supervisor.backup(&backup).await?;
    let task = task_of("backup.verify", &backup, &identity);
    let doing = Arc::clone(&host);
    let work = move |work| async move {
        let progress = Arc::new(TaskProgress::new(work));
        let verified: VerifiedBackup = doing.supervisor.verify_backup(&backup, progress).await?;
        told(verified)
    };
    let task = host.tasks.begin(task, work).await?;
    accepted(&host, task, &wait).await
}

/// Makes a guest of a backup, with what was on the disks then. All of the backup is looked at before. The task's result is the guest.
#[utoipa::path(post, path = "/backups/{backup}/restore", tag = "backups", security(("token" = ["admin"])),
    params(("backup" = String, Path, description = "Its name or id"), Wait), request_body = RestoreBackup, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn restore(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(backup): Path<String>,
    Query(wait): Query<Wait>,
    Body(wanted): Body<RestoreBackup>,
) -> Result<Response> {
    check(&wait)?;
    let backup = host.supervisor.backup(&backup).await?;
    let id = Id::new();
    let task = new_task("vm.restore", id, wanted.name.as_str(), &identity);
    let doing = Arc::clone(&host);
    let work = move |work: crate::tasks::Work| async move {
        let progress = Arc::new(TaskProgress::new(work.clone()));
        let (supervisor, actor) = (&doing.supervisor, &identity.actor);
        let vm = supervisor.restore(&backup, &wanted, id, actor, progress).await?;
        told(if wanted.start { begun(&doing, id, actor, &work).await? } else { vm })
    };
    let task = host.tasks.begin(task, work).await?;
    accepted(&host, task, &wait).await
}

/// Removes a backup of which no other one has only what differs.
#[utoipa::path(delete, path = "/backups/{backup}", tag = "backups", security(("token" = ["admin"])),
    params(("backup" = String, Path, description = "Its name or id"), Wait), responses(
    (status = 202, description = "It is being removed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(backup): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let backup = host.supervisor.backup(&backup).await?;
    let task = task_of("backup.delete", &backup, &identity);
    let doing = Arc::clone(&host);
    let work = move |_| async move {
        doing.supervisor.delete_backup(&backup, &identity.actor).await?;
        Ok::<Value, Problem>(json!({}))
    };
    let task = host.tasks.begin(task, work).await?;
    accepted(&host, task, &wait).await
}
