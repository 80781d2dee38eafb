//! Has the balloons of all guests that run follow what is divided.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::{Id, MemoryNow, MemoryPressure, Problem, Size};
use futures_util::StreamExt;
use storage::Silent;
use tokio::time::{MissedTickBehavior, interval, timeout};
use vmm::control::Stats;

use super::turn::{Heard, Looks, Turn};
use crate::supervisor::Supervisor;
use crate::supervisor::usage::own_memory;

/// How often everybody is asked.
const WINDOW: Duration = Duration::from_secs(1);
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

/// Keeps a host's guests to its pool. Without one they get back what a pool before has taken of them. Never returns.
pub async fn keep(supervisor: Arc<Supervisor>, pool: Arc<Pool>) {
    let size = supervisor.shares().pool();
    let mut looks = size.map(|size| Looks::new(size.0));
    let mut turns = interval(if size.is_some() { WINDOW } else { IDLE_WINDOW });
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut free) = (HashMap::new(), HashSet::new());
    loop {
        turns.tick().await;
        match &mut looks {
            Some(looks) => {
                let heard = hear(&supervisor, &mut known).await;
                let (turn, guests) = looks.look(Instant::now(), &heard);
                let used = Size(guests.values().map(|guest| guest.resident.0).sum());
                pool.note(Seen { used, pressure: looks.pressure(), guests });
                follow(&supervisor, turn).await;
            }
            None => give_back(&supervisor, &mut free).await,
        }
    }
}

/// What everybody who runs has, by what they say now, or have said last.
async fn hear(supervisor: &Supervisor, known: &mut HashMap<Id, Heard>) -> Vec<Heard> {
    let running = supervisor.shares().running();
    known.retain(|id, _| running.iter().any(|(other, _)| other == id));
    let asked = running.into_iter().map(|(id, claimant)| async move {
        let said = timeout(PATIENCE, supervisor.used(id)).await.ok().and_then(Result::ok);
        // What it takes of the host the kernel knows, and what it can have was said before: nobody suffers from one that lies.
        let own = claimant.pid.and_then(own_memory).unwrap_or(0);
        let said = said.map(|stats| Stats { memory: stats.memory.min(claimant.most_memory.0), ..stats });
        (id, claimant.memory, own, said)
    });
    let asked: Vec<_> = asked.collect();
    let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_A_TIME);
    let mut heard = Vec::new();
    while let Some((id, share, own, said)) = answers.next().await {
        let stats = said.or_else(|| known.get(&id).map(|before| before.stats.clone()));
        if let Some(stats) = stats {
            let guest = Heard { id, share, own, stats };
            known.insert(id, guest.clone());
            heard.push(guest);
        }
    }
    // What weighs nothing in the end must not depend on who is quick.
    heard.sort_by_key(|guest| guest.id);
    heard
}

/// Has guests be without what others need.
async fn follow(supervisor: &Arc<Supervisor>, turn: Turn) {
    let tell = |(id, bytes): (Id, u64)| lend(supervisor, id, bytes);
    let told: Vec<_> = turn.balloons.into_iter().map(tell).collect();
    futures_util::stream::iter(told).buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await;
    if let Some(id) = turn.suspend {
        tracing::warn!("next to nothing is free in the pool of memory: guest {id} is suspended");
        let supervisor = Arc::clone(supervisor);
        tokio::spawn(async move {
            if let Err(problem) = supervisor.suspend(id, ACTOR, Arc::new(Silent)).await {
                tracing::error!("guest {id} cannot be suspended, and there is no room for it: {problem}");
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
            Some(Ok(used)) if used.pooled > 0 => lend(supervisor, guest.0, 0).await,
            Some(Ok(_)) => drop(free.insert(guest)),
            _ => {}
        }
    }
}
