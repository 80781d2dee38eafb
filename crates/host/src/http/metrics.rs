//! `/metrics`: OpenMetrics text.

use std::fmt::Write;
use std::sync::Arc;

use api::{AlarmDefinition, HostStats, MemoryPool, MemoryPressure, Problem, Vm, VmState, VmStats};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::caller::Viewer;
use super::error::Result;
use super::{memory as pools, scope, stats};
use crate::daemon::Host;

/// What can be measured of the host and its guests, as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "host", security(("token" = ["viewer"])), responses(
    (status = 200, description = "OpenMetrics", body = String, content_type = "application/openmetrics-text"),
    (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(host): State<Arc<Host>>, Viewer(identity): Viewer) -> Result<Response> {
    let vms = scope::guests(&host, &identity).await?;
    let stats = stats::all(&host, &vms).await;
    let alarms = host.alarms.counts(&identity).await;
    let pool = pools::pool(&host, &vms);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text(&vms, &stats, &alarms, &pool)).into_response())
}

/// The text as it grows.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A family of metrics begins: its kind, its unit, which its name ends with, and what it is.
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {help}");
    }

    /// One value. Names and what else is in `labels` hold nothing that would have to be escaped.
    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            _ => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn text(
    vms: &[Vm],
    stats: &HostStats,
    counts: &[(AlarmDefinition, [usize; 3])],
    pool: &MemoryPool,
) -> String {
    let mut text = Text::default();
    host(&mut text, vms, stats);
    alarms(&mut text, counts);
    processors(&mut text, &stats.vms);
    memory(&mut text, &stats.vms);
    pooled(&mut text, pool);
    disks(&mut text, &stats.vms);
    cards(&mut text, &stats.vms);
    text.0 + "# EOF\n"
}

fn host(text: &mut Text, vms: &[Vm], stats: &HostStats) {
    let states = [
        VmState::Stopped,
        VmState::Starting,
        VmState::Running,
        VmState::Paused,
        VmState::Stopping,
        VmState::Suspending,
        VmState::Suspended,
        VmState::Crashed,
    ];
    text.family("tessera_vms", "gauge", "", "Guests by state");
    for state in states {
        let count = vms.iter().filter(|vm| vm.status.state == state).count();
        text.value("tessera_vms", &format!("state=\"{}\"", state.word()), count);
    }
    let name = "tessera_host_cpu_seconds";
    text.family(name, "counter", "seconds", "What the host's processors have done, all together");
    for (mode, ns) in [("busy", stats.busy_ns), ("idle", stats.idle_ns), ("stolen", stats.stolen_ns)] {
        text.value("tessera_host_cpu_seconds_total", &format!("mode=\"{mode}\""), seconds(ns));
    }
    text.family("tessera_host_cpus", "gauge", "", "Processors of the host");
    text.value("tessera_host_cpus", "", stats.cpus);
    for (name, help, value) in [
        ("tessera_host_memory_bytes", "Memory of the host", stats.memory),
        ("tessera_host_memory_available_bytes", "Memory that could be given out", stats.memory_available),
        ("tessera_host_storage_bytes", "Room on the file system of the host's folder", stats.storage),
        ("tessera_host_storage_available_bytes", "What of it is free", stats.storage_available),
    ] {
        text.family(name, "gauge", "bytes", help);
        text.value(name, "", value.0);
    }
    for (name, help, value) in [
        ("tessera_host_net_received_bytes", "What the host's cards have received", stats.received_bytes),
        ("tessera_host_net_sent_bytes", "What they have sent", stats.sent_bytes),
    ] {
        text.family(name, "counter", "bytes", help);
        text.value(&format!("{name}_total"), "", value);
    }
}

