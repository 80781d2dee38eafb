//! `/vms/{vm}/agent`: what is done inside a guest.

use std::sync::Arc;

use api::{AgentInfo, Exec, ExecResult, GuestPassword, Problem, Vm};
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::caller::{Admin, Viewer};
use super::error::Result;
use super::input::Body;
use crate::daemon::Host;

async fn running(host: &Host, vm: &str) -> Result<Vm> {
    let (vm, _) = host.supervisor.find(vm).await?;
    let (name, state) = (&vm.definition.name, vm.status.state);
    if !state.is_alive() {
        return Err(Problem::conflict(format!(
            "{name} is {}: it has no agent that could answer",
            state.word()
        ))
        .into());
    }
    Ok(vm)
}

/// What a running guest's agent says of it.
#[utoipa::path(get, path = "/vms/{vm}/agent", tag = "vms", security(("token" = ["viewer"])),
    params(("vm" = String, Path, description = "Its name or id")), responses(
    (status = 200, description = "What it says", body = AgentInfo),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(host): State<Arc<Host>>,
    _: Viewer,
    Path(vm): Path<String>,
) -> Result<axum::Json<AgentInfo>> {
    let vm = running(&host, &vm).await?;
    Ok(axum::Json(host.supervisor.agent_info(vm.id).await?))
}

/// Runs a program in a guest and answers when it has ended. It runs with all rights there.
#[utoipa::path(post, path = "/vms/{vm}/agent/exec", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "Its name or id")), request_body = Exec, responses(
    (status = 200, description = "It has ended", body = ExecResult),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn exec(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(vm): Path<String>,
    Body(exec): Body<Exec>,
) -> Result<axum::Json<ExecResult>> {
    let wrong = exec.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    let vm = running(&host, &vm).await?;
    let result = host.supervisor.exec(vm.id, vm.definition.name.as_str(), exec, &identity.actor).await?;
    Ok(axum::Json(result))
}

/// Sets the password of an account in a guest.
#[utoipa::path(post, path = "/vms/{vm}/agent/password", tag = "vms", security(("token" = ["admin"])),
    params(("vm" = String, Path, description = "Its name or id")), request_body = GuestPassword, responses(
    (status = 204, description = "It is set"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn password(
    State(host): State<Arc<Host>>,
    Admin(identity): Admin,
    Path(vm): Path<String>,
    Body(new): Body<GuestPassword>,
) -> Result<StatusCode> {
    let wrong = new.check();
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong).into());
    }
    let vm = running(&host, &vm).await?;
    host.supervisor.set_password(vm.id, vm.definition.name.as_str(), &new, &identity.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
