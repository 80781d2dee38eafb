//! The thread that has guests share pools and networks.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::{BandwidthFlow, Id};
use vmm::figures::now_ns;

use super::look::{Flows, Guest, Looks};
use super::rule::WINDOW;
use crate::figures::Figures;
use crate::shares::{Place, Shares, Woken};

/// How often it is looked while there is nothing to divide and nobody has a limit: somebody may want to know what guests do.
const IDLE_WINDOW: Duration = Duration::from_secs(1);

/// Changes that come together are taken together.
const TOGETHER: Duration = Duration::from_millis(2);

/// What guests do on pools and networks, for whoever wants to know.
#[derive(Debug, Default)]
pub struct Bandwidth {
    seen: Mutex<Flows>,
}

impl Bandwidth {
    /// What a guest did on a place when it was looked last, each way.
    pub fn of(&self, id: Id, place: &Place) -> Vec<BandwidthFlow> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let flows = seen.get(&id).into_iter().flatten();
        flows.filter(|(other, _)| other == place).map(|(_, flow)| *flow).collect()
    }

    fn note(&self, seen: Flows) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

/// The thread.
pub struct Keeper(JoinHandle<()>);

impl Keeper {
    /// Begins to have guests share as `shares` says; what was seen is in `bandwidth`.
    ///
    /// # Errors
    /// If there cannot be one more thread.
    pub fn begin(
        shares: Arc<Shares>,
        figures: Arc<Figures>,
        bandwidth: Arc<Bandwidth>,
    ) -> std::io::Result<Self> {
        let keep = move || keep(&shares, &figures, &bandwidth);
        std::thread::Builder::new().name("bandwidth".into()).spawn(keep).map(Self)
    }

    /// Waits for its end, which is that of what it follows ([`Shares::end`]). What it said holds for a while; then each guest has what it
    /// would have if all were busy.
    pub fn end(self) {
        // A thread that has panicked has nothing more to do.
        let _ = self.0.join();
    }
}

fn keep(shares: &Shares, figures: &Figures, bandwidth: &Bandwidth) {
    let (mut looks, mut known, mut next) = (Looks::default(), 0, Instant::now());
    loop {
        match shares.wait_besides(&mut known, next.saturating_duration_since(Instant::now())) {
            Woken::Over => return,
            Woken::News => std::thread::sleep(TOGETHER),
            Woken::Time => {}
        }
        let (places, groups, running) = (shares.places(), shares.nested(), shares.running());
        let is_limited = groups.limits_bandwidth()
            || running.iter().any(|(_, of)| of.disks.limit.is_some() || of.networks.limit.is_some());
        let guests = running.into_iter().filter_map(|(id, of)| {
            let page = figures.of(id)?;
            Some(Guest {
                id,
                page,
                disks: of.disks,
                networks: of.networks,
                places: of.places,
                group: of.group,
            })
        });
        bandwidth.note(looks.look(now_ns(), &places, &groups, &guests.collect::<Vec<_>>()));
        let idle = places.is_empty() && !is_limited;
        next = Instant::now() + if idle { IDLE_WINDOW } else { Duration::from_secs_f64(WINDOW) };
    }
}