fn alarms(text: &mut Text, counts: &[(AlarmDefinition, [usize; 3])]) {
    text.family("tessera_alarms", "gauge", "", "What each alarm stands for, by how far it has come");
    for (definition, states) in counts {
        for (state, count) in ["pending", "raised", "acknowledged"].into_iter().zip(states) {
            let severity = definition.severity.word();
            let labels = format!("alarm=\"{}\",severity=\"{severity}\",state=\"{state}\"", definition.name);
            text.value("tessera_alarms", &labels, count);
        }
    }
}

fn processors(text: &mut Text, vms: &[VmStats]) {
    let name = "tessera_vm_cpu_seconds";
    let help = "Where a guest's processor has spent its time: it ran, was ready and waited for the host, or had nothing to do";
    text.family(name, "counter", "seconds", help);
    for vm in vms {
        for (number, times) in vm.stats.processors.iter().enumerate() {
            let modes =
                [("run", Some(times.run_ns)), ("ready", times.ready_ns), ("wait", Some(times.wait_ns))];
            for (mode, ns) in modes {
                let Some(ns) = ns else { continue };
                let labels = format!("vm=\"{}\",cpu=\"{number}\",mode=\"{mode}\"", vm.name);
                text.value("tessera_vm_cpu_seconds_total", &labels, seconds(ns));
            }
        }
    }
    let name = "tessera_vm_process_seconds";
    text.family(name, "counter", "seconds", "Host processor time of a guest's whole process");
    for vm in vms {
        let labels = format!("vm=\"{}\"", vm.name);
        text.value("tessera_vm_process_seconds_total", &labels, seconds(vm.stats.process_time_ns));
    }
}

fn memory(text: &mut Text, vms: &[VmStats]) {
    text.family("tessera_vm_memory_bytes", "gauge", "bytes", "Memory a guest has");
    for vm in vms {
        text.value("tessera_vm_memory_bytes", &format!("vm=\"{}\"", vm.name), vm.stats.memory.0);
    }
    let help = "Memory a guest's process takes on the host";
    text.family("tessera_vm_resident_bytes", "gauge", "bytes", help);
    for vm in vms {
        text.value("tessera_vm_resident_bytes", &format!("vm=\"{}\"", vm.name), vm.stats.resident.0);
    }
    let name = "tessera_vm_memory_reported_bytes";
    text.family(
        name,
        "counter",
        "bytes",
        "Memory that a guest's system has said is free, and the host was given back",
    );
    for vm in vms {
        text.value(&format!("{name}_total"), &format!("vm=\"{}\"", vm.name), vm.stats.reported.0);
    }
}

/// The pool of memory and its paging device, if there are any.
fn pooled(text: &mut Text, pool: &MemoryPool) {
    let Some(size) = pool.size else { return };
    let mut gauge = |name: &str, help: &str, value: u64| {
        text.family(name, "gauge", "bytes", help);
        text.value(name, "", value);
    };
    gauge("tessera_host_memory_pool_bytes", "Memory that all guests have together", size.0);
    gauge("tessera_host_memory_pool_used_bytes", "What of it guests' processes take", pool.used.0);
    if let Some(merging) = &pool.merging {
        gauge(
            "tessera_host_memory_merged_bytes",
            "What guests have of equal pages that are kept once",
            merging.merged.0,
        );
        gauge("tessera_host_memory_merging_saved_bytes", "What of that takes no memory", merging.saved.0);
    }
    if let Some(compression) = &pool.compression {
        gauge("tessera_host_memory_compression_bytes", "What can be kept compressed", compression.size.0);
        gauge(
            "tessera_host_memory_compressed_bytes",
            "What of guests' memory is compressed",
            compression.used.0,
        );
        gauge(
            "tessera_host_memory_compression_taken_bytes",
            "What that takes of the pool",
            compression.taken.0,
        );
    }
    if let Some(paging) = &pool.paging {
        gauge("tessera_host_memory_paging_bytes", "Room on the paging device", paging.size.0);
        gauge("tessera_host_memory_paging_used_bytes", "What of it is in use", paging.used.0);
    }
    let flow = pool.flow.iter().flat_map(|flow| {
        [
            (
                "tessera_host_memory_paged_out_bytes",
                "What has gone out of guests' memory, compressed or paged",
                flow.out,
            ),
            (
                "tessera_host_memory_paged_back_bytes",
                "What of it has come back or is needed no more",
                flow.back,
            ),
        ]
    });
    for (name, help, value) in flow {
        text.family(name, "counter", "bytes", help);
        text.value(&format!("{name}_total"), "", value.0);
    }
    let name = "tessera_host_memory_pressure";
    text.family(name, "gauge", "", "How little of the pool is free: one of these is 1");
    for pressure in MemoryPressure::ALL {
        let state = serde_json::to_value(pressure).unwrap_or_default();
        let labels = format!("state=\"{}\"", state.as_str().unwrap_or_default());
        text.value(name, &labels, u8::from(pressure == pool.pressure));
    }
    let name = "tessera_vm_paged_bytes";
    text.family(
        name,
        "gauge",
        "bytes",
        "What of a guest's memory is on the paging device, or other swap of the host",
    );
    for guest in &pool.guests {
        text.value(name, &format!("vm=\"{}\"", guest.name), guest.now.out.0);
    }
}

