//! `/networks`.

use std::sync::Arc;

use api::{Id, List, ListQuery, NewTask, Problem, Task};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use network::Lease;
use network::definition::{self, Network};
use serde_json::Value;

use super::caller::{Admin, Viewer};
use super::error::Result;
use super::input::{Body, Query, if_match, merged};
use super::lists;
use super::tasks::{Wait, accepted, check};
use crate::access::Identity;
use crate::daemon::Host;
use crate::tasks::told;
use crate::wires::{NetworkInfo, network_path};

/// Reads a definition; what is wrong is named.
fn read(value: &Value) -> Result<Network> {
    let wrong = |fault: definition::Fault| {
        let detail = format!("{}; {}", fault.detail, fault.expected);
        Problem::invalid(vec![api::Invalid::new(fault.pointer, fault.value, detail)])
    };
    Ok(definition::read(value).map_err(wrong)?)
}

fn new_task(action: &'static str, id: Id, name: &str, identity: &Identity) -> NewTask {
    NewTask { action, target: network_path(id), name: name.into(), actor: identity.actor.clone() }
}

/// A network as the result of a task.
async fn result(host: &Host, id: Id) -> std::result::Result<Value, Problem> {
    let (network, _) = host.supervisor.wires().get(&id.to_string()).await?;
    told(network)
}

/// All networks of this host, the oldest first.
#[utoipa::path(get, path = "/networks", tag = "networks", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of networks", body = List<NetworkInfo>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let networks = host.supervisor.wires().list().await;
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(networks, &query, revision)?))
}

/// Makes a network. One of kind `nat` or `routed` that names no addresses gets a subnet that nobody has. The task's result is the
/// network.
#[utoipa::path(post, path = "/networks", tag = "networks", security(("token" = ["admin"])), params(Wait), request_body = Network, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Query(wait): Query<Wait>,
    Body(body): Body<Value>,
) -> Result<Response> {
    check(&wait)?;
    let definition = read(&body)?;
    host.supervisor.wires().check(&mut definition.clone(), None).await?;
    let id = Id::new();
    let new = new_task("network.create", id, &definition.name, &identity);
    let doing = Arc::clone(&host);
    let work = move |_| async move {
        doing.supervisor.wires().create(id, definition, &identity.actor).await?;
        result(&doing, id).await
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

/// One network.
#[utoipa::path(get, path = "/networks/{network}", tag = "networks", security(("token" = ["viewer"])),
    params(("network" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "The network", body = NetworkInfo, headers(("ETag" = String, description = "What it is a version of"))),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(host): State<Arc<Host>>, _: Viewer, Path(network): Path<String>) -> Result<Response> {
    let (network, revision) = host.supervisor.wires().get(&network).await?;
    let mut response = axum::Json(network).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Changes a network, at once for the guests on it: a JSON merge patch (RFC 7396) of its definition. Its name stays.
#[utoipa::path(patch, path = "/networks/{network}", tag = "networks", security(("token" = ["admin"])),
    params(("network" = String, Path, description = "Its name or id"),
        ("If-Match" = Option<String>, Header, description = "Only if it is still this version"), Wait),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 202, description = "It is being changed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(network): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Body(patch): Body<Value>,
) -> Result<Response> {
    check(&wait)?;
    let (network, revision) = host.supervisor.wires().get(&network).await?;
    if if_match(&headers)?.is_some_and(|expect| expect != revision) {
        let detail = "the network has changed since it was read: read it again";
        return Err(Problem::new(412, "It has changed", detail).into());
    }
    let definition = read(&merged(&network.definition, patch)?)?;
    if definition.name != network.definition.name {
        let detail = "a network keeps its name: guests are on it by that";
        return Err(Problem::invalid(vec![api::Invalid::new("/name", definition.name, detail)]).into());
    }
    host.supervisor.wires().check(&mut definition.clone(), Some(network.id)).await?;
    let new = new_task("network.edit", network.id, &definition.name, &identity);
    let doing = Arc::clone(&host);
    let work = move |_| async move {
        doing.supervisor.wires().edit(network.id, definition, revision, &identity.actor).await?;
        result(&doing, network.id).await
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

/// Removes a network that no guest uses.
#[utoipa::path(delete, path = "/networks/{network}", tag = "networks", security(("token" = ["admin"])),
    params(("network" = String, Path, description = "Its name or id"), Wait), responses(
    (status = 202, description = "It is being removed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(network): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let (network, _) = host.supervisor.wires().get(&network).await?;
    let new = new_task("network.delete", network.id, &network.definition.name, &identity);
    let doing = Arc::clone(&host);
    let work = move |_| async move {
        doing.supervisor.wires().delete(network.id, &identity.actor).await?;
        Ok(Value::Null)
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

/// The addresses that guests have taken on a network.
#[utoipa::path(get, path = "/networks/{network}/leases", tag = "networks", security(("token" = ["viewer"])),
    params(("network" = String, Path, description = "Its name or id"), ListQuery), responses(
    (status = 200, description = "A page of leases", body = List<Lease>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn leases(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(network): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let leases = host.supervisor.wires().leases(&network).await?;
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(leases, &query, revision)?))
}
