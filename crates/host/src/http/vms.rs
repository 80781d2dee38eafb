//! `/vms`.

use std::sync::Arc;
use std::time::Duration;

use api::{Id, List, ListQuery, Name, NewTask, Problem, Stats, Task, Verb, Vm, VmDefinition, merge};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::caller::{Admin, Operator, Viewer};
use super::error::Result;
use super::input::{Body, Query, if_match, patched, read};
use super::scope::{Seen, Theirs, claim};
use super::tasks::{Wait, accepted, check};
use super::{events, lists};
use crate::access::Identity;
use crate::daemon::Host;
use crate::records;
use crate::series::Devices;
use crate::store::Update;
use crate::supervisor::{Apply, Edit, Keep, Options};
use crate::tasks::told;

/// How long a guest may take to power itself off if nothing is said, seconds.
const DEADLINE: u64 = 90;

/// An answer that says which version it is of.
pub(super) fn with_tag(told: &impl serde::Serialize, revision: u64) -> Response {
    let mut response = axum::Json(told).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// All guests, the oldest first; as a stream (`Accept: text/event-stream`) first all of them, each as an event `put`, then `ready`, then every change:
/// `put` with the guest, `delete` with its id.
#[utoipa::path(get, path = "/vms", tag = "vms", security(("token" = ["viewer"])), params(ListQuery), responses(
    (status = 200, description = "A page of guests", body = List<Vm>),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(host): State<Arc<Host>>,
    Viewer(identity): Viewer,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Result<Response> {
    let theirs = Theirs::of(&host, &identity).await?;
    let (mut records, revision) = records::list(&*host.store).await?;
    records.retain(|(record, _)| identity.sees(&record.vm));
    if events::wants_stream(&headers) {
        let first =
            records.iter().filter_map(|(record, revision)| events::sent("put", *revision, &record.vm));
        let show = move |update: &Update| change(&theirs, update);
        return events::stream(&host, first.collect(), revision, show).await;
    }
    let vms: Vec<_> = records.into_iter().map(|(record, _)| record.vm).collect();
    Ok(axum::Json(lists::page(vms, &query, revision)?).into_response())
}

/// A change of a guest as a watcher hears of it.
fn change(theirs: &Theirs, update: &Update) -> Option<axum::response::sse::Event> {
    if !update.key.starts_with(records::PREFIX) {
        return None;
    }
    match theirs.change(update) {
        Seen::Put(record) => events::sent("put", update.revision, &record.vm),
        Seen::Gone => events::sent("delete", update.revision, &events::gone(&update.key)),
        Seen::Nothing => None,
    }
}

/// Whether what is made is started, too.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CreateQuery {
    /// Start it when it has been made.
    #[serde(default)]
    pub start: bool,
    /// The template that says what the request does not: the request is a JSON merge patch (RFC 7396) of the template's definition.
    pub template: Option<String>,
    /// Wait so long at most until the task has ended: `30s`.
    pub wait: Option<String>,
}

/// Makes a guest. The task's result is the guest.
#[utoipa::path(post, path = "/vms", tag = "vms", security(("token" = ["admin"])), params(CreateQuery), request_body = VmDefinition, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Query(query): Query<CreateQuery>,
    Body(body): Body<Value>,
) -> Result<Response> {
    let wait = Wait { wait: query.wait };
    check(&wait)?;
    let (mut definition, given): (VmDefinition, Option<VmDefinition>) = match &query.template {
        None => (read(&body)?, None),
        Some(template) => {
            let template = super::templates::find(&*host.store, template).await?.template;
            let mut whole = Value::Object(template.definition);
            let mut given = whole.clone();
            given["name"] = json!(template.name);
            merge(&mut whole, body);
            whole["template"] = json!(template.name);
            (read(&whole)?, Some(read(&given)?))
        }
    };
    claim(&identity, &mut definition, given.as_ref(), true)?;
    host.supervisor.check(&definition, None).await?;
    let id = Id::new();
    let new = new_task("vm.create", id, definition.name.as_str(), &identity);
    let (doing, actor) = (Arc::clone(&host), identity.actor);
    let task = host
        .tasks
        .begin(new, move |work| async move {
            let progress = Arc::new(crate::daemon::TaskProgress::new(work.clone()));
            let vm = doing.supervisor.create(id, definition, &actor, progress).await?;
            told(if query.start { begun(&doing, id, &actor, &work).await? } else { vm })
        })
        .await?;
    accepted(&host, task, &wait).await
}

