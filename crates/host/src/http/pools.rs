//! `/pools` and the volumes in them.

use std::io;
use std::sync::Arc;

use api::{Invalid, List, ListQuery, Name, NewTask, Problem, Size, Task};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use storage::{
    Pool, PoolDefinition, Resize, Silent, UploadDefinition, Volume, VolumeDefinition, VolumeFormat,
};
use utoipa::{IntoParams, ToSchema};

use super::bytes::{apart, incoming, outgoing};
use super::caller::{Admin, Operator, Viewer};
use super::error::Result;
use super::input::{Body, Query, patched};
use super::lists;
use super::tasks::{Wait, accepted, check};
use crate::access::Identity;
use crate::daemon::{Host, TaskProgress};
use crate::pools::{self, PoolInfo};
use crate::tasks::told;

fn volume_name(name: &str) -> std::result::Result<Name, Problem> {
    let shown: String = name.chars().take(80).collect();
    name.parse().map_err(|_| Problem::not_found(format!("there is no volume {shown}")))
}

fn volume_path(pool: &str, volume: &Name) -> String {
    format!("/api/v1/pools/{pool}/volumes/{volume}")
}

/// All storage pools, by name.
#[utoipa::path(get, path = "/pools", tag = "storage", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of pools", body = List<PoolInfo>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(host.supervisor.pools().list(), &query, revision)?))
}

/// Takes a folder in as a storage pool, or makes one.
#[utoipa::path(post, path = "/pools", tag = "storage", security(("token" = ["admin"])), request_body = PoolDefinition, responses(
    (status = 201, description = "The pool", body = PoolInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Body(definition): Body<PoolDefinition>,
) -> Result<(StatusCode, axum::Json<PoolInfo>)> {
    let pool = host.supervisor.pools().create(definition, &identity.actor).await?;
    Ok((StatusCode::CREATED, axum::Json(pool)))
}

/// One pool.
#[utoipa::path(get, path = "/pools/{pool}", tag = "storage", security(("token" = ["viewer"])),
    params(("pool" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The pool", body = PoolInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(pool): Path<String>,
) -> Result<axum::Json<PoolInfo>> {
    Ok(axum::Json(host.supervisor.pools().info(&pool)?))
}

/// Changes a pool, at once for the guests with disks on it: a JSON merge patch (RFC 7396) of its definition. Its name, its kind and its
/// folder stay.
#[utoipa::path(patch, path = "/pools/{pool}", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "Its name")),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "The pool", body = PoolInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(pool): Path<String>,
    Body(patch): Body<Value>,
) -> Result<axum::Json<PoolInfo>> {
    let change = |before: PoolDefinition| patched(&before, patch).map_err(|error| error.0);
    Ok(axum::Json(host.supervisor.pools().edit(&pool, change, &identity.actor).await?))
}

