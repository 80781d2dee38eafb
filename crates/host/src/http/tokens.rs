//! `/tokens`: what programs show.

use std::sync::Arc;

use api::{List, ListQuery, MadeToken, NewToken, Problem, Token};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::caller::Admin;
use super::error::Result;
use super::input::{Body, Query};
use super::lists;
use crate::daemon::Host;

/// All tokens, without their secrets.
#[utoipa::path(get, path = "/tokens", tag = "access", security(("token" = ["admin"])), params(ListQuery), responses(
    (status = 200, description = "A page of tokens", body = List<Token>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Admin,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let tokens = host.access.tokens().await?;
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(tokens, &query, revision)?))
}

/// Makes a token. Its secret is told this once.
#[utoipa::path(post, path = "/tokens", tag = "access", security(("token" = ["admin"])), request_body = NewToken, responses(
    (status = 201, description = "The token and its secret", body = MadeToken),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, axum::Json<MadeToken>)> {
    let wrong = new.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    Ok((StatusCode::CREATED, axum::Json(host.access.make_token(new, &identity.actor).await?)))
}

/// Takes a token away.
#[utoipa::path(delete, path = "/tokens/{token}", tag = "access", security(("token" = ["admin"])),
    params(("token" = String, Path, description = "Its name or id")), responses(
    (status = 204, description = "It is not taken any more"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(token): Path<String>,
) -> Result<StatusCode> {
    host.access.remove_token(&token, &identity.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