pub(super) fn new_task(action: &'static str, id: Id, name: &str, identity: &Identity) -> NewTask {
    NewTask { action, target: records::path(id), name: name.into(), actor: identity.actor.clone() }
}

/// Starts one that `work` has made; gives it as it is then.
pub(super) async fn begun(
    host: &Host,
    id: Id,
    actor: &str,
    work: &crate::tasks::Work,
) -> std::result::Result<Vm, Problem> {
    work.progress(None, "starts it");
    let options = Options { deadline: Duration::ZERO, force: false, actor: actor.to_owned() };
    host.supervisor.verb(id, Verb::Start, options).await?;
    Ok(host.supervisor.find(&id.to_string()).await?.0)
}

/// What a clone is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneAs {
    /// Its name.
    pub name: Name,
    /// The snapshot, by name or id, whose disks it begins with: it has only what differs from them. The guest may run.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Whether it goes on in the memory of that snapshot, with a name, addresses and keys of its own, which its agent gives it. It is
    /// suspended until it is started.
    #[serde(default)]
    pub memory: bool,
    /// Whether it begins at once with what the guest is now, and shares that with it until one of them writes: the disks, and of one that
    /// runs the memory, in which it goes on as in that of a snapshot. The guest goes on meanwhile.
    #[serde(default)]
    pub instant: bool,
    /// Whether it is started when it has been made.
    #[serde(default)]
    pub start: bool,
}

impl CloneAs {
    /// What is wrong with it.
    fn check(&self) -> Vec<api::Invalid> {
        let mut wrong = Vec::new();
        if self.instant && (self.snapshot.is_some() || self.memory) {
            let detail =
                "an instant clone begins with what the guest is now: name no snapshot and no memory of one";
            wrong.push(api::Invalid::new("/instant", true, detail));
        } else if self.memory && self.snapshot.is_none() {
            let detail = "name the snapshot whose memory it is, or say instant";
            wrong.push(api::Invalid::new("/snapshot", Value::Null, detail));
        }
        wrong
    }
}