/// Uses a pool no more. What is in it stays where it is.
#[utoipa::path(delete, path = "/pools/{pool}", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "Its name")), responses(
    (status = 204, description = "It is not used any more"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(pool): Path<String>,
) -> Result<StatusCode> {
    host.supervisor.pools().delete(&pool, &identity.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The volumes of a pool, by name.
#[utoipa::path(get, path = "/pools/{pool}/volumes", tag = "storage", security(("token" = ["viewer"])),
    params(("pool" = String, Path, description = "The pool's name"), ListQuery), responses(
    (status = 200, description = "A page of volumes", body = List<Volume>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn volumes(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(pool): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let volumes = host.supervisor.pools().volumes(&pool).await?;
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(volumes, &query, revision)?))
}

/// Begins a task that does something with a volume on a thread that may wait, and gives what the volume is then.
async fn change<T: serde::Serialize + Send + 'static>(
    host: &Arc<Host>,
    identity: Identity,
    (action, pool, volume): (&'static str, &str, &Name),
    wait: &Wait,
    work: impl FnOnce(&Pool, &TaskProgress) -> storage::Result<T> + Send + 'static,
) -> Result<Response> {
    let opened = host.supervisor.pools().get(pool)?;
    let new = NewTask {
        action,
        target: volume_path(pool, volume),
        name: volume.to_string(),
        actor: identity.actor.clone(),
    };
    let (store, target, name) = (Arc::clone(&host.store), new.target.clone(), new.name.clone());
    let doing = move |task| async move {
        let progress = TaskProgress::new(task);
        let result = apart(move || work(&opened, &progress)).await?;
        let message = format!("{} is done", action.trim_start_matches("volume."));
        let happening = crate::events::Happening::new(action, message).to(target, name).by(identity.actor);
        let transaction = happening.add(crate::store::Transaction::new());
        let stored = match transaction {
            Ok(transaction) => store.commit(transaction).await.map(drop),
            Err(error) => Err(error),
        };
        stored.map_err(crate::supervisor::store_problem)?;
        told(result)
    };
    let task = host.tasks.begin(new, doing).await?;
    accepted(host, task, wait).await
}

/// Makes a volume: empty, of an image or of another volume. The task's result is the volume.
#[utoipa::path(post, path = "/pools/{pool}/volumes", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "The pool's name"), Wait), request_body = VolumeDefinition, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create_volume(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(pool): Path<String>,
    Query(wait): Query<Wait>,
    Body(wanted): Body<VolumeDefinition>,
) -> Result<Response> {
    check(&wait)?;
    let wrong = wanted.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    not_a_guests(&wanted.name)?;
    let (images, name) = (Arc::clone(host.supervisor.images()), wanted.name.clone());
    let make = move |pool: &Pool, progress: &TaskProgress| pool.create(&wanted, &images, progress);
    change(&host, identity, ("volume.create", &pool, &name), &wait, make).await
}

/// Names of guests' own disks are given by the host: one that no guest has is removed at its next start.
fn not_a_guests(name: &Name) -> std::result::Result<(), Problem> {
    match pools::owner(name) {
        None => Ok(()),
        Some(_) => {
            let detail = "names that are vm-, an id and a number are those of guests' own disks";
            Err(Problem::invalid(vec![Invalid::new("/name", name.as_str(), detail)]))
        }
    }
}

/// One volume.
#[utoipa::path(get, path = "/pools/{pool}/volumes/{volume}", tag = "storage", security(("token" = ["viewer"])),
    params(("pool" = String, Path, description = "The pool's name"), ("volume" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The volume", body = Volume),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get_volume(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path((pool, volume)): Path<(String, String)>,
) -> Result<axum::Json<Volume>> {
    let name = volume_name(&volume)?;
    let (pools, definition) = (host.supervisor.pools(), host.supervisor.pools().info(&pool)?.definition);
    let users = pools.users(&definition.name).await?.remove(&name).unwrap_or_default();
    let opened = pools.get(&pool)?;
    Ok(axum::Json(apart(move || opened.get(&name, users)).await?))
}

/// Makes a volume longer, or shorter if that is said. No guest may run with it.
#[utoipa::path(post, path = "/pools/{pool}/volumes/{volume}/resize", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "The pool's name"), ("volume" = String, Path, description = "Its name"), Wait),
    request_body = Resize, responses(
    (status = 202, description = "It is being resized", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn resize(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((pool, volume)): Path<(String, String)>,
    Query(wait): Query<Wait>,
    Body(wanted): Body<Resize>,
) -> Result<Response> {
    check(&wait)?;
    let name = volume_name(&volume)?;
    let of = name.clone();
    let work = move |pool: &Pool, _: &TaskProgress| pool.resize(&of, &wanted);
    change(&host, identity, ("volume.resize", &pool, &name), &wait, work).await
}

/// What a volume's file is to become.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Convert {
    /// How it is laid out then.
    pub format: VolumeFormat,
}

/// Lays a volume's file out otherwise. One that is based on another becomes one of its own.
#[utoipa::path(post, path = "/pools/{pool}/volumes/{volume}/convert", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "The pool's name"), ("volume" = String, Path, description = "Its name"), Wait),
    request_body = Convert, responses(
    (status = 202, description = "It is being converted", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn convert(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((pool, volume)): Path<(String, String)>,
    Query(wait): Query<Wait>,
    Body(wanted): Body<Convert>,
) -> Result<Response> {
    check(&wait)?;
    let name = volume_name(&volume)?;
    let of = name.clone();
    let work = move |pool: &Pool, progress: &TaskProgress| pool.convert(&of, wanted.format, progress);
    change(&host, identity, ("volume.convert", &pool, &name), &wait, work).await
}

/// Makes a volume read as zeroes, and overwrites what was on it.
#[utoipa::path(post, path = "/pools/{pool}/volumes/{volume}/wipe", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "The pool's name"), ("volume" = String, Path, description = "Its name"), Wait), responses(
    (status = 202, description = "It is being wiped", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn wipe(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((pool, volume)): Path<(String, String)>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let name = volume_name(&volume)?;
    let of = name.clone();
    let work = move |pool: &Pool, progress: &TaskProgress| pool.wipe(&of, progress);
    change(&host, identity, ("volume.wipe", &pool, &name), &wait, work).await
}

/// Removes a volume that no guest has and nothing is based on.
#[utoipa::path(delete, path = "/pools/{pool}/volumes/{volume}", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "The pool's name"), ("volume" = String, Path, description = "Its name"), Wait), responses(
    (status = 202, description = "It is being removed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete_volume(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path((pool, volume)): Path<(String, String)>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let name = volume_name(&volume)?;
    let pools = host.supervisor.pools();
    let users = pools.users(&pools.info(&pool)?.definition.name).await?.remove(&name).unwrap_or_default();
    let (opened, of) = (pools.get(&pool)?, name.clone());
    apart(move || opened.get(&of, Vec::new())).await?;
    let of = name.clone();
    let work = move |pool: &Pool, _: &TaskProgress| pool.delete(&of, &users);
    change(&host, identity, ("volume.delete", &pool, &name), &wait, work).await
}

/// What is being uploaded, and which part of it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Upload {
    /// How the file is laid out.
    pub format: VolumeFormat,
    /// The length of the whole file, bytes.
    pub length: u64,
    /// Where in it this part begins: 0 at first, and what `uploaded` says when it goes on.
    #[serde(default)]
    pub offset: u64,
    /// The SHA-256 checksum that the whole must have, in hexadecimal.
    pub sha256: Option<String>,
}

/// How far an upload is.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct Uploaded {
    /// Bytes that are there, durably.
    pub uploaded: Size,
    /// The volume, when all of it is there.
    pub volume: Option<Volume>,
}

/// Uploads a new volume, in one request or in parts: each begins where the one before ended. An upload that broke off is gone on with.
#[utoipa::path(put, path = "/pools/{pool}/volumes/{volume}/data", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "The pool's name"), ("volume" = String, Path, description = "Its name"), Upload),
    request_body(content = String, content_type = "application/octet-stream"), responses(
    (status = 200, description = "It is there, or that much of it", body = Uploaded),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn upload(
    State(host): State<Arc<Host>>,
    Admin(_identity): Admin,
    Path((pool, volume)): Path<(String, String)>,
    Query(upload): Query<Upload>,
    request: Request,
) -> Result<axum::Json<Uploaded>> {
    let name: Name = volume.parse().map_err(|error: api::NameError| {
        Problem::invalid(vec![Invalid::new(
            "/name",
            volume.chars().take(80).collect::<String>(),
            error.to_string(),
        )])
    })?;
    not_a_guests(&name)?;
    let opened = host.supervisor.pools().get(&pool)?;
    let wanted = UploadDefinition {
        name: name.clone(),
        description: String::new(),
        format: upload.format,
        length: Size(upload.length),
        sha256: upload.sha256,
    };
    let mut reader = incoming(request);
    let done = apart(move || {
        opened.begin_upload(&wanted)?;
        let there = opened.upload_part(&name, upload.offset, &mut reader, &Silent)?;
        let volume = match there == wanted.length.0 {
            true => Some(opened.finish_upload(&name, &Silent)?),
            false => None,
        };
        Ok(Uploaded { uploaded: Size(there), volume })
    });
    Ok(axum::Json(done.await?))
}

/// How far an upload is that broke off: where the next part begins.
#[utoipa::path(get, path = "/pools/{pool}/volumes/{volume}/upload", tag = "storage", security(("token" = ["admin"])),
    params(("pool" = String, Path, description = "The pool's name"), ("volume" = String, Path, description = "The volume's, to be")), responses(
    (status = 200, description = "That much of it is there", body = Uploaded),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn uploaded(
    State(host): State<Arc<Host>>,
    _: Admin,
    Path((pool, volume)): Path<(String, String)>,
) -> Result<axum::Json<Uploaded>> {
    let shown: String = volume.chars().take(80).collect();
    let name: Name =
        volume.parse().map_err(|_| Problem::not_found(format!("nothing is being uploaded as {shown}")))?;
    let opened = host.supervisor.pools().get(&pool)?;
    let there = apart(move || opened.uploaded(&name)).await?;
    Ok(axum::Json(Uploaded { uploaded: Size(there), volume: None }))
}

/// How a download is laid out.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct As {
    /// The bytes of the disk, or the volume's own file.
    #[serde(default = "raw")]
    pub format: VolumeFormat,
}

fn raw() -> VolumeFormat {
    VolumeFormat::Raw
}

/// What is on a volume. Nobody can write to it meanwhile.
#[utoipa::path(get, path = "/pools/{pool}/volumes/{volume}/data", tag = "storage", security(("token" = ["operator"])),
    params(("pool" = String, Path, description = "The pool's name"), ("volume" = String, Path, description = "Its name"), As), responses(
    (status = 200, description = "Its bytes", content_type = "application/octet-stream"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn download(
    State(host): State<Arc<Host>>,
    Operator(_identity): Operator,
    Path((pool, volume)): Path<(String, String)>,
    Query(wanted): Query<As>,
) -> Result<Response> {
    let name = volume_name(&volume)?;
    let opened = host.supervisor.pools().get(&pool)?;
    let (mut download, length) = apart(move || {
        let download = opened.download(&name, wanted.format)?;
        let length = download.length()?;
        Ok((download, length))
    })
    .await?;
    Ok(outgoing("application/octet-stream", length, move |to| io::copy(&mut download, to).map(drop)))
}
