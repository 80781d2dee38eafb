//! `/images`: what guests boot from.

use std::sync::Arc;

use api::{ImageInfo, ImageName, List, ListQuery, NewImage, NewTask, Problem, Task};
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};
use storage::images::{Image, Recipe, Store as Images, build as build_image};

use super::caller::{Admin, Viewer};
use super::error::Result;
use super::input::{Body, Query};
use super::lists;
use super::tasks::{Wait, accepted, check};
use crate::daemon::{Host, TaskProgress};
use crate::records;
use crate::supervisor::storage_problem;

/// All images, by name.
#[utoipa::path(get, path = "/images", tag = "images", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of images", body = List<ImageInfo>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let images = Images::new(host.paths.images()).list().map_err(storage_problem)?;
    let images: Vec<_> = images.iter().map(Image::info).collect();
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(images, &query, revision)?))
}

/// Makes an image from Debian's packages.
#[utoipa::path(post, path = "/images", tag = "images", security(("token" = ["admin"])), params(Wait), request_body = NewImage, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn build(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Query(wait): Query<Wait>,
    Body(new): Body<NewImage>,
) -> Result<Response> {
    check(&wait)?;
    let images = Images::new(host.paths.images());
    let (name, recipe) = recipe(new)?;
    if images.find(&name).map_err(storage_problem)?.is_some() {
        return Err(Problem::conflict(format!(
            "there is an image {name} already: remove it or give another name"
        ))
        .into());
    }
    let new = NewTask {
        action: "image.build",
        target: format!("/api/v1/images/{name}"),
        name: name.to_string(),
        actor: identity.actor,
    };
    let work = move |work: crate::tasks::Work| async move {
        let progress = TaskProgress::new(work);
        let done =
            tokio::task::spawn_blocking(move || build_image(&images, &name, &recipe, false, &progress));
        done.await.map_err(|error| Problem::internal(error.to_string()))?.map_err(storage_problem)?;
        Ok(json!({}))
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

fn recipe(new: NewImage) -> std::result::Result<(ImageName, Recipe), Problem> {
    let wrong = |pointer: &str, value: &str, detail: String| {
        Problem::invalid(vec![api::Invalid::new(pointer, value, detail)])
    };
    let release = new.release.parse().map_err(|error: String| wrong("/release", &new.release, error))?;
    for (number, package) in new.packages.iter().enumerate() {
        storage::images::package_name(package)
            .map_err(|error| wrong(&format!("/packages/{number}"), package, error))?;
    }
    let name = match new.name {
        Some(name) => name,
        None => new
            .release
            .parse()
            .map_err(|error: api::NameError| wrong("/release", &new.release, error.to_string()))?,
    };
    let size = new.size.unwrap_or(api::Size(4 << 30));
    Ok((name, Recipe { release, packages: new.packages, size, mirror: new.mirror }))
}

/// Removes an image that no guest boots from.
#[utoipa::path(delete, path = "/images/{image}", tag = "images", security(("token" = ["admin"])),
    params(("image" = String, Path, description = "Its name"), Wait), responses(
    (status = 202, description = "It is being removed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(image): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let missing =
        || Problem::not_found(format!("there is no image {}", image.chars().take(80).collect::<String>()));
    let name: ImageName = image.parse().map_err(|_| missing())?;
    let images = Images::new(host.paths.images());
    images.find(&name).map_err(storage_problem)?.ok_or_else(missing)?;
    let (vms, _) = records::list(&*host.store).await?;
    if let Some((record, _)) = vms.iter().find(|(record, _)| record.vm.definition.image() == Some(&name)) {
        let detail = format!("{} boots from {name}: delete the guest first", record.vm.definition.name);
        return Err(Problem::conflict(detail).into());
    }
    let new = NewTask {
        action: "image.delete",
        target: format!("/api/v1/images/{name}"),
        name: name.to_string(),
        actor: identity.actor,
    };
    let work = move |_| async move {
        let done = tokio::task::spawn_blocking(move || images.remove(&name));
        done.await.map_err(|error| Problem::internal(error.to_string()))?.map_err(storage_problem)?;
        Ok(json!({}))
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}
