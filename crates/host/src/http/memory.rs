//! `/memory`.

use std::sync::Arc;

use api::{MemoryOfGuest, MemoryPool, Problem};
use axum::extract::State;

use super::caller::Viewer;
use super::error::Result;
use super::scope;
use crate::daemon::Host;

/// The host's pool of memory, and what each guest that runs has of it.
#[utoipa::path(get, path = "/memory", tag = "host", security(("token" = ["viewer"])), responses(
    (status = 200, description = "The pool", body = MemoryPool),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn show(State(host): State<Arc<Host>>, Viewer(identity): Viewer) -> Result<axum::Json<MemoryPool>> {
    let vms = scope::guests(&host, &identity).await?;
    Ok(axum::Json(pool(&host, &vms)))
}

/// The pool as it was seen last, with those of `vms` that run.
pub fn pool(host: &Host, vms: &[api::Vm]) -> MemoryPool {
    let seen = host.memory.seen();
    let told = |vm: &api::Vm| {
        let now = *seen.guests.get(&vm.id)?;
        let (name, promised) = (vm.definition.name.clone(), vm.definition.memory_share);
        Some(MemoryOfGuest { id: vm.id, name, promised, now })
    };
    let mut guests: Vec<_> = vms.iter().filter_map(told).collect();
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    let shares = host.supervisor.shares();
    MemoryPool {
        size: shares.pool(),
        reserved: shares.memory_reserved(),
        used: seen.used,
        pressure: seen.pressure,
        merging: seen.merging,
        compression: seen.compression,
        paging: seen.paging,
        flow: seen.flow,
        guests,
    }
}
