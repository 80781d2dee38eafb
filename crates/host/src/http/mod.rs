//! The REST API, `/api/v1`. Handlers say what HTTP has to do with it; what is done is done elsewhere.

mod agent;
mod alarms;
mod audit;
mod backup;
mod bytes;
mod caller;
mod console;
mod description;
mod devices;
mod error;
mod events;
mod guard;
mod guest_backups;
mod history;
mod host;
mod images;
mod input;
mod keys;
mod lists;
mod log;
mod memory;
mod metrics;
mod networks;
mod page;
mod pools;
mod repeats;
mod report;
mod schedules;
mod scope;
pub mod serve;
mod session;
mod share;
mod share_groups;
mod sites;
mod snapshots;
mod stats;
mod tasks;
mod templates;
mod tokens;
mod uploads;
mod users;
mod vms;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::daemon::Host;
use error::Error;

/// The longest that a request may wait for a task.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long the next part of a body may take.
const SLOWEST_BODY: Duration = Duration::from_secs(30);

/// The longest body of a request, bytes.
const LONGEST_BODY: usize = 1 << 20;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tessera",
        description = "One machine's guests, images and what happens to them. Every change is a task; units are bytes, \
            nanoseconds and RFC 3339 times; errors are RFC 9457 problems that name the field.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    security(("token" = [])),
)]
struct Description;

/// All paths, and what describes them.
fn described() -> (Router<Arc<Host>>, utoipa::openapi::OpenApi) {
    let mut description = Description::openapi();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of this host. On its Unix socket and loopback address, root needs none. A browser shows the cookie of POST /session in its place."))
        .build();
    description
        .components
        .get_or_insert_default()
        .security_schemes
        .insert("token".into(), SecurityScheme::Http(scheme).into());
    let v1 = OpenApiRouter::new()
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::get, vms::edit, vms::delete))
        .routes(routes!(devices::add_disk))
        .routes(routes!(devices::edit_disk, devices::remove_disk))
        .routes(routes!(devices::grow_disk))
        .routes(routes!(devices::add_nic))
        .routes(routes!(devices::edit_nic, devices::remove_nic))
        .routes(routes!(vms::clone))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::get, snapshots::edit, snapshots::delete))
        .routes(routes!(snapshots::revert))
        .routes(routes!(snapshots::download))
        .routes(routes!(guest_backups::of_guest, guest_backups::create))
        .routes(routes!(guest_backups::list))
        .routes(routes!(guest_backups::get, guest_backups::delete))
        .routes(routes!(guest_backups::verify))
        .routes(routes!(guest_backups::restore))
        .routes(routes!(schedules::list, schedules::create))
        .routes(routes!(schedules::get, schedules::edit, schedules::delete))
        .routes(routes!(vms::start))
        .routes(routes!(vms::shutdown))
        .routes(routes!(vms::stop))
        .routes(routes!(vms::reboot))
        .routes(routes!(vms::reset))
        .routes(routes!(vms::pause))
        .routes(routes!(vms::resume))
        .routes(routes!(vms::suspend))
        .routes(routes!(vms::stats))
        .routes(routes!(share::of_guest))
        .routes(routes!(memory::show))
        .routes(routes!(share_groups::list, share_groups::create))
        .routes(routes!(share_groups::get, share_groups::edit, share_groups::delete))
        .routes(routes!(history::of_guest))
        .routes(routes!(history::of_processor))
        .routes(routes!(history::receipts))
        .routes(routes!(agent::get))
        .routes(routes!(agent::exec))
        .routes(routes!(agent::password))
        .routes(routes!(console::connect))
        .routes(routes!(console::log))
        .routes(routes!(keys::send))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::get, tasks::cancel))
        .routes(routes!(events::list))
        .routes(routes!(watch::watch))
        .routes(routes!(host::get))
        .routes(routes!(log::get))
        .routes(routes!(history::of_host))
        .routes(routes!(backup::make))
        .routes(routes!(report::get))
        .routes(routes!(stats::get))
        .routes(routes!(images::list, images::create))
        .routes(routes!(images::get, images::edit, images::delete))
        .routes(routes!(images::download))
        .routes(routes!(uploads::list))
        .routes(routes!(uploads::get, uploads::send, uploads::delete))
        .routes(routes!(uploads::restore))
        .routes(routes!(networks::list, networks::create))
        .routes(routes!(networks::get, networks::edit, networks::delete))
        .routes(routes!(networks::leases))
        .routes(routes!(pools::list, pools::create))
        .routes(routes!(pools::get, pools::edit, pools::delete))
        .routes(routes!(pools::volumes, pools::create_volume))
        .routes(routes!(pools::get_volume, pools::delete_volume))
        .routes(routes!(pools::resize))
        .routes(routes!(pools::convert))
        .routes(routes!(pools::wipe))
        .routes(routes!(pools::upload, pools::download))
        .routes(routes!(pools::uploaded))
        .routes(routes!(templates::list, templates::create))
        .routes(routes!(templates::get, templates::replace, templates::delete))
        .routes(routes!(alarms::list, alarms::create))
        .routes(routes!(alarms::get, alarms::edit, alarms::delete))
        .routes(routes!(alarms::acknowledge))
        .routes(routes!(alarms::test))
        .routes(routes!(sites::list))
        .routes(routes!(sites::get, sites::put, sites::delete).layer(DefaultBodyLimit::max(sites::LONGEST)))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::delete))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::get, users::edit, users::delete))
        .routes(routes!(session::get, session::log_in, session::log_out))
        .routes(routes!(session::password))
        .routes(routes!(session::link))
        .routes(routes!(audit::list));
    let (router, mut description) = OpenApiRouter::with_openapi(description)
        .nest("/api/v1", v1)
        .routes(routes!(metrics::get))
        .split_for_parts();
    repeats::describe(&mut description);
    description::finish(&mut description);
    (router, description)
}

