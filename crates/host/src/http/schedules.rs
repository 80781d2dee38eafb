//! `/vms/{vm}/schedules`.

use std::sync::Arc;

use api::{List, Problem, Schedule, ScheduleDefinition};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::caller::{Operator, Viewer};
use super::error::Result;
use super::input::{Body, patched};
use crate::daemon::Host;

/// The schedules of a guest, by name.
#[utoipa::path(get, path = "/vms/{vm}/schedules", tag = "schedules", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "The guest's name or id")), responses(
    (status = 200, description = "All of them", body = List<Schedule>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(vm): Path<String>,
) -> Result<axum::Json<List<Schedule>>> {
    let (vm, revision) = host.supervisor.find(&vm).await?;
    let items = host.schedules.of(vm.id).await?.into_iter().map(|stored| stored.told()).collect();
    Ok(axum::Json(List { items, next: None, revision }))
}

/// Has snapshots or backups of a guest made again and again, and those go that are old.
#[utoipa::path(post, path = "/vms/{vm}/schedules", tag = "schedules", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id")), request_body = ScheduleDefinition, responses(
    (status = 201, description = "It is at work", body = Schedule),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path(vm): Path<String>,
    Body(definition): Body<ScheduleDefinition>,
) -> Result<(StatusCode, axum::Json<Schedule>)> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    if let Some(pool) = &definition.pool {
        host.supervisor.pools().get(pool.as_str())?;
    }
    let made = host.schedules.create(&vm, definition, &identity.actor).await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

/// One schedule.
#[utoipa::path(get, path = "/vms/{vm}/schedules/{schedule}", tag = "schedules", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("schedule" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The schedule", body = Schedule),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path((vm, schedule)): Path<(String, String)>,
) -> Result<axum::Json<Schedule>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    Ok(axum::Json(host.schedules.get(vm.id, &schedule).await?.told()))
}

/// Changes a schedule: the request is a JSON merge patch (RFC 7396) of its definition. Its name stays.
#[utoipa::path(patch, path = "/vms/{vm}/schedules/{schedule}", tag = "schedules", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("schedule" = String, Path, description = "Its name")),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "The schedule as it is now", body = Schedule),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path((vm, schedule)): Path<(String, String)>,
    Body(body): Body<Value>,
) -> Result<axum::Json<Schedule>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let stored = host.schedules.get(vm.id, &schedule).await?;
    let definition = patched(&stored.definition, body)?;
    if definition.name != stored.definition.name {
        let wrong = api::Invalid::new("/name", definition.name.as_str(), "a schedule keeps its name");
        return Err(Problem::invalid(vec![wrong]).into());
    }
    // One whose pool is gone can still be switched off.
    if let Some(pool) = definition.pool.as_ref().filter(|pool| Some(*pool) != stored.definition.pool.as_ref())
    {
        host.supervisor.pools().get(pool.as_str())?;
    }
    Ok(axum::Json(host.schedules.edit(&vm, definition, &identity.actor).await?))
}

/// Has a schedule do nothing any more. What it has made stays.
#[utoipa::path(delete, path = "/vms/{vm}/schedules/{schedule}", tag = "schedules", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "The guest's name or id"), ("schedule" = String, Path, description = "Its name")), responses(
    (status = 204, description = "It is gone"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path((vm, schedule)): Path<(String, String)>,
) -> Result<StatusCode> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    host.schedules.delete(&vm, &schedule, &identity.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
