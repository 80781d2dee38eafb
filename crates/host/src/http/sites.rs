//! `/sites`: what files of text have made of this host. The host only remembers it: `tessera apply` does it.

use std::sync::Arc;

use api::{List, ListQuery, Name, Problem, Site, SiteMemory, Time};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::caller::Admin;
use super::error::Result;
use super::input::{Body, Query, if_match};
use super::lists;
use crate::daemon::Host;
use crate::store::{Entry, Revision, Store, StoreError, Transaction};

/// Where sites are in the store.
const PREFIX: &str = "site/";

/// The longest that is remembered of one, bytes.
pub const LONGEST: usize = 16 << 20;

fn key(name: &Name) -> String {
    format!("{PREFIX}{name}")
}

fn read(entry: &Entry) -> std::result::Result<Site, StoreError> {
    Ok(serde_json::from_slice(&entry.value)?)
}

async fn find(store: &dyn Store, name: &str) -> Result<(Site, Revision)> {
    let shown: String = name.chars().take(80).collect();
    let missing = || Problem::not_found(format!("there is no site {shown}"));
    let name: Name = name.parse().map_err(|_| missing())?;
    let entry = store.get(&key(&name)).await?.ok_or_else(missing)?;
    Ok((read(&entry)?, entry.revision))
}

fn with_tag(status: StatusCode, site: &Site, revision: Revision) -> Response {
    let mut response = (status, axum::Json(site)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// All sites, by name.
#[utoipa::path(get, path = "/sites", tag = "sites", security(("token" = ["admin"])), params(ListQuery), responses(
    (status = 200, description = "A page of sites", body = List<Site>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Admin,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let (entries, revision) = host.store.list(PREFIX).await?;
    let sites = entries.iter().map(read).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(axum::Json(lists::page(sites, &query, revision)?))
}

/// One site.
#[utoipa::path(get, path = "/sites/{site}", tag = "sites", security(("token" = ["admin"])),
    params(("site" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The site", body = Site, headers(("ETag" = String, description = "What it is a version of"))),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(host): State<Arc<Host>>, _: Admin, Path(site): Path<String>) -> Result<Response> {
    let (site, revision) = find(&*host.store, &site).await?;
    Ok(with_tag(StatusCode::OK, &site, revision))
}

/// Remembers a site: whole, in place of what was remembered of it. Nothing of what it names is changed by that.
#[utoipa::path(put, path = "/sites/{site}", tag = "sites", security(("token" = ["admin"])),
    params(("site" = String, Path, description = "Its name"),
        ("If-Match" = Option<String>, Header, description = "Only if it is still this version; \"0\" if there must be none")),
    request_body = SiteMemory, responses(
    (status = 200, description = "The site", body = Site, headers(("ETag" = String, description = "What it is a version of"))),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn put(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(memory): Body<SiteMemory>,
) -> Result<Response> {
    let wrong = |error: api::NameError| {
        let shown: String = name.chars().take(80).collect();
        Problem::invalid(vec![api::Invalid::new("/name", shown, error.to_string())])
    };
    let name: Name = name.parse().map_err(wrong)?;
    let mut transaction = Transaction::new();
    if let Some(expect) = if_match(&headers)? {
        transaction = transaction.expect(key(&name), expect);
    }
    let site = Site { name, memory, written: Time::now(), actor: identity.actor };
    match host.store.commit(transaction.put(key(&site.name), &site)?).await {
        Ok(revision) => Ok(with_tag(StatusCode::OK, &site, revision)),
        Err(StoreError::Conflict { .. }) => {
            let detail =
                format!("somebody else applies the site {}, too: look at it and try again", site.name);
            Err(Problem::new(412, "It has changed", detail).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Forgets a site. What it has made stays, and is nobody's.
#[utoipa::path(delete, path = "/sites/{site}", tag = "sites", security(("token" = ["admin"])),
    params(("site" = String, Path, description = "Its name")), responses(
    (status = 204, description = "It is forgotten"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(State(host): State<Arc<Host>>, _: Admin, Path(site): Path<String>) -> Result<StatusCode> {
    let (site, _) = find(&*host.store, &site).await?;
    host.store.commit(Transaction::new().delete(key(&site.name))).await?;
    Ok(StatusCode::NO_CONTENT)
}
