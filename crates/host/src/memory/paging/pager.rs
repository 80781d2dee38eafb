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
/// The most that is paged out at a time, bytes, and of how many guests: a slow device must not keep balloons waiting for long.
const MOST: u64 = 128 << 20;
const MOST_GUESTS: usize = 8;
/// Less than this of a guest, bytes, is not worth looking through its memory.
const LEAST: u64 = 1 << 20;
/// So long after paging has failed guests are given no more than they have, before it is tried again whether they could have it.
const PATIENCE: Duration = Duration::from_secs(60);
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
    /// Gives how many bytes have gone.
    fn take(&mut self, seconds: f64, order: &Order) -> io::Result<u64> {
        if self.laid.is_none_or(|laid| laid.elapsed() > LAY) {
            let layout = self.process.layout()?;
            self.hand.lay(&layout.areas);
            (self.besides, self.laid) = (layout.besides, Some(Instant::now()));
        }
        let has = own_memory(order.pid).ok_or(io::ErrorKind::NotFound)?.saturating_sub(self.besides);
        let bytes = order.bytes.min(has.saturating_sub(order.least));
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
    /// When paging failed last, if it did since it has worked.
    failed: Option<Instant>,
    totals: Totals,
    /// What the last look saw, and what a second brought until then.
    seen: (Instant, Totals),
    rates: Totals,
}

impl Pager {
    /// For devices in use, if there are any.
    pub fn new(compression: Option<Device>, paging: Option<Device>) -> Option<Self> {
        let any = compression.is_some() || paging.is_some();
        any.then(|| Self::of(compression, paging))
    }

    fn of(compression: Option<Device>, paging: Option<Device>) -> Self {
        let (now, none) = (Instant::now(), Totals::default());
        Self {
            compression,
            paging,
            begun: now,
            guests: HashMap::new(),
            flows: HashMap::new(),
            failed: None,
            totals: none,
            seen: (now, none),
            rates: none,
        }
    }

    fn devices(&self) -> impl Iterator<Item = &Device> {
        self.compression.iter().chain(&self.paging)
    }

    /// Does what is ordered, for some guests at once and as much as is quick: the rest is ordered again. Gives whether it has got on, which it has
    /// if half of that has gone.
    pub async fn page_out(&mut self, orders: Vec<Order>) -> bool {
        let seconds = self.begun.elapsed().as_secs_f64();
        let (mut works, mut ordered, mut went, mut failed) = (Vec::new(), 0, 0, None);
        for order in bounded(orders) {
            ordered += order.bytes;
            let known = self.guests.remove(&order.id).filter(|guest| guest.process.pid() == order.pid);
            works.push(spawn_blocking(move || work(known, seconds, &order).map(|done| (order, done))));
        }
        for work in works {
            match work.await {
                Ok(Ok((order, (guest, bytes)))) => {
                    self.see(order.id, order.pid, out_of_memory(order.pid).unwrap_or(0));
                    self.guests.insert(order.id, guest);
                    went += bytes;
                }
                // It is another one's process now.
                Ok(Err(error)) if has_ended(&error) => tracing::debug!("a guest is not paged: {error}"),
                Ok(Err(error)) => failed = Some(error),
                Err(error) => failed = Some(io::Error::other(error)),
            }
        }
        self.note(went, failed);
        went > 0 && went >= ordered / 2
    }

    /// Takes in how it went. What lasts is said once.
    fn note(&mut self, went: u64, failed: Option<io::Error>) {
        let Some(error) = failed else {
            if went > 0 && self.failed.take().is_some() {
                tracing::info!("guests are paged again");
            }
            return;
        };
        if self.failed.replace(Instant::now()).is_none() {
            tracing::warn!("guests cannot be paged, and have no more than fits into the pool: {error}");
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

    /// What there is for guests' memory out of memory, all together, bytes: what is there now, and what is free, unless nothing goes there any more.
    pub fn room(&self) -> u64 {
        let out: u64 = self.flows.values().map(|flow| flow.now).sum();
        let fails = self.failed.is_some_and(|failed| failed.elapsed() < PATIENCE);
        out + if fails { 0 } else { self.free() }
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

/// What of some orders is done at a time: of those from whom most is to go, the same part of each.
fn bounded(mut orders: Vec<Order>) -> Vec<Order> {
    orders.sort_by_key(|order| std::cmp::Reverse(order.bytes));
    orders.truncate(MOST_GUESTS);
    let all: u64 = orders.iter().map(|order| order.bytes).sum();
    let part = (MOST as f64 / all.max(1) as f64).min(1.0);
    for (at, order) in orders.iter_mut().enumerate() {
        // Of many small ones the first gives for all, and another one the next time.
        let least = if at == 0 { LEAST } else { 0 };
        order.bytes = ((order.bytes as f64 * part) as u64).max(least);
    }
    orders.retain(|order| order.bytes >= LEAST);
    orders
}

/// Whether a process is not there any more.
fn has_ended(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(libc::ESRCH)
}

fn work(known: Option<Guest>, seconds: f64, order: &Order) -> io::Result<(Guest, u64)> {
    let open = || {
        let process = Process::open(order.pid)?;
        Ok::<_, io::Error>(Guest { process, hand: Hand::default(), besides: 0, laid: None })
    };
    let mut guest = known.map_or_else(open, Ok)?;
    let bytes = guest.take(seconds, order)?;
    Ok((guest, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_done_at_a_time_as_is_quick() {
        let orders = |mib: &[u64]| {
            let order = |bytes: &u64| Order { id: Id::new(), pid: 1, bytes: bytes << 10, least: 0 };
            bounded(mib.iter().map(order).collect()).iter().map(|order| order.bytes >> 10).collect::<Vec<_>>()
        };
        assert_eq!(orders(&[2000, 500, 4000]), [4000, 2000]);
        assert_eq!(orders(&[3; 100]), [1024], "of many small ones one gives");
        assert_eq!(orders(&[100 << 10, 300 << 10]), [96 << 10, 32 << 10]);
        assert_eq!(orders(&[1 << 20; 20]), [16 << 10; 8]);
        assert!(orders(&[]).is_empty());
    }

    #[test]
    fn what_fails_leaves_no_room_for_more_until_it_works_again() {
        assert!(Pager::new(None, None).is_none());
        let mut pager = Pager::of(None, None);
        pager.see(Id::new(), 1, 77);
        pager.note(0, Some(io::ErrorKind::PermissionDenied.into()));
        assert!(pager.failed.is_some());
        assert_eq!(pager.room(), 77);
        pager.note(0, None);
        assert!(pager.failed.is_some(), "nobody has tried");
        pager.note(4096, None);
        assert!(pager.failed.is_none());
        let error = |number| io::Error::from_raw_os_error(number);
        assert!(has_ended(&error(libc::ESRCH)) && has_ended(&error(libc::ENOENT)));
        assert!([libc::EPERM, libc::ENOSYS, libc::EMFILE].iter().all(|number| !has_ended(&error(*number))));
    }

    #[test]
    fn what_goes_and_what_comes_is_counted_apart() {
        let (mut totals, mut flow) = (Totals::default(), Flow::default());
        for now in [10, 30, 5, 5, 25] {
            totals.see(&mut flow, now);
        }
        assert_eq!(totals, Totals { out: 50, back: 25 });
    }
}
