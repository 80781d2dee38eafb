//! `/vms/{vm}/keys`: what is typed on a guest's serial console by somebody who does not sit at it.

use std::sync::Arc;

use api::{Problem, SendKeys};
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::caller::Operator;
use super::error::Result;
use super::input::Body;
use crate::daemon::Host;

/// Types keys on the serial console of a guest that runs, all or none of them.
#[utoipa::path(post, path = "/vms/{vm}/keys", tag = "vms", security(("token" = ["operator"])),
    params(("vm" = String, Path, description = "Its name or id")), request_body = SendKeys, responses(
    (status = 204, description = "They are typed"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn send(
    State(host): State<Arc<Host>>,
    Operator(identity): Operator,
    Path(vm): Path<String>,
    Body(keys): Body<SendKeys>,
) -> Result<StatusCode> {
    let typed = keys.read().map_err(Problem::invalid)?;
    let (vm, _) = host.supervisor.find(&vm).await?;
    host.supervisor.send_keys(vm.id, typed, &identity.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
