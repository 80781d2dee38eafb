//! Has guests' pages go to the paging device, and counts what comes and goes.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use api::{Id, MemoryCompression, MemoryFlow, MemoryPaging, Size};
use tokio::task::spawn_blocking;

use super::active::Active;
use super::device::Device;
use super::hand::Hand;
use super::process::{Process, out_of_memory};
use crate::supervisor::usage::own_memory;

/// How often it is looked whether a process has more memory than it had.
const LAY: Duration = Duration::from_secs(30);
/// The most that is paged out of a guest at a time, bytes: a slow device must not keep balloons waiting for long.
const MOST: u64 = 256 << 20;
/// The part of the device that is kept free: what has to go there is never known to the byte.
const SPARE: u64 = 16;

/// What is to be paged out of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Which.
    pub id: Id,
    /// Its process.
    pub pid: u32,
    /// How much.
    pub bytes: u64,
    /// What of its memory stays in memory.
    pub least: u64,
}

/// What of a process is out of memory, and what went and came until now, bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    pid: u32,
    now: u64,
}

/// What has gone to the device and come back, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    out: u64,
    back: u64,
}

impl Totals {
    fn see(&mut self, flow: &mut Flow, now: u64) {
        self.out += now.saturating_sub(flow.now);
        self.back += flow.now.saturating_sub(now);
        flow.now = now;
    }
}

/// A guest that is paged.
struct Guest {
    process: Process,
    hand: Hand,
    /// What its process has for itself.
    besides: u64,
    laid: Option<Instant>,
}

impl Guest {
    fn take(&mut self, seconds: f64, order: &Order) -> io::Result<()> {
        if self.laid.is_none_or(|laid| laid.elapsed() > LAY) {
            let layout = self.process.layout()?;
            self.hand.lay(&layout.areas);
            (self.besides, self.laid) = (layout.besides, Some(Instant::now()));
        }
        let has = own_memory(order.pid).ok_or(io::ErrorKind::NotFound)?.saturating_sub(self.besides);
        let bytes = order.bytes.min(MOST).min(has.saturating_sub(order.least));
        self.hand.take(seconds, bytes, &mut self.process)
    }
}

/// A paging device and what is known of the guests whose memory goes there.
pub struct Pager {
    /// A device in memory, and one elsewhere: one of them at least.
    compression: Option<Device>,
    paging: Option<Device>,
    begun: Instant,
    guests: HashMap<Id, Guest>,
    flows: HashMap<Id, Flow>,
    totals: Totals,
    /// What the last look saw, and what a second brought until then.
    seen: (Instant, Totals),
    rates: Totals,
}

impl Pager {
    /// For devices in use, if there are any.
    pub fn new(compression: Option<Device>, paging: Option<Device>) -> Option<Self> {
        let (now, none) = (Instant::now(), Totals::default());
        let any = compression.is_some() || paging.is_some();
        any.then(|| Self {
            compression,
            paging,
            begun: now,
            guests: HashMap::new(),
            flows: HashMap::new(),
            totals: none,
            seen: (now, none),
            rates: none,
        })
    }

    fn devices(&self) -> impl Iterator<Item = &Device> {
        self.compression.iter().chain(&self.paging)
    }

    /// Does what is ordered, for all guests at once.
    pub async fn page_out(&mut self, orders: Vec<Order>) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut works = Vec::new();
        for order in orders {
            let known = self.guests.remove(&order.id).filter(|guest| guest.process.pid() == order.pid);
            works.push(spawn_blocking(move || work(known, seconds, &order).map(|guest| (order, guest))));
        }
        for work in works {
            match work.await {
                Ok(Ok((order, guest))) => {
                    self.see(order.id, order.pid, out_of_memory(order.pid).unwrap_or(0));
                    self.guests.insert(order.id, guest);
                }
                // It has ended meanwhile, or it is another one's process now.
                Ok(Err(error)) => tracing::debug!("a guest's memory is not paged: {error}"),
                Err(error) => tracing::error!("paging failed: {error}"),
            }
        }
    }

    /// Takes in what of a guest's process is out of memory now, bytes.
    pub fn see(&mut self, id: Id, pid: u32, now: u64) {
        let flow = self.flows.entry(id).or_default();
        if flow.pid != pid {
            *flow = Flow { pid, now };
        }
        self.totals.see(flow, now);
    }

    /// Forgets who does not run any more, and counts what a second brings.
    pub fn look(&mut self, running: impl Fn(Id) -> bool) {
        self.guests.retain(|id, _| running(*id));
        self.flows.retain(|id, _| running(*id));
        let (at, before) = self.seen;
        let seconds = at.elapsed().as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| ((now - before) as f64 / seconds) as u64;
        self.rates =
            Totals { out: rate(self.totals.out, before.out), back: rate(self.totals.back, before.back) };
        self.seen = (Instant::now(), self.totals);
    }

    /// What there is for guests' memory out of memory, all together, bytes: what is there now, and what is free.
    pub fn room(&self) -> u64 {
        let out: u64 = self.flows.values().map(|flow| flow.now).sum();
        out + self.free()
    }

    /// What more can go there, bytes.
    fn free(&self) -> u64 {
        let free = |active: Active| active.size.0.saturating_sub(active.used.0 + active.size.0 / SPARE);
        self.devices().filter_map(Device::active).map(free).sum()
    }

    /// What compression takes of memory, bytes: the pool has so much less for guests.
    pub fn taken(&self) -> u64 {
        self.compression.as_ref().and_then(Device::zram).map_or(0, |zram| zram.holds().taken.0)
    }

    /// Whether there is room for more.
    pub fn has_room(&self) -> bool {
        self.free() > 0
    }

    /// How paging is, if there is a device elsewhere than in memory.
    pub fn paging(&self) -> Option<MemoryPaging> {
        let device = self.paging.as_ref()?;
        let active = device.active();
        let of = |size: fn(&Active) -> Size| active.as_ref().map(size).unwrap_or_default();
        Some(MemoryPaging {
            path: device.path().to_string_lossy().into_owned(),
            size: of(|active| active.size),
            used: of(|active| active.used),
        })
    }

    /// How compression is, if there is any.
    pub fn compression(&self) -> Option<MemoryCompression> {
        let device = self.compression.as_ref()?;
        let (size, holds) = (device.active().unwrap_or_default().size, device.zram()?.holds());
        Some(MemoryCompression { size, used: holds.plain, taken: holds.taken })
    }

    /// What has gone and come.
    pub fn flow(&self) -> MemoryFlow {
        MemoryFlow {
            out: Size(self.totals.out),
            back: Size(self.totals.back),
            out_rate: Size(self.rates.out),
            back_rate: Size(self.rates.back),
        }
    }
}

fn work(known: Option<Guest>, seconds: f64, order: &Order) -> io::Result<Guest> {
    let open = || {
        let process = Process::open(order.pid)?;
        Ok::<_, io::Error>(Guest { process, hand: Hand::default(), besides: 0, laid: None })
    };
    let mut guest = known.map_or_else(open, Ok)?;
    guest.take(seconds, order)?;
    Ok(guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_what_comes_is_counted_apart() {
        let (mut totals, mut flow) = (Totals::default(), Flow::default());
        for now in [10, 30, 5, 5, 25] {
            totals.see(&mut flow, now);
        }
        assert_eq!(totals, Totals { out: 50, back: 25 });
    }
}
