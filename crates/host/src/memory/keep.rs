//! Has the balloons of all guests that run follow what is divided.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::{
    Id, MemoryCompression, MemoryFlow, MemoryMerging, MemoryNow, MemoryPaging, MemoryPressure, Problem, Size,
};
use futures_util::StreamExt;
use serde_json::json;
use share::memory::Told;
use storage::Silent;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use vmm::control::Stats;

use super::heard::Heard;
use super::merging::{self, Merged, Merging};
use super::paging::{Order, Pager, out_of_memory};
use super::turn::{Has, Looks, Turn, told};
use crate::events::Happening;
use crate::machine;
use crate::shares::Claimant;
use crate::store::{Store, StoreError, Transaction};
use crate::supervisor::Supervisor;
use crate::supervisor::usage::own_memory;

/// How often everybody is asked.
const WINDOW: Duration = Duration::from_secs(1);
/// How often it is looked whether something has to be paged: a guest can touch a lot in a second.
const PAGE_WINDOW: Duration = Duration::from_millis(200);
/// How often it is looked for guests that another host's pool has left with less than they have.
const IDLE_WINDOW: Duration = Duration::from_secs(5);
/// A guest that does not answer by then is taken to have what it had before: others must not wait for it.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many guests are asked at a time.
const AT_A_TIME: usize = 64;
/// Who suspends guests that there is no room for.
const ACTOR: &str = "the pool of memory";

/// What was seen of a pool last.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What guests' processes take.
    pub used: Size,
    /// How little is free.
    pub pressure: MemoryPressure,
    /// What is merged.
    pub merging: Option<MemoryMerging>,
    /// What is compressed.
    pub compression: Option<MemoryCompression>,
    /// Where what does not fit is paged to.
    pub paging: Option<MemoryPaging>,
    /// What has gone and come.
    pub flow: Option<MemoryFlow>,
    /// What each guest that runs has.
    pub guests: HashMap<Id, MemoryNow>,
}

/// A host's pool of memory, for whoever wants to know how it is.
#[derive(Debug, Default)]
pub struct Pool {
    seen: Mutex<Seen>,
}

impl Pool {
    /// What was seen last.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

/// What guests that run may touch beyond what they have in memory, bytes, if nobody takes or gives any more: all that they are made with, or what
/// they were seen to hold.
pub fn may_touch(supervisor: &Supervisor, pool: &Pool) -> Size {
    let seen = pool.seen();
    let beyond = |(id, claimant): (Id, Claimant)| {
        let held = seen.guests.get(&id).map_or(claimant.most_memory, |now| now.held);
        held.0.saturating_sub(claimant.pid.and_then(own_memory).unwrap_or(0))
    };
    Size(supervisor.shares().running().into_iter().map(beyond).sum())
}

/// What a host has besides balloons to keep guests to its pool.
pub struct Means {
    /// Where what does not fit goes.
    pub pager: Option<Pager>,
    /// What keeps equal pages once.
    pub merging: Option<Merging>,
}

/// Keeps a host's guests to its pool, by these means. Without a pool they get back what one before has taken of them. Never returns.
pub async fn keep(supervisor: Arc<Supervisor>, pool: Arc<Pool>, means: Means, store: Arc<dyn Store>) {
    match supervisor.shares().pool() {
        Some(size) => {
            let Means { pager, merging } = means;
            let looks = Looks::new(size.0);
            let (stays, stayed) = unbounded_channel();
            let told = Told::default();
            let keeper = Keeper { supervisor, pool, store, pager, merging, looks, told, stays, stayed };
            keeper.keep().await;
        }
        None => {
            let mut turns = every(IDLE_WINDOW);
            let mut free = HashSet::new();
            loop {
                turns.tick().await;
                give_back(&supervisor, &mut free).await;
            }
        }
    }
}

fn every(window: Duration) -> Interval {
    let mut turns = interval(window);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turns
}

/// Keeps a pool.
struct Keeper {
    supervisor: Arc<Supervisor>,
    pool: Arc<Pool>,
    store: Arc<dyn Store>,
    pager: Option<Pager>,
    merging: Option<Merging>,
    looks: Looks,
    told: Told,
    /// Who was to be suspended and could not be.
    stays: UnboundedSender<Id>,
    stayed: UnboundedReceiver<Id>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut turns = every(if self.pager.is_some() { PAGE_WINDOW } else { WINDOW });
        let (mut known, mut looked) = (HashMap::new(), None::<Instant>);
        loop {
            turns.tick().await;
            self.page().await;
            let since = looked.map(|looked| looked.elapsed());
            if since.is_some_and(|since| since + PAGE_WINDOW / 2 < WINDOW) {
                continue;
            }
            looked = Some(Instant::now());
            let heard = hear(&self.supervisor, &mut known, self.saved_part()).await;
            self.merge(&heard).await;
            while let Ok(id) = self.stayed.try_recv() {
                self.looks.stays(id);
            }
            let turn = self.look(&heard);
            follow(&self.supervisor, turn, &self.stays).await;
            self.tell(since.unwrap_or_default()).await;
        }
    }

