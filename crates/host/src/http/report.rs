//! `/host/report`: what is needed to find out what is wrong, in one file.

use std::sync::Arc;

use api::Problem;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::backup::sent;
use super::caller::Admin;
use super::error::Result;
use crate::daemon::Host;
use crate::report;

/// What is needed to find out what is wrong with this host, in one file that can be handed to others: versions, the machine, the kernel,
/// definitions, the latest tasks and events, the latest of the logs of the daemon and of guests' processes. What is secret, or looks like it,
/// is left out.
#[utoipa::path(get, path = "/host/report", tag = "host", security(("token" = ["admin"])), responses(
    (status = 200, description = "A tar archive, compressed with gzip", content_type = "application/gzip"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(host): State<Arc<Host>>, Admin(identity): Admin) -> Result<Response> {
    let mut response = sent(report::make(&host, &identity).await?)?;
    let name = HeaderValue::from_static("attachment; filename=\"tessera-report.tar.gz\"");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}
