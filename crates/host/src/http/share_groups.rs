//! `/share-groups`.

use std::sync::Arc;

use api::{Invalid, List, ListQuery, Problem, ShareGroup, ShareGroupInfo};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::caller::{Admin, Viewer};
use super::error::Result;
use super::input::{Body, Query, patched};
use super::lists;
use crate::daemon::Host;

/// All groups in which guests share, by name.
#[utoipa::path(get, path = "/share-groups", tag = "shares", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of groups", body = List<ShareGroupInfo>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(host.share_groups.list().await?, &query, revision)?))
}

/// Makes a group.
#[utoipa::path(post, path = "/share-groups", tag = "shares", security(("token" = ["admin"])), request_body = ShareGroup, responses(
    (status = 201, description = "The group", body = ShareGroupInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Body(new): Body<ShareGroup>,
) -> Result<(StatusCode, axum::Json<ShareGroupInfo>)> {
    let name = new.name.clone();
    host.share_groups.create(new, &identity.actor).await?;
    Ok((StatusCode::CREATED, axum::Json(host.share_groups.get(name.as_str()).await?)))
}

/// One group.
#[utoipa::path(get, path = "/share-groups/{group}", tag = "shares", security(("token" = ["viewer"])),
    params(("group" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The group", body = ShareGroupInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(group): Path<String>,
) -> Result<axum::Json<ShareGroupInfo>> {
    Ok(axum::Json(host.share_groups.get(&group).await?))
}

/// Changes a group, at once for its members that run: the request is a JSON merge patch (RFC 7396) of its definition. Its name stays.
#[utoipa::path(patch, path = "/share-groups/{group}", tag = "shares", security(("token" = ["admin"])),
    params(("group" = String, Path, description = "Its name")),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "The group as it is now", body = ShareGroupInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(group): Path<String>,
    Body(patch): Body<Value>,
) -> Result<axum::Json<ShareGroupInfo>> {
    let change = |before: ShareGroup| {
        let after = patched(&before, patch).map_err(|error| error.0)?;
        if after.name != before.name {
            let detail = "a group keeps its name: make another one";
            return Err(Problem::invalid(vec![Invalid::new("/name", after.name.as_str(), detail)]));
        }
        Ok(after)
    };
    host.share_groups.edit(&group, change, &identity.actor).await?;
    Ok(axum::Json(host.share_groups.get(&group).await?))
}

/// Removes a group that nothing is in.
#[utoipa::path(delete, path = "/share-groups/{group}", tag = "shares", security(("token" = ["admin"])),
    params(("group" = String, Path, description = "Its name")), responses(
    (status = 204, description = "It is there no more"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(group): Path<String>,
) -> Result<StatusCode> {
    host.share_groups.delete(&group, &identity.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
