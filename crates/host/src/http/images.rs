//! `/images`: what guests boot from.

use std::io;
use std::sync::Arc;

use api::{
    ImageChange, ImageDetails, ImageInfo, ImageName, Invalid, List, ListQuery, NewImage, NewTask, Problem,
    Task,
};
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};
use storage::images::{Image, Import, Packed, Recipe, build, import};
use utoipa::ToSchema;

use super::bytes::{apart, archive, while_wanted};
use super::caller::{Admin, Operator, Viewer};
use super::error::Result;
use super::input::{Body, Query, read};
use super::tasks::{Wait, accepted, check};
use super::{lists, scope};
use crate::access::Identity;
use crate::daemon::{Host, TaskProgress};
use crate::events::Happening;
use crate::images::{self, Images, Taken, check_unused};
use crate::store::{Store, Transaction};
use crate::supervisor::{storage_problem, store_problem};
use crate::tasks::told;

fn path(name: &ImageName) -> String {
    format!("/api/v1/images/{name}")
}

/// The image of this name.
fn find(images: &Images, name: &str) -> std::result::Result<Image, Problem> {
    let shown: String = name.chars().take(80).collect();
    let missing = || Problem::not_found(format!("there is no image {shown}"));
    let name: ImageName = name.parse().map_err(|_| missing())?;
    images.find(&name).map_err(storage_problem)?.ok_or_else(missing)
}

/// All images, by name.
#[utoipa::path(get, path = "/images", tag = "images", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of images", body = List<ImageInfo>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<List<Value>>> {
    let images = Arc::clone(host.supervisor.images());
    let images = apart(move || Ok(images.list()?.iter().map(Image::info).collect::<Vec<_>>())).await?;
    let (_, revision) = host.store.list("revision-only/").await?;
    Ok(axum::Json(lists::page(images, &query, revision)?))
}

/// One image, and who uses it.
#[utoipa::path(get, path = "/images/{image}", tag = "images", security(("token" = ["viewer"])),
    params(("image" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The image", body = ImageDetails),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    Path(name): Path<String>,
) -> Result<axum::Json<ImageDetails>> {
    let image = find(host.supervisor.images(), &name)?;
    let mut used_by = images::keepers(&*host.store, &image.name).await?;
    if identity.is_bound() {
        let theirs = scope::guests(&host, &identity).await?;
        let theirs: Vec<_> = theirs.iter().map(|vm| vm.definition.name.to_string()).collect();
        used_by.vms.retain(|vm| theirs.contains(vm));
    } else {
        let (pools, images) = (Arc::clone(host.supervisor.pools()), Arc::clone(host.supervisor.images()));
        let name = image.name.clone();
        let looked = tokio::task::spawn_blocking(move || images::volumes(&pools, &images, &name)).await;
        used_by.volumes = looked.map_err(|error| Problem::internal(error.to_string()))??;
    }
    Ok(axum::Json(ImageDetails { image: image.info(), used_by }))
}

/// An image to be made: from Debian's packages, or of a disk and its kernel, or of an image that was exported.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[serde(untagged)]
pub enum WantedImage {
    /// From Debian's packages.
    Build(NewImage),
    /// Of files.
    Import(Import),
}

impl WantedImage {
    fn of(body: &Value) -> Result<Self> {
        if body.get("disk").is_some() {
            return read(body).map(Self::Import);
        }
        if body.get("release").is_some() {
            return read(body).map(Self::Build);
        }
        let detail = "say what it is to be made of: a disk, or a release of Debian";
        Err(Problem::invalid(vec![Invalid::new("/disk", Value::Null, detail)]).into())
    }
}

/// Makes an image: from Debian's packages (`release`); or of a `disk` and its `kernel`, or of an image that was exported, as the `disk` alone. Each
/// file comes from an address, with its checksum, from an upload (`/uploads`), or is one of the host's. What has come of a file from elsewhere
/// is kept if the task ends early: the same request goes on with it. The task's result is the image.
#[utoipa::path(post, path = "/images", tag = "images", security(("token" = ["admin"])), params(Wait), request_body = WantedImage, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Query(wait): Query<Wait>,
    Body(body): Body<Value>,
) -> Result<Response> {
    check(&wait)?;
    match WantedImage::of(&body)? {
        WantedImage::Build(new) => {
            let replace = new.replace;
            let (name, recipe) = recipe(new)?;
            let of = name.clone();
            let work = move |images: &Images, progress: &TaskProgress| {
                build(images, &of, &recipe, replace, progress)
            };
            begin(&host, identity, ("image.build", "was made"), (name, replace), &wait, work).await
        }
        WantedImage::Import(wanted) => {
            wanted.check().map_err(storage_problem)?;
            let (name, replace) = (wanted.name.clone(), wanted.replace);
            let work = move |images: &Images, progress: &TaskProgress| import(images, &wanted, progress);
            begin(&host, identity, ("image.import", "was taken in"), (name, replace), &wait, work).await
        }
    }
}

