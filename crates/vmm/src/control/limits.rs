//! How much a machine's disks and cards may do: said when they come, and changed by `limit` while the guest runs.

use serde_json::{Value, json};

use super::guest::Guest;
use super::protocol::{LimitSpec, Refusal, code};
use crate::virtio::block::{self, Block, DiskLimits};
use crate::virtio::net::{self, Net, NetLimits};

/// What changes the limits of a machine's devices, by their names.
#[derive(Default)]
pub(super) struct Limiters {
    disks: Vec<(String, block::Limiter)>,
    cards: Vec<(String, net::Limiter)>,
}

/// What is wrong with a field's limits, which say where in them.
fn wrong(field: &str) -> impl Fn(String) -> Refusal {
    move |why| Refusal::new(code::PARAMS, format!("{field}.{why}"))
}

/// Limits `disk`, which `field` says.
pub(super) fn limit_disk(field: &str, disk: &Block, limits: &DiskLimits) -> Result<(), Refusal> {
    limits.check().map_err(wrong(field))?;
    disk.limiter().set(limits);
    Ok(())
}

/// Limits `card`, which `field` says.
pub(super) fn limit_card(field: &str, card: &Net, limits: &NetLimits) -> Result<(), Refusal> {
    limits.check().map_err(wrong(field))?;
    card.limiter().set(limits);
    Ok(())
}

fn find<'a, T>(what: &str, list: &'a [(String, T)], name: &str) -> Result<&'a T, Refusal> {
    let found = list.iter().find(|(device, _)| device == name).map(|(_, limiter)| limiter);
    found.ok_or_else(|| Refusal::new(code::PARAMS, format!("name: there is no {what} {name}")))
}

impl Limiters {
    pub fn disk(&mut self, name: &str, disk: &Block) {
        self.disks.push((name.into(), disk.limiter()));
    }

    pub fn card(&mut self, name: &str, card: &Net) {
        self.cards.push((name.into(), card.limiter()));
    }

    /// A device that is not there any more.
    pub fn forget(&mut self, name: &str) {
        self.disks.retain(|(disk, _)| disk != name);
        self.cards.retain(|(card, _)| card != name);
    }
}

impl Guest {
    /// Has a device do no more than so much from now on.
    pub(super) fn limit(&mut self, spec: &LimitSpec) -> Result<Value, Refusal> {
        self.machine()?;
        match (&spec.disk, &spec.net) {
            (Some(limits), None) => {
                limits.check().map_err(wrong("disk"))?;
                find("disk", &self.limiters.disks, &spec.name)?.set(limits);
            }
            (None, Some(limits)) => {
                limits.check().map_err(wrong("net"))?;
                find("network card", &self.limiters.cards, &spec.name)?.set(limits);
            }
            _ => return Err(Refusal::new(code::PARAMS, "give the limits of a disk or of a net")),
        }
        Ok(json!({}))
    }
}