/// Makes a guest as one that does not run, with copies of its own disks, and hardware and IP addresses of its own; or of a snapshot, with
/// what differs from it; or at once of what it is now, whether it runs or not. The task's result is the new guest.
#[utoipa::path(post, path = "/vms/{vm}/clone", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "The name or id of the guest to clone"), Wait), request_body = CloneAs, responses(
    (status = 202, description = "It is being made", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn clone(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(vm): Path<String>,
    Query(wait): Query<Wait>,
    Body(wanted): Body<CloneAs>,
) -> Result<Response> {
    check(&wait)?;
    let wrong = wanted.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    let (source, _) = host.supervisor.find(&vm).await?;
    let id = Id::new();
    let new = new_task("vm.clone", id, wanted.name.as_str(), &identity);
    let doing = Arc::clone(&host);
    let work = move |work: crate::tasks::Work| async move {
        let progress = Arc::new(crate::daemon::TaskProgress::new(work.clone()));
        let (supervisor, name, actor) = (&doing.supervisor, wanted.name, &identity.actor);
        let vm = match &wanted.snapshot {
            Some(snapshot) => {
                let from = (snapshot.as_str(), wanted.memory);
                supervisor.clone_snapshot(&source, from, id, name, actor, progress).await?
            }
            None if wanted.instant => supervisor.clone_instantly(&source, id, name, actor, progress).await?,
            None => supervisor.clone_guest(&source, id, name, actor, progress).await?,
        };
        told(if wanted.start { begun(&doing, id, actor, &work).await? } else { vm })
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

/// One guest.
#[utoipa::path(get, path = "/vms/{vm}", tag = "vms", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "The guest", body = Vm, headers(("ETag" = String, description = "What it is a version of"))),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(host): State<Arc<Host>>, _: Viewer, Path(vm): Path<String>) -> Result<Response> {
    let (vm, revision) = host.supervisor.find(&vm).await?;
    Ok(with_tag(&vm, revision))
}

/// How a guest is changed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EditQuery {
    /// When the change is brought about, if it runs.
    #[serde(default)]
    #[param(inline)]
    pub apply: Apply,
    /// Pull out devices that its system does not let go of, or that it uses.
    #[serde(default)]
    pub force: bool,
    /// Wait so long at most until the task has ended: `30s`.
    pub wait: Option<String>,
}

/// Changes a guest: a JSON merge patch (RFC 7396) of its definition. One that runs is changed at once as far as that can be, and if its
/// system does not take part nothing is changed; what waits for the next start is marked in its status.
#[utoipa::path(patch, path = "/vms/{vm}", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "Its name or id"),
        ("If-Match" = Option<String>, Header, description = "Only if it is still this version"), EditQuery),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses(
    (status = 202, description = "It is being changed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn edit(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(vm): Path<String>,
    Query(query): Query<EditQuery>,
    headers: HeaderMap,
    Body(patch): Body<Value>,
) -> Result<Response> {
    reshape(host, identity, &vm, query, &headers, |definition| patched(definition, patch)).await
}

/// Begins a task that makes a guest what `edit` says, who is given what it is.
pub(super) async fn reshape(
    host: Arc<Host>,
    identity: Identity,
    vm: &str,
    query: EditQuery,
    headers: &HeaderMap,
    edit: impl FnOnce(&VmDefinition) -> Result<VmDefinition>,
) -> Result<Response> {
    let wait = Wait { wait: query.wait };
    check(&wait)?;
    let (vm, revision) = host.supervisor.find(vm).await?;
    let expect = if_match(headers)?;
    if expect.is_some_and(|expect| expect != revision) {
        return Err(Problem::new(
            412,
            "It has changed",
            "the guest has changed since it was read: read it again",
        )
        .into());
    }
    let mut definition = edit(&vm.definition)?;
    claim(&identity, &mut definition, Some(&vm.definition), false)?;
    host.supervisor.check(&definition, Some(vm.id)).await?;
    let new = new_task("vm.edit", vm.id, vm.definition.name.as_str(), &identity);
    let (doing, actor) = (Arc::clone(&host), identity.actor);
    let (apply, force) = (query.apply, query.force);
    let work = move |_| async move {
        // What was read must still be so: the patch was made into a whole definition.
        let edit = Edit { definition, expect: Some(revision), apply, force, actor };
        doing.supervisor.edit(vm.id, edit).await?;
        let (vm, _) = doing.supervisor.find(&vm.id.to_string()).await?;
        told(vm)
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

/// What is to happen to a guest that runs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// Pull its plug first if it runs.
    #[serde(default)]
    pub force: bool,
    /// Keep the disks that it has of its own: they become volumes of their pool, which the task's result names.
    #[serde(default)]
    pub keep_disks: bool,
    /// Keep them by this name, with the number of the disk behind it where there are several. Otherwise the guest's name is in theirs.
    pub keep_as: Option<Name>,
    /// Wait so long at most until the task has ended: `30s`.
    pub wait: Option<String>,
}

/// Removes a guest with what it has of its own, but for its disks if they are to be kept.
#[utoipa::path(delete, path = "/vms/{vm}", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "Its name or id"),
        ("If-Match" = Option<String>, Header, description = "Only if it is still this version"), DeleteQuery), responses(
    (status = 202, description = "It is being removed", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(vm): Path<String>,
    Query(query): Query<DeleteQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let wait = Wait { wait: query.wait };
    check(&wait)?;
    let expect = if_match(&headers)?;
    let (vm, _) = host.supervisor.find(&vm).await?;
    let keep = (query.keep_disks || query.keep_as.is_some()).then_some(Keep { name: query.keep_as });
    if keep.is_some() && identity.is_bound() {
        let detail = "its disks would become the host's: they are kept by who is bound to no labels";
        return Err(Problem::new(403, "Not allowed", detail).into());
    }
    let new = new_task("vm.delete", vm.id, vm.definition.name.as_str(), &identity);
    let (doing, actor) = (Arc::clone(&host), identity.actor);
    let work = move |_| async move {
        let keeps = keep.is_some();
        let volumes = doing.supervisor.delete(vm.id, query.force, keep, expect, &actor).await?;
        Ok(if keeps { json!({ "volumes": volumes }) } else { json!({}) })
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

/// How a guest is asked to end.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// How many seconds it may take to power itself off; 90 if nothing is said.
    #[schema(minimum = 1, maximum = 86400)]
    pub deadline: Option<u64>,
    /// Pull its plug when it has not by then.
    #[serde(default)]
    pub force: bool,
}

/// Begins a task that does `verb` with the guest.
async fn do_verb(
    host: Arc<Host>,
    identity: Identity,
    vm: &str,
    verb: Verb,
    wait: &Wait,
    close: Close,
) -> Result<Response> {
    check(wait)?;
    let seconds = close.deadline.unwrap_or(DEADLINE);
    if !(1..=86400).contains(&seconds) {
        let wrong = api::Invalid::new("/deadline", seconds, "1 to 86400 seconds");
        return Err(Problem::invalid(vec![wrong]).into());
    }
    let (vm, _) = host.supervisor.find(vm).await?;
    let new = new_task(verb.action(), vm.id, vm.definition.name.as_str(), &identity);
    let options =
        Options { deadline: Duration::from_secs(seconds), force: close.force, actor: identity.actor };
    let doing = Arc::clone(&host);
    let work = move |_| async move {
        doing.supervisor.verb(vm.id, verb, options).await?;
        let (vm, _) = doing.supervisor.find(&vm.id.to_string()).await?;
        told(vm)
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, wait).await
}

/// Makes the handlers of verbs that need to know nothing more.
macro_rules! verbs {
    ($($(#[doc = $doc:literal])+ $name:ident, $path:literal, $verb:ident;)*) => {$(
        $(#[doc = $doc])+
        #[utoipa::path(post, path = $path, tag = "vms", security(("token" = ["operator"])),
            params(("vm" = String, Path, description = "Its name or id"), Wait), responses(
            (status = 202, description = "It is being done", body = Task),
            (status = 200, description = "The task has ended", body = Task),
            (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
        pub async fn $name(
            State(host): State<Arc<Host>>,
            Operator(identity): Operator,
            Path(vm): Path<String>,
            Query(wait): Query<Wait>,
        ) -> Result<Response> {
            do_verb(host, identity, &vm, Verb::$verb, &wait, Close::default()).await
        }
    )*};
}

/// The same for those that wait for the guest to end.
macro_rules! closing_verbs {
    ($($(#[doc = $doc:literal])+ $name:ident, $path:literal, $verb:ident;)*) => {$(
        $(#[doc = $doc])+
        #[utoipa::path(post, path = $path, tag = "vms", security(("token" = ["operator"])),
            params(("vm" = String, Path, description = "Its name or id"), Wait), request_body = Close, responses(
            (status = 202, description = "It is being done", body = Task),
            (status = 200, description = "The task has ended", body = Task),
            (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
        pub async fn $name(
            State(host): State<Arc<Host>>,
            Operator(identity): Operator,
            Path(vm): Path<String>,
            Query(wait): Query<Wait>,
            Body(close): Body<Close>,
        ) -> Result<Response> {
            do_verb(host, identity, &vm, Verb::$verb, &wait, close).await
        }
    )*};
}

verbs! {
    /// Starts a guest. One that is suspended goes on where it was.
    start, "/vms/{vm}/start", Start;
    /// Pulls a guest's plug. Where one was that is suspended is forgotten.
    stop, "/vms/{vm}/stop", Stop;
    /// Presses a guest's reset button.
    reset, "/vms/{vm}/reset", Reset;
    /// Has a guest stand still.
    pause, "/vms/{vm}/pause", Pause;
    /// Has a paused or suspended guest go on.
    resume, "/vms/{vm}/resume", Resume;
}

/// Writes a guest to storage: it takes neither processors nor memory then, and goes on where it was by `start` or `resume`, after a start
/// of the host, too.
#[utoipa::path(post, path = "/vms/{vm}/suspend", tag = "vms", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "Its name or id"), Wait), responses(
    (status = 202, description = "It is being done", body = Task), (status = 200, description = "The task has ended", body = Task),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn suspend(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path(vm): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    check(&wait)?;
    let (vm, _) = host.supervisor.find(&vm).await?;
    let new = new_task("vm.suspend", vm.id, vm.definition.name.as_str(), &identity);
    let (doing, actor) = (Arc::clone(&host), identity.actor);
    let work = move |work| async move {
        let progress = Arc::new(crate::daemon::TaskProgress::new(work));
        doing.supervisor.suspend(vm.id, &actor, progress).await?;
        let (vm, _) = doing.supervisor.find(&vm.id.to_string()).await?;
        told(vm)
    };
    let task = host.tasks.begin(new, work).await?;
    accepted(&host, task, &wait).await
}

closing_verbs! {
    /// Asks a guest to power itself off.
    shutdown, "/vms/{vm}/shutdown", Shutdown;
    /// Asks a guest to power itself off, and starts it again.
    reboot, "/vms/{vm}/reboot", Reboot;
}

/// What a running guest uses.
#[utoipa::path(get, path = "/vms/{vm}/stats", tag = "vms", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "What it uses", body = Stats),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn stats(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(vm): Path<String>,
) -> Result<axum::Json<Stats>> {
    let (vm, _) = host.supervisor.find(&vm).await?;
    let stats = host.supervisor.stats(vm.id).await?;
    host.series.note(vm.id, Devices::of(&stats));
    Ok(axum::Json(stats))
}