    /// Has paged out what is too much.
    async fn page(&mut self) {
        let saved_part = self.saved_part();
        let Some(pager) = &mut self.pager else { return };
        let running = self.supervisor.shares().running();
        let mut guests = Vec::new();
        let mut pids = HashMap::new();
        for (id, claimant) in running {
            let Some(pid) = claimant.pid else { continue };
            let own = takes(pid, saved_part).0.min(claimant.most_memory.0);
            guests.push(Has { id, own, reserve: claimant.memory.reserve.0 });
            pids.insert(id, (pid, claimant.memory.reserve.0));
        }
        self.looks.go_without(pager.taken());
        let page = self.looks.page(Instant::now(), &guests);
        if page.is_empty() || !pager.has_room() {
            return;
        }
        let order =
            |(id, bytes)| pids.get(&id).map(|(pid, least)| Order { id, pid: *pid, bytes, least: *least });
        if pager.page_out(page.into_iter().filter_map(order).collect()).await {
            self.looks.gets_on(Instant::now());
        }
    }

    /// The part of merged pages that takes no memory, if this host merges.
    fn saved_part(&self) -> Option<f64> {
        self.merging.as_ref().map(Merging::saved_part)
    }

    /// Tells those who are to have equal pages merged, or not any more.
    async fn merge(&self, heard: &[Heard]) {
        let wants = |guest: &Heard| {
            let merges = guest.merges && self.merging.is_some();
            guest.stats.merges.is_some_and(|before| before != merges).then_some((guest.id, merges))
        };
        let tell = |(id, merges): (Id, bool)| merge(&self.supervisor, id, merges);
        let told: Vec<_> = heard.iter().filter_map(wants).map(tell).collect();
        futures_util::stream::iter(told).buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await;
    }

    fn look(&mut self, heard: &[Heard]) -> Turn {
        let room = self.pager.as_mut().map_or(0, |pager| {
            for guest in heard {
                pager.see(guest.id, guest.pid, guest.out);
            }
            pager.look(|id| heard.iter().any(|guest| guest.id == id));
            pager.room()
        });
        let groups = self.supervisor.shares().nested();
        let (turn, guests) = self.looks.look(Instant::now(), &groups, heard, room);
        let pager = self.pager.as_ref();
        let taken = pager.map_or(0, Pager::taken);
        let used = Size(guests.values().map(|guest| guest.resident.0).sum::<u64>() + taken);
        let (compression, paging) = (pager.and_then(Pager::compression), pager.and_then(Pager::paging));
        let (flow, pressure) = (pager.map(Pager::flow), self.looks.pressure());
        let merging =
            self.merging.as_ref().map(|_| merging::together(heard.iter().map(|guest| guest.merged)));
        self.pool.note(Seen { used, pressure, merging, compression, paging, flow, guests });
        turn
    }

    /// Says how little is free when that has changed for some time.
    async fn tell(&mut self, since: Duration) {
        let Some(pressure) = self.told.look(self.looks.state(), since.as_secs_f64()) else { return };
        let pressure = told(pressure);
        let happening =
            Happening::new("host.memory-pressure", format!("the pool of memory: {}", pressure.words()))
                .to("/api/v1/memory", machine::host_name())
                .with(json!({ "pressure": pressure }));
        let committed = async { self.store.commit(happening.add(Transaction::new())?).await.map(drop) };
        let committed: Result<(), StoreError> = committed.await;
        if let Err(error) = committed {
            tracing::error!("how little memory is free cannot be told: {error}");
        }
    }
}

/// What a process takes of the host for itself, and what it has of merged pages, where this part of them is saved.
fn takes(pid: u32, saved_part: Option<f64>) -> (u64, Merged) {
    let merged = saved_part.map(|part| merging::of(pid, part)).unwrap_or_default();
    (own_memory(pid).unwrap_or(0).saturating_sub(merged.saved), merged)
}

