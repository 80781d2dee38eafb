//! `/uploads`: files on their way to the host, for images to be made of.

use std::sync::Arc;

use api::{Id, Invalid, List, ListQuery, Name, Problem, RestoreBackup, Size, Task};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use storage::Silent;
use storage::images::{FileUpload, UploadStatus};
use utoipa::IntoParams;

use super::bytes::{apart, incoming};
use super::caller::Admin;
use super::error::Result;
use super::input::{Body, Query};
use super::lists;
use super::tasks::{Wait, accepted, check};
use super::vms::{begun, new_task};
use crate::daemon::{Host, TaskProgress};
use crate::tasks::told;

/// The name of an upload that should be there.
fn known(name: &str) -> std::result::Result<Name, Problem> {
    let shown: String = name.chars().take(80).collect();
    name.parse().map_err(|_| Problem::not_found(format!("nothing is being uploaded as {shown}")))
}

/// All files that are being uploaded or wait for an image to be made of them, by name.
#[utoipa::path(get, path = "/uploads", tag = "images", security(("token" = ["admin"])), params(ListQuery), responses(
    (status = 200, description = "A page of uploads", body = List<UploadStatus>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Admin,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let images = Arc::clone(host.supervisor.images());
    let uploads = apart(move || Ok(images.uploads())).await?;
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(uploads, &query, revision)?))
}

/// How far an upload is.
#[utoipa::path(get, path = "/uploads/{upload}", tag = "images", security(("token" = ["admin"])),
    params(("upload" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The upload", body = UploadStatus),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Admin,
    Path(upload): Path<String>,
) -> Result<axum::Json<UploadStatus>> {
    let (images, name) = (Arc::clone(host.supervisor.images()), known(&upload)?);
    Ok(axum::Json(apart(move || images.upload(&name)).await?))
}

/// What is being uploaded, and which part of it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Part {
    /// The length of the whole file, bytes.
    pub length: u64,
    /// Where in it this part begins: 0 at first, and what `uploaded` says when it goes on.
    #[serde(default)]
    pub offset: u64,
    /// The SHA-256 checksum that the whole must have, in hexadecimal. It is compared when an image is made of it.
    pub sha256: Option<String>,
}

/// Uploads a file for `POST /images`, in one request or in parts: each begins where the one before ended. An upload that broke off is gone on
/// with; what nobody goes on with for a day is given up.
#[utoipa::path(put, path = "/uploads/{upload}", tag = "images", security(("token" = ["admin"])),
    params(("upload" = String, Path, description = "What it is to be called"), Part),
    request_body(content = String, content_type = "application/octet-stream"), responses(
    (status = 200, description = "That much of it is there", body = UploadStatus),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn send(
    State(host): State<Arc<Host>>,
    _: Admin,
    Path(upload): Path<String>,
    Query(part): Query<Part>,
    request: Request,
) -> Result<axum::Json<UploadStatus>> {
    let name: Name = upload.parse().map_err(|error: api::NameError| {
        let shown: String = upload.chars().take(80).collect();
        Problem::invalid(vec![Invalid::new("/name", shown, error.to_string())])
    })?;
    let images = Arc::clone(host.supervisor.images());
    let wanted = FileUpload { name: name.clone(), length: Size(part.length), sha256: part.sha256 };
    let mut bytes = incoming(request);
    let sent = apart(move || {
        images.begin_upload(wanted)?;
        images.upload_part(&name, part.offset, &mut bytes, &Silent)
    });
    Ok(axum::Json(sent.await?))
}

/// Makes a guest of a snapshot that was exported into a file (`GET /vms/{vm}/snapshots/{snapshot}/data`) and uploaded. All of the file is looked at
/// before. The upload goes when the guest is there. The task's result is the guest.
#[utoipa::path(post, path = "/uploads/{upload}/restore", tag = "vms", security(("token" = ["admin"])),
    params(("upload" = String, Path, description = "What the upload is called"), Wait), request_body = RestoreBackup, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn restore(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(upload): Path<String>,
    Query(wait): Query<Wait>,
    Body(wanted): Body<RestoreBackup>,
) -> Result<Response> {
    check(&wait)?;
    let (images, name) = (Arc::clone(host.supervisor.images()), known(&upload)?);
    let of = name.clone();
    apart(move || images.upload(&of)).await?;
    let id = Id::new();
    let task = new_task("vm.import", id, wanted.name.as_str(), &identity);
    let doing = Arc::clone(&host);
    let work = move |work: crate::tasks::Work| async move {
        let progress = Arc::new(TaskProgress::new(work.clone()));
        let vm = doing.supervisor.import(&name, &wanted, id, &identity.actor, progress).await?;
        told(if wanted.start { begun(&doing, id, &identity.actor, &work).await? } else { vm })
    };
    let task = host.tasks.begin(task, work).await?;
    accepted(&host, task, &wait).await
}

/// Gives an upload up.
#[utoipa::path(delete, path = "/uploads/{upload}", tag = "images", security(("token" = ["admin"])),
    params(("upload" = String, Path, description = "Its name")), responses(
    (status = 204, description = "It is there no more"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    _: Admin,
    Path(upload): Path<String>,
) -> Result<StatusCode> {
    let (images, name) = (Arc::clone(host.supervisor.images()), known(&upload)?);
    apart(move || images.abort_upload(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}
