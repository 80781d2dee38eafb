//! How much a machine's disks and cards may do: said when they come, and changed by `limit` while the guest runs; and by `places` with whom
//! they share what is allowed.

use serde_json::{Value, json};

use super::guest::Guest;
use super::protocol::{LimitSpec, PlacesSpec, Refusal, code};
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
    /// Has devices share what is allowed on storage pools and networks. Those that are not named have nothing to share; names of devices
    /// that are not there mean nothing: they may be about to come.
    pub(super) fn place(&mut self, spec: &PlacesSpec) -> Result<Value, Refusal> {
        self.machine()?;
        let mut of = |name: &str| self.allowances.of(name);
        for (device, limiter) in &self.limiters.disks {
            limiter.share(spec.disks.get(device).and_then(|place| of(place)));
        }
        for (device, limiter) in &self.limiters.cards {
            let mut way = |way: &str| spec.nets.get(device).and_then(|place| of(&format!("{place}/{way}")));
            let (receive, send) = (way("receive"), way("send"));
            limiter.share(receive, send);
        }
        Ok(json!({}))
    }

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