/// What everybody who runs has, by what they say now, or have said last.
async fn hear(
    supervisor: &Supervisor,
    known: &mut HashMap<Id, Heard>,
    saved_part: Option<f64>,
) -> Vec<Heard> {
    let running = supervisor.shares().running();
    known.retain(|id, _| running.iter().any(|(other, _)| other == id));
    let asked = running.into_iter().map(|(id, claimant)| async move {
        let said = timeout(PATIENCE, supervisor.used(id)).await.ok().and_then(Result::ok);
        // What it takes of the host the kernel knows, and what it can have was said before: nobody suffers from one that lies.
        let (own, merged) = claimant.pid.map(|pid| takes(pid, saved_part)).unwrap_or_default();
        let said = said.map(|stats| Stats { memory: stats.memory.min(claimant.most_memory.0), ..stats });
        let out = claimant.pid.and_then(out_of_memory).unwrap_or(0);
        (id, claimant, own, merged, out, said)
    });
    let asked: Vec<_> = asked.collect();
    let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_A_TIME);
    let mut heard = Vec::new();
    while let Some((id, claimant, own, merged, out, said)) = answers.next().await {
        let stats = said.or_else(|| known.get(&id).map(|before| before.stats.clone()));
        if let Some(stats) = stats {
            let (share, merges, pid) = (claimant.memory, claimant.merges, claimant.pid.unwrap_or(0));
            let guest = Heard { id, pid, share, group: claimant.group, own, merges, merged, out, stats };
            known.insert(id, guest.clone());
            heard.push(guest);
        }
    }
    // What weighs nothing in the end must not depend on who is quick.
    heard.sort_by_key(|guest| guest.id);
    heard
}

/// Has guests be without what others need.
async fn follow(supervisor: &Arc<Supervisor>, turn: Turn, stays: &UnboundedSender<Id>) {
    let tell = |(id, bytes): (Id, u64)| lend(supervisor, id, bytes);
    let told: Vec<_> = turn.balloons.into_iter().map(tell).collect();
    futures_util::stream::iter(told).buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await;
    if let Some(id) = turn.suspend {
        tracing::warn!("next to nothing is free in the pool of memory: guest {id} is suspended");
        let (supervisor, stays) = (Arc::clone(supervisor), stays.clone());
        tokio::spawn(async move {
            if let Err(problem) = supervisor.suspend(id, ACTOR, Arc::new(Silent)).await {
                tracing::error!("guest {id} cannot be suspended, and there is no room for it: {problem}");
                // Nobody keeps the pool any more if nobody hears.
                let _ = stays.send(id);
            }
        });
    }
}

async fn lend(supervisor: &Supervisor, id: Id, bytes: u64) {
    let told = timeout(PATIENCE, supervisor.lend(id, bytes)).await;
    // It may have ended, or be busy with something else: the next turn finds that.
    if let Ok(Err(problem)) = told {
        tracing::debug!("the balloon of guest {id} is not told anything: {problem}");
    }
}

async fn merge(supervisor: &Supervisor, id: Id, merges: bool) {
    // What is to be each one's own again is copied, which may take longer: the next turn finds that.
    let told = timeout(PATIENCE, supervisor.merge(id, merges)).await;
    if let Ok(Err(problem)) = told {
        tracing::debug!("whether equal pages of guest {id} are kept once stays as it is: {problem}");
    }
}

/// Without a pool nobody has to be without anything; `free` are those of whom that is known.
async fn give_back(supervisor: &Supervisor, free: &mut HashSet<(Id, Option<u32>)>) {
    let running: HashSet<_> =
        supervisor.shares().running().into_iter().map(|(id, claimant)| (id, claimant.pid)).collect();
    free.retain(|guest| running.contains(guest));
    for guest in running {
        if free.contains(&guest) {
            continue;
        }
        let used: Option<Result<_, Problem>> = timeout(PATIENCE, supervisor.used(guest.0)).await.ok();
        match used {
            Some(Ok(used)) if used.merges == Some(true) => merge(supervisor, guest.0, false).await,
            Some(Ok(used)) if used.pooled > 0 => lend(supervisor, guest.0, 0).await,
            Some(Ok(_)) => drop(free.insert(guest)),
            _ => {}
        }
    }
}
