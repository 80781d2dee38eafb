//! `/users`: people with passwords.

use std::sync::Arc;

use api::{Account, AccountChange, List, ListQuery, NewAccount, Problem};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::caller::Admin;
use super::error::Result;
use super::input::{Body, Query};
use super::lists;
use crate::daemon::Host;

/// All users.
#[utoipa::path(get, path = "/users", tag = "access", security(("token" = ["admin"])), params(ListQuery), responses(
    (status = 200, description = "A page of users", body = List<Account>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Admin,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let users = host.access.users().await?;
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(users, &query, revision)?))
}

/// Makes a user known.
#[utoipa::path(post, path = "/users", tag = "access", security(("token" = ["admin"])), request_body = NewAccount, responses(
    (status = 201, description = "The user", body = Account),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Body(new): Body<NewAccount>,
) -> Result<(StatusCode, axum::Json<Account>)> {
    let wrong = new.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    Ok((StatusCode::CREATED, axum::Json(host.access.make_user(new, &identity.actor).await?)))
}

/// One user.
#[utoipa::path(get, path = "/users/{user}", tag = "access", security(("token" = ["admin"])),
    params(("user" = String, Path, description = "Their name")), responses(
    (status = 200, description = "The user", body = Account),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Admin,
    Path(user): Path<String>,
) -> Result<axum::Json<Account>> {
    Ok(axum::Json(host.access.user(&user).await?))
}

/// Changes what is said of a user; the rest stays.
#[utoipa::path(patch, path = "/users/{user}", tag = "access", security(("token" = ["admin"])),
    params(("user" = String, Path, description = "Their name")),
    request_body(content = AccountChange, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "The user", body = Account),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(user): Path<String>,
    Body(change): Body<AccountChange>,
) -> Result<axum::Json<Account>> {
    let wrong = change.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    Ok(axum::Json(host.access.change_user(&user, change, &identity.actor).await?))
}

/// Forgets a user, and ends their sessions.
#[utoipa::path(delete, path = "/users/{user}", tag = "access", security(("token" = ["admin"])),
    params(("user" = String, Path, description = "Their name")), responses(
    (status = 204, description = "Nobody knows them any more"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(user): Path<String>,
) -> Result<StatusCode> {
    host.access.remove_user(&user, &identity.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