/// Counters of things that a guest has several of: `pick` gives the number and the value of each.
fn counters(
    text: &mut Text,
    vms: &[VmStats],
    (name, unit, help): (&str, &str, &str),
    label: &str,
    pick: impl Fn(&VmStats) -> Vec<f64>,
) {
    text.family(name, "counter", unit, help);
    let total = format!("{name}_total");
    for vm in vms {
        for (number, value) in pick(vm).into_iter().enumerate() {
            text.value(&total, &format!("vm=\"{}\",{label}=\"{number}\"", vm.name), value);
        }
    }
}

/// A counter: its name, its unit, what it is, and where it is found.
type Counter<T> = (&'static str, &'static str, &'static str, fn(&T) -> f64);

fn disks(text: &mut Text, vms: &[VmStats]) {
    let all: [Counter<api::DiskStats>; 7] = [
        ("tessera_vm_disk_reads", "", "Reads of a guest's disk", |disk| disk.reads as f64),
        ("tessera_vm_disk_read_bytes", "bytes", "Bytes read from it", |disk| disk.read_bytes as f64),
        (
            "tessera_vm_disk_reread_bytes",
            "bytes",
            "Bytes read although it would have had them in its memory, had it had all of that for its files, by a sample",
            |disk| disk.reread_bytes as f64,
        ),
        ("tessera_vm_disk_writes", "", "Writes to it", |disk| disk.writes as f64),
        ("tessera_vm_disk_written_bytes", "bytes", "Bytes written to it", |disk| disk.written_bytes as f64),
        ("tessera_vm_disk_failures", "", "Requests that came to nothing", |disk| disk.failed as f64),
        ("tessera_vm_disk_busy_seconds", "seconds", "The time that all requests took together", |disk| {
            seconds(disk.busy_ns)
        }),
    ];
    for (name, unit, help, of) in all {
        counters(text, vms, (name, unit, help), "disk", |vm| vm.stats.disks.iter().map(of).collect());
    }
}

fn cards(text: &mut Text, vms: &[VmStats]) {
    let all: [Counter<api::NicStats>; 4] = [
        ("tessera_vm_net_received_frames", "", "Frames that came to a guest's card", |nic| {
            nic.received as f64
        }),
        ("tessera_vm_net_received_bytes", "bytes", "Bytes of them", |nic| nic.received_bytes as f64),
        ("tessera_vm_net_sent_frames", "", "Frames that the guest sent", |nic| nic.sent as f64),
        ("tessera_vm_net_sent_bytes", "bytes", "Bytes of them", |nic| nic.sent_bytes as f64),
    ];
    for (name, unit, help, of) in all {
        counters(text, vms, (name, unit, help), "nic", |vm| vm.stats.nics.iter().map(of).collect());
    }
}
