//! What is needed to find out what is wrong with a host, in one file that can be handed to others: a tar archive, compressed with gzip.
//!
//! ```text
//! report.json          what it is, of which host, and what was left out
//! host.json            the machine: its processors, memory, disks, network cards, and the daemon's version
//! kernel.json          what the kernel says of itself and of virtualization
//! vms.json …           guests, templates, networks, pools, images as the host knows them
//! tasks.json           the latest tasks
//! events.json          the latest events
//! log/host.log         what the daemon said last
//! log/vms/NAME-ID.log  what each guest's process said last
//! ```
//!
//! Nothing of users, tokens, sessions, keys and certificates is in it, nor what guests write or hold. What else could be a secret is taken
//! out: see [`secrets`].

mod kernel;
mod secrets;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use api::{Problem, Template, Time, Vm};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Value, json};

use crate::access::Identity;
use crate::daemon::Host;
use crate::images::TEMPLATES;
use crate::store::StoreError;
use crate::supervisor::{storage_problem, store_problem};
use crate::{events, log, machine, records, snapshots};

/// The layout of the archive.
const FORMAT: u32 = 1;
/// How many of the latest tasks, events and lines of the daemon's log are in it.
const TASKS: usize = 1000;
const EVENTS: usize = 5000;
const LINES: usize = log::MOST;
/// How much of what a guest's process said is in it, bytes.
const PROCESS_LOG: u64 = 64 << 10;

/// What is in the archive: names, and what is there.
type Parts = Vec<(String, Vec<u8>)>;

/// Writes a report into a file without a name, from which it can be read. `identity` asks for it.
///
/// # Errors
/// If something cannot be read, or there is no room in the state's folder.
pub async fn make(host: &Host, identity: &Identity) -> Result<File, Problem> {
    let (vms, _) = records::list(&*host.store).await.map_err(store_problem)?;
    let vms: Vec<Vm> = vms.into_iter().map(|(record, _)| record.vm).collect();
    let mut parts = known(host, &vms, identity).await?;
    let paths = host.paths.clone();
    let written = tokio::task::spawn_blocking(move || {
        parts.push(json_part("kernel", &kernel::facts())?);
        let lines = log::tail(&paths.log(), LINES)?;
        parts.push(text_part("log/host.log".into(), &lines.join("\n")));
        for vm in vms {
            if let Some(text) = end_of(&paths.process_log(vm.id))? {
                parts.push(text_part(format!("log/vms/{}-{}.log", vm.definition.name, vm.id), &text));
            }
        }
        write(paths.state(), &parts)
    });
    let failed = |error: io::Error| Problem::internal(format!("the report cannot be made: {error}"));
    written.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
}

/// What the daemon knows of itself, the machine and what is on it.
async fn known(host: &Host, vms: &[Vm], identity: &Identity) -> Result<Parts, Problem> {
    let about = json!({
        "format": FORMAT,
        "version": env!("CARGO_PKG_VERSION"),
        "host": host.id,
        "name": machine::host_name(),
        "created": Time::now(),
        "left_out": "users, tokens, sessions, keys and certificates; cloud-init's data and keys; what guests write; whatever else looks like \
            a secret",
    });
    let mut snapshots = Vec::new();
    for vm in vms {
        let kept = snapshots::list(&*host.store, vm.id).await.map_err(store_problem)?;
        snapshots.extend(kept.into_iter().map(|kept| json!({ "vm": vm.id, "snapshot": kept.snapshot })));
    }
    let (templates, _) = host.store.list(TEMPLATES).await.map_err(store_problem)?;
    let templates = templates.iter().map(|entry| serde_json::from_slice::<Template>(&entry.value));
    let templates =
        templates.collect::<Result<Vec<_>, _>>().map_err(StoreError::from).map_err(store_problem)?;
    let images = std::sync::Arc::clone(host.supervisor.images());
    let images = tokio::task::spawn_blocking(move || images.list()).await;
    let images = images.map_err(|error| Problem::internal(error.to_string()))?.map_err(storage_problem)?;
    let images: Vec<_> = images.iter().map(storage::images::Image::info).collect();
    let (mut tasks, _) = host.tasks.list().await.map_err(store_problem)?;
    tasks.sort_by_key(|task| task.created);
    let (events, _) = events::since(&*host.store, 0).await.map_err(store_problem)?;
    let info = host.info().await.map_err(store_problem)?;
    let parts = [
        json_part("report", &about),
        json_part("host", &info),
        json_part("vms", &vms),
        json_part("templates", &templates),
        json_part("alarms", &host.alarms.list(identity).await),
        json_part("snapshots", &snapshots),
        json_part("networks", &host.supervisor.wires().list().await),
        json_part("pools", &host.supervisor.pools().list()),
        json_part("images", &images),
        json_part("tasks", &latest(&tasks, TASKS)),
        json_part("events", &latest(&events, EVENTS)),
    ];
    parts.into_iter().collect::<io::Result<_>>().map_err(|error| Problem::internal(error.to_string()))
}

fn latest<T>(all: &[T], most: usize) -> &[T] {
    &all[all.len().saturating_sub(most)..]
}

fn json_part(name: &str, what: &impl Serialize) -> io::Result<(String, Vec<u8>)> {
    let mut value: Value = serde_json::to_value(what)?;
    secrets::remove(&mut value);
    Ok((format!("{name}.json"), serde_json::to_vec_pretty(&value)?))
}

fn text_part(name: String, text: &str) -> (String, Vec<u8>) {
    (name, secrets::cleaned(text).into_owned().into_bytes())
}

/// The last lines of a file; none if it is not there.
fn end_of(path: &Path) -> io::Result<Option<String>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let from = file.metadata()?.len().saturating_sub(PROCESS_LOG);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    file.take(PROCESS_LOG).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // What is left of a line could be what is left of a secret.
    let whole = if from == 0 { &*text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok(Some(whole.to_owned()))
}

fn write(state: &Path, parts: &Parts) -> io::Result<File> {
    let archive = tempfile::tempfile_in(state)?;
    let mut tar = tar::Builder::new(GzEncoder::new(archive, Compression::default()));
    for (name, bytes) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, &bytes[..])?;
    }
    let mut archive = tar.into_inner()?.finish()?;
    archive.rewind()?;
    Ok(archive)
}
