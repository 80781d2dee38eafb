//! `/tasks`.

use std::sync::Arc;

use api::{Id, List, ListQuery, Problem, Task};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::caller::{Operator, Viewer};
use super::error::{Error, Result};
use super::input::{Query, duration};
use super::scope::Theirs;
use super::{LONGEST_WAIT, lists};
use crate::daemon::Host;

/// Whether to wait for a task.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wait {
    /// Wait so long at most until the task has ended: `30s`. The answer is 202 if it has not.
    pub wait: Option<String>,
}

/// The answer that a task is: 202, or, if the caller waits and it ends meanwhile, 200.
///
/// # Errors
/// If `wait` is no duration, or the store cannot be read.
pub async fn accepted(host: &Host, task: Task, wait: &Wait) -> Result<Response> {
    let id = task.id;
    let task = match &wait.wait {
        Some(text) => {
            let patience = duration("wait", text, LONGEST_WAIT)?;
            host.tasks.wait(id, patience).await?.unwrap_or(task)
        }
        None => task,
    };
    let status = if task.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, axum::Json(task)).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/tasks/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Checks a `wait` before anything is begun.
///
/// # Errors
/// If it is no duration.
pub fn check(wait: &Wait) -> Result<()> {
    wait.wait.as_deref().map_or(Ok(()), |text| duration("wait", text, LONGEST_WAIT).map(drop))
}

/// All tasks, the newest first.
#[utoipa::path(get, path = "/tasks", tag = "tasks", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of tasks", body = List<Task>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let theirs = Theirs::of(&host, &identity).await?;
    let (mut tasks, revision) = host.tasks.list().await?;
    tasks.retain(|task| theirs.has(&task.target));
    tasks.reverse();
    Ok(axum::Json(lists::page(tasks, &query, revision)?))
}

fn missing() -> Error {
    Error(Problem::not_found("there is no such task"))
}

/// One task; with `wait` when it has ended.
#[utoipa::path(get, path = "/tasks/{task}", tag = "tasks", security(("token" = ["viewer"])),
    params(("task" = String, Path, description = "Its id"), Wait), responses(
    (status = 200, description = "The task", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(task): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<axum::Json<Task>> {
    let id: Id = task.parse().map_err(|_| missing())?;
    let task = match &wait.wait {
        Some(text) => host.tasks.wait(id, duration("wait", text, LONGEST_WAIT)?).await?,
        None => host.tasks.get(id).await?,
    };
    task.map(axum::Json).ok_or_else(missing)
}

/// Calls a task off. It ends when it can; what it had begun is undone.
#[utoipa::path(delete, path = "/tasks/{task}", tag = "tasks", security(("token" = ["operator"])),
    params(("task" = String, Path, description = "Its id")), responses(
    (status = 202, description = "It will end", body = Task),
    (status = 409, description = "It has ended", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn cancel(
    State(host): State<Arc<Host>>,
    _: Operator,
    Path(task): Path<String>,
) -> Result<Response> {
    let id: Id = task.parse().map_err(|_| missing())?;
    let task = host.tasks.get(id).await?.ok_or_else(missing)?;
    if !host.tasks.cancel(id) {
        return Err(Error(Problem::conflict(
            format!("the task has ended: it is {:?}", task.state).to_lowercase(),
        )));
    }
    Ok((StatusCode::ACCEPTED, axum::Json(task)).into_response())
}
