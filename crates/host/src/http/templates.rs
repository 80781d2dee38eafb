//! `/templates`.

use std::sync::Arc;

use api::{List, ListQuery, Name, NewTemplate, Problem, Template, Time, VmDefinition};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::caller::{Admin, Viewer};
use super::error::Result;
use super::input::{Body, Query, read};
use super::lists;
use crate::daemon::Host;
use crate::events::Happening;
use crate::images::{self, TEMPLATES as PREFIX};
use crate::store::{Store, StoreError, Transaction};

fn key(name: &Name) -> String {
    format!("{PREFIX}{name}")
}

/// The template of this name.
///
/// # Errors
/// If there is none.
pub async fn find(store: &dyn Store, name: &str) -> Result<Template> {
    let shown: String = name.chars().take(80).collect();
    let missing = || Problem::not_found(format!("there is no template {shown}"));
    let name: Name = name.parse().map_err(|_| missing())?;
    let entry = store.get(&key(&name)).await?.ok_or_else(missing)?;
    Ok(serde_json::from_slice(&entry.value).map_err(StoreError::from)?)
}

/// All templates, by name.
#[utoipa::path(get, path = "/templates", tag = "templates", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of templates", body = List<Template>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let (entries, revision) = host.store.list(PREFIX).await?;
    let read = |entry: &crate::store::Entry| serde_json::from_slice::<Template>(&entry.value);
    let templates = entries.iter().map(read).collect::<std::result::Result<Vec<_>, _>>();
    Ok(axum::Json(lists::page(templates.map_err(StoreError::from)?, &query, revision)?))
}

/// Makes a template.
#[utoipa::path(post, path = "/templates", tag = "templates", security(("token" = ["admin"])), request_body = NewTemplate, responses(
    (status = 201, description = "The template", body = Template),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Body(new): Body<NewTemplate>,
) -> Result<(StatusCode, axum::Json<Template>)> {
    check(&new)?;
    let name = new.name.clone();
    let template = Template { template: new, created: Time::now() };
    let _images = host.supervisor.images().hold(images::of_template(&template))?;
    let happening = Happening::new("template.created", "was made").by(identity.actor);
    let happening = happening.to(format!("/api/v1/templates/{name}"), name.as_str());
    let transaction = Transaction::new().expect_none(key(&name)).put(key(&name), &template)?;
    match host.store.commit(happening.add(transaction)?).await {
        Ok(_) => Ok((StatusCode::CREATED, axum::Json(template))),
        Err(StoreError::Conflict { .. }) => {
            let detail = format!("there is a template called {name} already: give it another name");
            Err(Problem::conflict(detail).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// A problem unless a guest of it can be a guest.
fn check(new: &NewTemplate) -> Result<()> {
    let wrong = new.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    let mut whole = Value::Object(new.definition.clone());
    whole["name"] = json!(new.name);
    let definition: VmDefinition = read(&whole).map_err(within)?;
    let wrong = definition.check();
    if wrong.is_empty() { Ok(()) } else { Err(within(Problem::invalid(wrong).into())) }
}

/// What is wrong with a guest is wrong with the definition in the template.
fn within(error: super::error::Error) -> super::error::Error {
    let mut errors = error.0.errors;
    for wrong in &mut errors {
        wrong.pointer.insert_str(0, "/definition");
    }
    Problem::invalid(errors).into()
}

/// One template.
#[utoipa::path(get, path = "/templates/{template}", tag = "templates", security(("token" = ["viewer"])),
    params(("template" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The template", body = Template),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(template): Path<String>,
) -> Result<axum::Json<Template>> {
    Ok(axum::Json(find(&*host.store, &template).await?))
}

/// Makes a template another one of the same name. Guests made from it stay as they are.
#[utoipa::path(put, path = "/templates/{template}", tag = "templates", security(("token" = ["admin"])),
    params(("template" = String, Path, description = "Its name")), request_body = NewTemplate, responses(
    (status = 200, description = "The template", body = Template),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn replace(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(template): Path<String>,
    Body(new): Body<NewTemplate>,
) -> Result<axum::Json<Template>> {
    let before = find(&*host.store, &template).await?;
    if new.name != before.template.name {
        let detail = "a template keeps its name: make another one";
        return Err(Problem::invalid(vec![api::Invalid::new("/name", new.name.as_str(), detail)]).into());
    }
    check(&new)?;
    let name = new.name.clone();
    let template = Template { template: new, created: before.created };
    let happening = Happening::new("template.edited", "was edited").by(identity.actor);
    let happening = happening.to(format!("/api/v1/templates/{name}"), name.as_str());
    let transaction = Transaction::new().put(key(&name), &template)?;
    host.store.commit(happening.add(transaction)?).await?;
    Ok(axum::Json(template))
}

/// Removes a template. Guests made from it stay as they are.
#[utoipa::path(delete, path = "/templates/{template}", tag = "templates", security(("token" = ["admin"])),
    params(("template" = String, Path, description = "Its name")), responses(
    (status = 204, description = "It is there no more"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(template): Path<String>,
) -> Result<StatusCode> {
    let name = find(&*host.store, &template).await?.template.name;
    let happening = Happening::new("template.deleted", "was deleted").by(identity.actor);
    let happening = happening.to(format!("/api/v1/templates/{name}"), name.as_str());
    host.store.commit(happening.add(Transaction::new().delete(key(&name)))?).await?;
    Ok(StatusCode::NO_CONTENT)
}
