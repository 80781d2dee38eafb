//! `/stats`.

use std::sync::Arc;

use api::{HostStats, Problem, Time, Vm};
use axum::extract::State;

use super::caller::Viewer;
use super::error::Result;
use super::scope;
use crate::daemon::Host;
use crate::machine;
use crate::series::Devices;

/// What the host and all guests that run use, at once. A guest that does not answer within half a second is left out.
#[utoipa::path(get, path = "/stats", tag = "host", security(("token" = ["viewer"])), responses(
    (status = 200, description = "What they use", body = HostStats),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(host): State<Arc<Host>>, Viewer(identity): Viewer) -> Result<axum::Json<HostStats>> {
    let vms = scope::guests(&host, &identity).await?;
    Ok(axum::Json(all(&host, &vms).await))
}

/// What the host uses, and those of `vms` that run.
pub async fn all(host: &Host, vms: &[Vm]) -> HostStats {
    let vms = host.supervisor.all_stats(vms.iter()).await;
    let (memory, memory_available) = machine::memory();
    let (storage, storage_available) = machine::storage(host.paths.state());
    for vm in &vms {
        host.series.note(vm.id, Devices::of(&vm.stats));
    }
    let (times, traffic) = (machine::times(), machine::traffic());
    HostStats {
        time: Time::now(),
        cpus: machine::cpus(),
        busy_ns: times.busy,
        idle_ns: times.idle,
        stolen_ns: times.stolen,
        memory,
        memory_available,
        storage,
        storage_available,
        received_bytes: traffic.received,
        sent_bytes: traffic.sent,
        vms,
        sums: Vec::new(),
    }
}
