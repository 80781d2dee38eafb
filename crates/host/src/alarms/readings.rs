//! What there is to see of what alarms watch.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Id, Metric, Name, Time, VmState};
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::guests::Guests;
use crate::access::Access;
use crate::machine::{self, Times};
use crate::pools;
use crate::records;
use crate::supervisor::Supervisor;
use crate::tls::Certificates;

/// A pool that has not answered by then – a share whose server is gone – is looked at again when it has.
const PATIENCE: Duration = Duration::from_millis(300);
/// So many agents are asked at a time.
const AGENTS: usize = 16;
/// An agent comes up with its guest: until then one that has not answered yet is asked as often as one that has.
const COMING_UP: jiff::SignedDuration = jiff::SignedDuration::from_mins(15);
const DAY: f64 = 24.0 * 3600.0;

/// What was seen of one thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Where the API has it.
    pub target: String,
    /// Its name.
    pub name: String,
    /// The number; nothing if it cannot be told now.
    pub value: Option<f64>,
}

/// Something that may take long, which is begun anew only when it has ended.
struct Slow<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Slow<T> {
    async fn get(&mut self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let running = self.0.get_or_insert_with(|| tokio::task::spawn_blocking(look));
        let ended = timeout(PATIENCE, running).await.ok()?;
        self.0 = None;
        ended.ok()
    }
}

/// What a pool has room for, and what guests' disks in it may still ask for.
struct Room {
    available: u64,
    growth: HashMap<Id, u64>,
}

/// Looks at what alarms watch.
pub struct Observer {
    supervisor: Arc<Supervisor>,
    access: Access,
    certificates: Arc<Certificates>,
    host: String,
    times: Option<Times>,
    used: HashMap<Name, Slow<Option<f64>>>,
    rooms: HashMap<Name, Slow<Room>>,
    /// Guests whose agents are being asked.
    asked: Arc<Mutex<HashSet<Id>>>,
    round: u64,
}

/// What of a file system is in use, percent, of what programs can use of it (as df(1) reckons).
fn used(path: &std::path::Path) -> Option<f64> {
    let room = rustix::fs::statvfs(path).ok()?;
    let used = room.f_blocks.saturating_sub(room.f_bfree);
    let all = used.saturating_add(room.f_bavail);
    (all > 0).then(|| used as f64 * 100.0 / all as f64)
}

impl Observer {
    /// Of this host, which is called `host`.
    pub fn new(
        supervisor: Arc<Supervisor>,
        access: Access,
        certificates: Arc<Certificates>,
        host: String,
    ) -> Self {
        let (used, rooms) = (HashMap::new(), HashMap::new());
        Self {
            supervisor,
            access,
            certificates,
            host,
            times: None,
            used,
            rooms,
            asked: Arc::default(),
            round: 0,
        }
    }

    /// All that there is of a metric. `known` are the targets for which an alarm about it stands. Nothing if nothing can be told now.
    pub async fn read(
        &mut self,
        metric: Metric,
        guests: &Guests,
        known: &HashSet<String>,
    ) -> Option<Vec<Reading>> {
        match metric {
            Metric::PoolUsed => Some(self.pools().await),
            Metric::DiskRoom => Some(self.disks(guests).await),
            Metric::AgentSilent => Some(self.agents(guests, known)),
            Metric::HostMemory => {
                let (all, free) = machine::memory();
                let value = (all.0 > 0).then(|| 100.0 - free.0 as f64 * 100.0 / all.0 as f64);
                Some(vec![self.own(value)])
            }
            Metric::HostCpu => {
                let now = machine::times();
                let value = self.times.as_ref().and_then(|before| busy(before, &now));
                self.times = Some(now);
                Some(vec![self.own(value)])
            }
            Metric::ExpiryDays => self.expiries().await,
        }
    }

    /// A reading of the host itself.
    fn own(&self, value: Option<f64>) -> Reading {
        Reading { target: "/api/v1/host".into(), name: self.host.clone(), value }
    }

    async fn pools(&mut self) -> Vec<Reading> {
        let pools = self.supervisor.pools().usable();
        self.used.retain(|name, _| pools.contains_key(name));
        for name in pools.keys() {
            self.used.entry(name.clone()).or_insert(Slow(None));
        }
        let looks = self.used.iter_mut().map(|(name, slow)| {
            let pool = pools.get(name).cloned().flatten();
            async move {
                let value = match pool {
                    Some(pool) => slow.get(move || used(pool.folder())).await.flatten(),
                    None => None,
                };
                Reading { target: pools::path(name), name: name.to_string(), value }
            }
        });
        join_all(looks).await
    }

    async fn disks(&mut self, guests: &Guests) -> Vec<Reading> {
        let mut volumes: HashMap<Name, Vec<(Id, Name)>> = HashMap::new();
        for (id, guest) in &guests.0 {
            for volume in &guest.volumes {
                volumes.entry(volume.pool.clone()).or_default().push((*id, volume.name.clone()));
            }
        }
        let pools = self.supervisor.pools().usable();
        self.rooms.retain(|name, _| pools.contains_key(name));
        for name in pools.keys() {
            self.rooms.entry(name.clone()).or_insert(Slow(None));
        }
        let looks = self.rooms.iter_mut().map(|(name, slow)| {
            let (pool, volumes) =
                (pools.get(name).cloned().flatten(), volumes.remove(name).unwrap_or_default());
            async move {
                let pool = pool.filter(|_| !volumes.is_empty())?;
                slow.get(move || room(&pool, &volumes)).await
            }
        });
        let rooms: Vec<Room> = join_all(looks).await.into_iter().flatten().collect();
        let with_disks = guests.0.iter().filter(|(_, guest)| !guest.volumes.is_empty());
        with_disks
            .map(|(id, guest)| {
                let parts = rooms.iter().filter_map(|room| {
                    let growth = *room.growth.get(id)?;
                    Some(if growth == 0 { 100.0 } else { room.available as f64 * 100.0 / growth as f64 })
                });
                // What is more than enough is enough.
                let value = parts.map(|part| part.min(100.0)).reduce(f64::min);
                Reading { target: records::path(*id), name: guest.name.to_string(), value }
            })
            .collect()
    }

