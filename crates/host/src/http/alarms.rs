//! `/alarms`.

use std::sync::Arc;

use api::{
    Acknowledge, Alarm, AlarmDefinition, AlarmScope, Invalid, List, ListQuery, NewTask, Problem, Task,
};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::caller::{Admin, Operator, Viewer};
use super::error::Result;
use super::input::{Body, Query, if_match, patched};
use super::lists;
use super::tasks::{Wait, accepted, check};
use crate::alarms::path;
use crate::daemon::Host;
use crate::tasks::told;

/// Checks a definition, and names the guest that it watches by its id. What it watched `before` may be gone: that keeps nobody from
/// changing the rest.
async fn settle(host: &Host, definition: &mut AlarmDefinition, before: Option<&AlarmScope>) -> Result<()> {
    let mut wrong = definition.check();
    if !wrong.is_empty() || before == Some(&definition.scope) {
        return if wrong.is_empty() { Ok(()) } else { Err(Problem::invalid(wrong).into()) };
    }
    if let Some(vm) = &definition.scope.vm {
        match host.supervisor.find(vm).await {
            Ok((vm, _)) => definition.scope.vm = Some(vm.id.to_string()),
            Err(problem) => wrong.push(Invalid::new("/scope/vm", vm.as_str(), problem.detail)),
        }
    }
    if let Some(pool) = &definition.scope.pool
        && let Err(problem) = host.supervisor.pools().info(pool.as_str())
    {
        wrong.push(Invalid::new("/scope/pool", pool.as_str(), problem.detail));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Problem::invalid(wrong).into()) }
}

/// All alarms, by name, and where they stand.
#[utoipa::path(get, path = "/alarms", tag = "alarms", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of alarms", body = List<Alarm>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let alarms = host.alarms.list(&identity).await;
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(alarms, &query, revision)?))
}

/// Makes an alarm. It watches from now on.
#[utoipa::path(post, path = "/alarms", tag = "alarms", security(("token" = ["admin"])), request_body = AlarmDefinition, responses(
    (status = 201, description = "The alarm", body = Alarm),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Body(mut definition): Body<AlarmDefinition>,
) -> Result<(StatusCode, axum::Json<Alarm>)> {
    settle(&host, &mut definition, None).await?;
    Ok((StatusCode::CREATED, axum::Json(host.alarms.create(definition, &identity).await?)))
}

/// One alarm.
#[utoipa::path(get, path = "/alarms/{alarm}", tag = "alarms", security(("token" = ["viewer"])),
    params(("alarm" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The alarm", body = Alarm, headers(("ETag" = String, description = "What its definition is a version of"))),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    Path(alarm): Path<String>,
) -> Result<Response> {
    let (alarm, revision) = host.alarms.get(&alarm, &identity).await?;
    let mut response = axum::Json(alarm).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Changes an alarm: a JSON merge patch (RFC 7396) of its definition. Its name stays. What is raised is when it is switched off no more.
#[utoipa::path(patch, path = "/alarms/{alarm}", tag = "alarms", security(("token" = ["admin"])),
    params(("alarm" = String, Path, description = "Its name"),
        ("If-Match" = Option<String>, Header, description = "Only if its definition is still this version")),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "The alarm", body = Alarm),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(alarm): Path<String>,
    headers: HeaderMap,
    Body(patch): Body<Value>,
) -> Result<axum::Json<Alarm>> {
    let (alarm, revision) = host.alarms.get(&alarm, &identity).await?;
    if if_match(&headers)?.is_some_and(|expect| expect != revision) {
        let detail = "the alarm has changed since it was read: read it again";
        return Err(Problem::new(412, "It has changed", detail).into());
    }
    let mut definition = patched(&alarm.definition, patch)?;
    if definition.name != alarm.definition.name {
        let detail = "an alarm keeps its name: make another one";
        return Err(Problem::invalid(vec![Invalid::new("/name", definition.name.as_str(), detail)]).into());
    }
    settle(&host, &mut definition, Some(&alarm.definition.scope)).await?;
    Ok(axum::Json(host.alarms.edit(definition, revision, &identity).await?))
}

/// Removes an alarm; those that every host has can only be switched off.
#[utoipa::path(delete, path = "/alarms/{alarm}", tag = "alarms", security(("token" = ["admin"])),
    params(("alarm" = String, Path, description = "Its name")), responses(
    (status = 204, description = "It is there no more"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(alarm): Path<String>,
) -> Result<StatusCode> {
    host.alarms.delete(&alarm, &identity).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says that one knows that an alarm is raised. It stays raised until what is bad is good again, and is not counted among those that
/// somebody has to look at.
#[utoipa::path(post, path = "/alarms/{alarm}/acknowledge", tag = "alarms", security(("token" = ["operator"])),
    params(("alarm" = String, Path, description = "Its name")), request_body = Acknowledge, responses(
    (status = 200, description = "The alarm", body = Alarm),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn acknowledge(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path(alarm): Path<String>,
    Body(what): Body<Acknowledge>,
) -> Result<axum::Json<Alarm>> {
    Ok(axum::Json(host.alarms.acknowledge(&alarm, what.target.as_deref(), &identity).await?))
}

/// Does what an alarm does when it is raised, once, and says that it is a test. The task's result tells what came of each action; it fails
/// if one did.
#[utoipa::path(post, path = "/alarms/{alarm}/test", tag = "alarms", security(("token" = ["admin"])),
    params(("alarm" = String, Path, description = "Its name"), Wait), responses(
    (status = 202, description = "It is being tried", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn test(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(alarm): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let (alarm, _) = host.alarms.get(&alarm, &identity).await?;
    let name = alarm.definition.name;
    if alarm.definition.actions.is_empty() {
        return Err(Problem::conflict(format!("the alarm {name} does nothing: give it actions first")).into());
    }
    let new = NewTask {
        action: "alarm.test",
        target: path(&name),
        name: name.to_string(),
        actor: identity.actor.clone(),
    };
    let doing = Arc::clone(&host);
    let work = move |_| async move {
        let results = doing.alarms.test(name.as_str(), &identity).await?;
        told(results)
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}