/// The description of the API: OpenAPI 3.1.
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().1
}

/// Everything that the daemon serves.
pub fn router(host: Arc<Host>) -> Router {
    let (router, description) = described();
    // Written once: it is long, and anybody may ask for it.
    let described = description.to_json().map(Bytes::from).map_err(|error| error.to_string());
    let ready = Arc::clone(&host);
    router
        .route("/api/v1/openapi.json", get(move || openapi_json(described)))
        .route(crate::access::LINK_PATH, get(session::open))
        .route("/ca.pem", get(host::authority))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || host::ready(ready)))
        .fallback(page::get)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&host), repeats::once))
        .layer(RequestBodyTimeoutLayer::new(SLOWEST_BODY))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&host), audit::record))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&host), caller::identify))
        .layer(axum::middleware::from_fn(guard::check))
        .layer(
            CompressionLayer::new().compress_when(
                // A stream must not wait until a block of the compression is full, and files keep the length by which one sees that all of
                // them has come.
                SizeAbove::new(1024)
                    .and(NotForContentType::const_new("text/event-stream"))
                    .and(NotForContentType::const_new("application/octet-stream"))
                    .and(NotForContentType::const_new("application/x-tar"))
                    .and(NotForContentType::const_new("application/gzip")),
            ),
        )
        .layer(CatchPanicLayer::custom(|_| {
            Error(api::Problem::internal("a fault in the daemon; its log says more")).into_response()
        }))
        .with_state(host)
}

async fn openapi_json(described: Result<Bytes, String>) -> Response {
    match described {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => Error(api::Problem::internal(error)).into_response(),
    }
}

async fn nothing(uri: axum::http::Uri) -> Error {
    let path: String = uri.path().chars().take(200).collect();
    Error(api::Problem::not_found(format!(
        "there is nothing at {path}; /api/v1/openapi.json says what there is"
    )))
}

async fn wrong_method() -> Error {
    let detail = "this path does not take this method; /api/v1/openapi.json says what there is";
    Error(api::Problem::new(405, "Method not allowed", detail))
}
