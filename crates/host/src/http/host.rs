//! `/host`: the machine.

use std::sync::Arc;

use api::{HostInfo, Problem};
use axum::extract::State;
use axum::http::StatusCode;

use super::caller::Viewer;
use super::error::Result;
use crate::daemon::Host;

/// What the machine has, and what of it is in use.
#[utoipa::path(get, path = "/host", tag = "host", security(("token" = ["viewer"])), responses(
    (status = 200, description = "The machine", body = HostInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(host): State<Arc<Host>>, Viewer(identity): Viewer) -> Result<axum::Json<HostInfo>> {
    let mut info = host.info().await?;
    if identity.is_bound() {
        (info.disks, info.nics) = (Vec::new(), Vec::new());
    }
    Ok(axum::Json(info))
}

/// Whether requests can be served: whether the store can be read.
pub async fn ready(host: Arc<Host>) -> (StatusCode, &'static str) {
    match host.store.list("revision-only/").await {
        Ok(_) => (StatusCode::OK, "ready\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store cannot be read\n"),
    }
}

/// The certificate of the host's authority. Whoever trusts it trusts this host: it is good for something only where it came by a way that
/// is trusted.
pub async fn authority(State(host): State<Arc<Host>>) -> impl axum::response::IntoResponse {
    let kind = [(axum::http::header::CONTENT_TYPE, "application/x-pem-file")];
    (kind, host.certificates.authority().to_owned())
}