/// Begins a task that makes an image.
async fn begin(
    host: &Arc<Host>,
    identity: Identity,
    (action, what): (&'static str, &'static str),
    (name, replace): (ImageName, bool),
    wait: &Wait,
    work: impl FnOnce(&Images, &TaskProgress) -> storage::Result<()> + Send + 'static,
) -> Result<Response> {
    let images = Arc::clone(host.supervisor.images());
    let taken = match images.find(&name).map_err(storage_problem)? {
        None => None,
        Some(_) if replace => Some(take(host, &name, "cannot be replaced").await?),
        Some(_) => {
            let detail = format!("there is an image {name} already: remove it or give another name");
            return Err(Problem::conflict(detail).into());
        }
    };
    let new = NewTask { action, target: path(&name), name: name.to_string(), actor: identity.actor.clone() };
    let store = Arc::clone(&host.store);
    let doing = move |task| async move {
        let _taken = taken;
        let progress = TaskProgress::new(task);
        let of = name.clone();
        let image = apart(move || {
            work(&images, &progress)?;
            images.get(&of)
        });
        let image = image.await?;
        tell(&*store, "image.created", what, &name, &identity.actor).await?;
        told(image.info())
    };
    let task = host.tasks.begin(new, doing).await?;
    accepted(host, task, wait).await
}

/// Has nobody begin to use an image that nobody uses.
async fn take(host: &Host, name: &ImageName, what: &str) -> std::result::Result<Taken, Problem> {
    let taken = host.supervisor.images().take(name)?;
    check_unused(&*host.store, name, what).await?;
    Ok(taken)
}

/// Has it known what became of an image.
async fn tell(
    store: &dyn Store,
    kind: &str,
    what: &str,
    name: &ImageName,
    actor: &str,
) -> std::result::Result<(), Problem> {
    let happening = Happening::new(kind, what).to(path(name), name.as_str()).by(actor);
    let transaction = happening.add(Transaction::new()).map_err(store_problem)?;
    store.commit(transaction).await.map(drop).map_err(store_problem)
}

fn recipe(new: NewImage) -> std::result::Result<(ImageName, Recipe), Problem> {
    let wrong = |pointer: &str, value: &str, detail: String| {
        Problem::invalid(vec![Invalid::new(pointer, value, detail)])
    };
    let release = new.release.parse().map_err(|error: String| wrong("/release", &new.release, error))?;
    let name = match new.name {
        Some(name) => name,
        None => new
            .release
            .parse()
            .map_err(|error: api::NameError| wrong("/release", &new.release, error.to_string()))?,
    };
    let size = new.size.unwrap_or(api::Size(4 << 30));
    let recipe = Recipe { release, packages: new.packages, size, mirror: new.mirror };
    recipe.check().map_err(storage_problem)?;
    Ok((name, recipe))
}

/// Changes what is said of an image, and what it is called if no guest or template uses it. What its kernel is told holds for guests at their
/// next start, if they say nothing else.
#[utoipa::path(patch, path = "/images/{image}", tag = "images", security(("token" = ["admin"])),
    params(("image" = String, Path, description = "Its name")),
    request_body(content = ImageChange, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "The image", body = ImageInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(name): Path<String>,
    Body(change): Body<ImageChange>,
) -> Result<axum::Json<ImageInfo>> {
    let name = find(host.supervisor.images(), &name)?.name;
    let wrong = change.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    let renamed = change.name.clone().filter(|new| *new != name);
    let _taken = match &renamed {
        Some(_) => Some(take(&host, &name, "keeps its name").await?),
        None => None,
    };
    let (images, of) = (Arc::clone(host.supervisor.images()), name.clone());
    let image = apart(move || images.change(&of, &change)).await?;
    let what = match renamed {
        Some(_) => format!("was called {name} before"),
        None => "was described anew".into(),
    };
    tell(&*host.store, "image.edited", &what, &image.name, &identity.actor).await?;
    Ok(axum::Json(image.info()))
}

/// Removes an image that no guest and no template uses. Volumes that are based on it stay: their pool holds what they need of it.
#[utoipa::path(delete, path = "/images/{image}", tag = "images", security(("token" = ["admin"])),
    params(("image" = String, Path, description = "Its name"), Wait), responses(
    (status = 202, description = "It is being removed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let name = find(host.supervisor.images(), &name)?.name;
    let taken = take(&host, &name, "stays").await?;
    let (action, actor) = ("image.delete", identity.actor.clone());
    let new = NewTask { action, target: path(&name), name: name.to_string(), actor };
    let (images, store) = (Arc::clone(host.supervisor.images()), Arc::clone(&host.store));
    let work = move |_| async move {
        let _taken = taken;
        let of = name.clone();
        apart(move || images.remove(&of)).await?;
        tell(&*store, "image.deleted", "was deleted", &name, &identity.actor).await?;
        Ok(json!({}))
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

/// An image as one file, to carry it elsewhere: a tar archive that `POST /images` takes as a disk. It may take a while until the first byte comes.
#[utoipa::path(get, path = "/images/{image}/data", tag = "images", security(("token" = ["operator"])),
    params(("image" = String, Path, description = "Its name")), responses(
    (status = 200, description = "A tar archive", content_type = "application/x-tar"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn download(
    State(host): State<Arc<Host>>,
    Operator(_identity): Operator,
    Path(name): Path<String>,
) -> Result<Response> {
    let images = Arc::clone(host.supervisor.images());
    let name = find(&images, &name)?.name;
    let hold = images.hold(vec![name.clone()])?;
    let (leaving, wanting) = while_wanted();
    let of = name.clone();
    let packed = apart(move || {
        let _hold = hold;
        let packed = Packed::new(&images, &of, &wanting)?;
        Ok((packed.length()?, packed))
    });
    let (length, packed) = packed.await?;
    drop(leaving);
    let write = move |to: &mut dyn io::Write| packed.write(to, &storage::Silent).map_err(io::Error::other);
    Ok(archive(&name.as_str().replace(':', "-"), length, write))
}