    /// For how long the agents have not answered that did. Asks them, and those in guests where none did from time to time; what they
    /// answer is seen the next time.
    fn agents(&mut self, guests: &Guests, known: &HashSet<String>) -> Vec<Reading> {
        let (mut readings, mut ask) = (Vec::new(), Vec::new());
        let every_tenth = self.round.is_multiple_of(10);
        self.round += 1;
        for (id, guest) in &guests.0 {
            let (state, since) = guest.state;
            if state != VmState::Running {
                continue;
            }
            let heard = self.supervisor.agent_heard(*id);
            let target = records::path(*id);
            if heard.is_some() || known.contains(&target) {
                // One that stood still could not answer.
                let silent = heard.map(|heard| Time::now().duration_since(heard.max(since)).as_secs_f64());
                readings.push(Reading {
                    target,
                    name: guest.name.to_string(),
                    value: silent.map(|seconds| seconds.max(0.0)),
                });
                ask.push(*id);
            } else if every_tenth || Time::now().duration_since(since) < COMING_UP {
                ask.push(*id);
            }
        }
        self.ask_agents(ask);
        readings
    }

    fn ask_agents(&self, ids: Vec<Id>) {
        let lock = |asked: &Mutex<HashSet<Id>>, change: &dyn Fn(&mut HashSet<Id>) -> bool| {
            change(&mut asked.lock().unwrap_or_else(PoisonError::into_inner))
        };
        // One that takes its time is not asked again meanwhile.
        let ids: Vec<_> =
            ids.into_iter().filter(|id| lock(&self.asked, &|asked| asked.insert(*id))).collect();
        if ids.is_empty() {
            return;
        }
        let (supervisor, asked) = (Arc::clone(&self.supervisor), Arc::clone(&self.asked));
        tokio::spawn(async move {
            use futures_util::StreamExt;
            futures_util::stream::iter(ids)
                .for_each_concurrent(AGENTS, |id| {
                    let (supervisor, asked) = (&supervisor, &asked);
                    async move {
                        supervisor.ping_agent(id).await;
                        lock(asked, &|asked| asked.remove(&id));
                    }
                })
                .await;
        });
    }

    async fn expiries(&self) -> Option<Vec<Reading>> {
        let days = |until: Time| Some(until.duration_since(Time::now()).as_secs_f64() / DAY);
        let tokens = self.access.tokens().await.ok()?;
        let mut readings: Vec<_> = tokens
            .into_iter()
            .filter_map(|token| {
                let target = format!("/api/v1/tokens/{}", token.id);
                // One that is past is nobody's loss any more.
                let value = days(token.expires?).filter(|days| *days > 0.0)?;
                Some(Reading { target, name: token.name.to_string(), value: Some(value) })
            })
            .collect();
        if let Some(until) = self.certificates.given_until() {
            let value = days(until).map(|days| days.max(0.0));
            readings.push(Reading { target: "/api/v1/host".into(), name: self.host.clone(), value });
        }
        Some(readings)
    }
}

/// What of the time between two looks all processors were busy, percent; nothing where there was none.
fn busy(before: &Times, now: &Times) -> Option<f64> {
    let busy = now.busy.saturating_sub(before.busy);
    let all = busy + now.idle.saturating_sub(before.idle) + now.stolen.saturating_sub(before.stolen);
    (all > 0).then(|| busy as f64 * 100.0 / all as f64)
}

/// Looks at a pool and at guests' volumes in it.
fn room(pool: &storage::Pool, volumes: &[(Id, Name)]) -> Room {
    let (_, available) = machine::storage(pool.folder());
    let mut growth = HashMap::new();
    for (id, name) in volumes {
        // One that is being made or removed is looked at the next time.
        if let Ok(more) = pool.growth(name) {
            *growth.entry(*id).or_default() += more;
        }
    }
    Room { available: available.0, growth }
}

/// How often a metric is looked at for an alarm for which it has to be bad for `hold` seconds.
pub fn pace(metric: Metric, hold: u32) -> Duration {
    let (least, most) = match metric {
        Metric::PoolUsed | Metric::HostMemory | Metric::HostCpu => (1, 15),
        Metric::DiskRoom => (10, 120),
        Metric::AgentSilent => (1, 300),
        Metric::ExpiryDays => (60, 3600),
    };
    Duration::from_secs(u64::from(hold / 4).clamp(least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_busy_for_a_part_of_the_time_that_passed() {
        let at = |busy, idle, stolen| Times { busy, idle, stolen };
        assert_eq!(busy(&at(100, 100, 0), &at(130, 160, 10)), Some(30.0));
        assert_eq!(busy(&at(100, 100, 0), &at(100, 100, 0)), None);
    }
}
