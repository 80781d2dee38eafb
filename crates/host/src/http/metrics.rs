//! `/metrics`: OpenMetrics text.

use std::fmt::Write;
use std::sync::Arc;

use api::{Problem, Vm, VmState};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::caller::Viewer;
use super::error::Result;
use crate::daemon::Host;
use crate::records;

/// What can be measured of the host and its guests, as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "host", security(("token" = ["viewer"])), responses(
    (status = 200, description = "OpenMetrics", body = String, content_type = "application/openmetrics-text"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(host): State<Arc<Host>>, _: Viewer) -> Result<Response> {
    let (records, _) = records::list(&*host.store).await?;
    let vms: Vec<_> = records.into_iter().map(|(record, _)| record.vm).collect();
    let mut all = Vec::with_capacity(vms.len());
    for vm in vms {
        let alive = vm.status.state.is_alive();
        let stats = if alive { host.supervisor.stats(vm.id).await.ok() } else { None };
        all.push((vm, stats));
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text(&all)).into_response())
}

/// The text. Names are labels: they hold nothing that would have to be escaped.
fn text(vms: &[(Vm, Option<api::Stats>)]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, unit: &str, help: &str, lines: Vec<String>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(text, "# HELP {name} {help}");
        lines.into_iter().for_each(|line| text += &line);
    };
    let states = [
        VmState::Stopped,
        VmState::Starting,
        VmState::Running,
        VmState::Paused,
        VmState::Stopping,
        VmState::Crashed,
    ];
    let count = |state: VmState| vms.iter().filter(|(vm, _)| vm.status.state == state).count();
    let lines = states.map(|state| format!("tessera_vms{{state=\"{}\"}} {}\n", state.word(), count(state)));
    family("tessera_vms", "gauge", "", "Guests by state", lines.into());
    let each = |make: &dyn Fn(&Vm, &api::Stats) -> String| -> Vec<String> {
        vms.iter().filter_map(|(vm, stats)| Some(make(vm, stats.as_ref()?))).collect()
    };
    let lines = each(&|vm, stats| {
        let mut lines = String::new();
        for (number, ns) in stats.cpu_time_ns.iter().enumerate() {
            let name = &vm.definition.name;
            let seconds = *ns as f64 / 1e9;
            let _ =
                writeln!(lines, "tessera_vm_cpu_seconds_total{{vm=\"{name}\",cpu=\"{number}\"}} {seconds}");
        }
        lines
    });
    family(
        "tessera_vm_cpu_seconds",
        "counter",
        "seconds",
        "Host processor time a guest's processor has used",
        lines,
    );
    let lines = each(&|vm, stats| {
        format!("tessera_vm_memory_bytes{{vm=\"{}\"}} {}\n", vm.definition.name, stats.memory.0)
    });
    family("tessera_vm_memory_bytes", "gauge", "bytes", "Memory a guest has", lines);
    let lines = each(&|vm, stats| {
        format!("tessera_vm_resident_bytes{{vm=\"{}\"}} {}\n", vm.definition.name, stats.resident.0)
    });
    family(
        "tessera_vm_resident_bytes",
        "gauge",
        "bytes",
        "Memory a guest's process takes on the host",
        lines,
    );
    text + "# EOF\n"
}
