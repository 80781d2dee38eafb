//! Processors of the host that guests have to themselves: each of such a guest's processors runs on one of them, and no other guest runs there.
//!
//! The kernel is told for each thread where it may run (sched_setaffinity(2)). Threads that a guest's process begins may run where the one may that
//! begins them, so those of all others are told when one comes, and when others are anybody's own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use api::Id;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::promises::Claimant;
use crate::vcpus;

/// One thread that had not been told may have begun another one meanwhile, and that one the next: it is looked so often at most.
const ROUNDS: usize = 4;

/// Processors of the host by their numbers.
type Numbers = Vec<u32>;

/// Who has which.
#[derive(Debug)]
pub struct Own {
    /// All that guests may use.
    host: Numbers,
    given: BTreeMap<Id, Numbers>,
    /// What was said to whose process last.
    told: HashMap<Id, (u32, Numbers)>,
    /// Who could not be told.
    failed: HashSet<Id>,
}

impl Own {
    /// Nobody has any, of those that this process may use.
    pub fn new() -> Self {
        Self { host: allowed(None), given: BTreeMap::new(), told: HashMap::new(), failed: HashSet::new() }
    }

    /// What a guest has to itself.
    pub fn of(&self, guest: Id) -> &[u32] {
        self.given.get(&guest).map_or(&[], Vec::as_slice)
    }

    /// Sees to it that the guests that run have what is theirs; to be called when one comes, goes or becomes another one.
    pub fn follow<'a>(&mut self, guests: impl Iterator<Item = (Id, &'a Claimant)> + Clone) {
        let running = guests.clone().filter_map(|(id, claimant)| Some((id, claimant, claimant.pid?)));
        let mut wanted = BTreeMap::new();
        for (id, claimant, pid) in running.clone().filter(|(_, claimant, _)| claimant.share.dedicated) {
            // Another daemon may have given it its own.
            if !self.given.contains_key(&id) {
                self.given.extend(found(pid, claimant.cpus).map(|found| (id, found)));
            }
            wanted.insert(id, claimant.cpus as usize);
        }
        self.given = assign(&self.host, &self.given, &wanted);
        let rest = self.rest();
        let mut told = HashMap::new();
        for (id, _, pid) in running {
            let may = self.given.get(&id).unwrap_or(&rest);
            let is_own = self.given.contains_key(&id);
            let is_so = match self.told.get(&id).filter(|told| told.0 == pid) {
                Some(told) => told.1 == *may,
                // Where nobody has anything of their own nothing has to be said to who comes.
                None => !is_own && all_may(pid, may),
            };
            if is_so || tell(&mut self.failed, id, pid, may, is_own) {
                told.insert(id, (pid, may.clone()));
            }
        }
        let runs: HashSet<_> =
            guests.filter(|(_, claimant)| claimant.pid.is_some()).map(|(id, _)| id).collect();
        self.failed.retain(|id| runs.contains(id));
        self.told = told;
    }

    /// Takes care of threads that have come meanwhile.
    pub fn keep(&mut self) {
        for (id, own) in &self.given {
            if let Some((pid, _)) = self.told.get(id) {
                tell(&mut self.failed, *id, *pid, own, true);
            }
        }
    }

    /// What is left to all others.
    fn rest(&self) -> Numbers {
        let taken: HashSet<_> = self.given.values().flatten().collect();
        self.host.iter().filter(|number| !taken.contains(number)).copied().collect()
    }
}

/// Gives each guest as many as it wants: those that it has, and of the others the last ones, for what nobody says anything of tends to use the first. One is always left to
/// everybody else; who would need that has none.
fn assign(
    host: &[u32],
    given: &BTreeMap<Id, Numbers>,
    wanted: &BTreeMap<Id, usize>,
) -> BTreeMap<Id, Numbers> {
    let mut free: Vec<_> = host.to_vec();
    let mut kept = BTreeMap::new();
    for (id, &count) in wanted {
        let has = given.get(id).into_iter().flatten().take(count).copied();
        let keeps: Numbers = has.filter(|number| free.contains(number)).collect();
        free.retain(|number| !keeps.contains(number));
        kept.insert(*id, keeps);
    }
    let mut assigned = BTreeMap::new();
    for (id, mut has) in kept {
        let more = wanted.get(&id).map_or(0, |count| count - has.len());
        if free.len() > more {
            has.extend(free.split_off(free.len() - more));
            assigned.insert(id, has);
        } else {
            free.extend(has);
            free.sort_unstable();
        }
    }
    assigned
}

/// The processors of the host that a process, or this one, may use.
fn allowed(pid: Option<u32>) -> Numbers {
    let pid = pid.and_then(|pid| Pid::from_raw(pid as i32));
    let set = sched_getaffinity(pid).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|number| set.is_set(*number)).map(|number| number as u32).collect()
}

/// Whether all threads of a process may run on these, and on no others.
fn all_may(pid: u32, may: &[u32]) -> bool {
    vcpus::threads(pid).unwrap_or_default().iter().all(|(thread, _)| allowed(Some(*thread)) == may)
}

/// What a guest with so many processors has to itself, as their threads have been told: each one, and another one each.
fn found(pid: u32, cpus: u32) -> Option<Numbers> {
    let mut threads: Vec<_> = vcpus::threads(pid).ok()?;
    threads.retain(|(_, vcpu)| vcpu.is_some_and(|number| number < cpus));
    threads.sort_by_key(|(_, vcpu)| *vcpu);
    let each: Option<Numbers> = threads
        .into_iter()
        .map(|(thread, _)| match allowed(Some(thread))[..] {
            [number] => Some(number),
            _ => None,
        })
        .collect();
    each.filter(|each| each.iter().collect::<HashSet<_>>().len() == each.len())
}

/// Tells the threads of a guest where they may run: each of its processors' on one, if these are its own. Gives whether all could be told.
fn tell(failed: &mut HashSet<Id>, id: Id, pid: u32, may: &[u32], is_own: bool) -> bool {
    let set = |numbers: &[u32]| {
        let mut set = CpuSet::new();
        numbers.iter().for_each(|number| set.set(*number as usize));
        set
    };
    let of = |vcpu: Option<u32>| match vcpu.and_then(|number| may.get(number as usize)) {
        Some(one) if is_own => set(&[*one]),
        _ => set(may),
    };
    let mut told = HashSet::new();
    let mut result = Ok(());
    for _ in 0..ROUNDS {
        let threads = vcpus::threads(pid).unwrap_or_default();
        let new: Vec<_> = threads.into_iter().filter(|(thread, _)| told.insert(*thread)).collect();
        if new.is_empty() {
            break;
        }
        for (thread, vcpu) in new {
            match sched_setaffinity(Pid::from_raw(thread as i32), &of(vcpu)) {
                // It may just have ended.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => result = Err(io::Error::from(error)),
            }
        }
    }
    let Err(error) = result else {
        failed.remove(&id);
        return true;
    };
    // It is said once.
    if failed.insert(id) {
        tracing::warn!("guest {id} cannot be kept to the processors {may:?} of the host: {error}");
    }
    false
}

#[cfg(test)]
mod tests {
    use api::VmDefinition;

    use super::*;

    #[test]
    fn each_keeps_its_own_and_one_is_left_to_everybody_else() {
        let mut ids = [Id::new(), Id::new(), Id::new()];
        ids.sort_unstable();
        let [a, b, c] = ids;
        let host = [0, 1, 2, 3, 6];
        let none = BTreeMap::new();
        let first = assign(&host, &none, &[(b, 2)].into());
        assert_eq!(first, [(b, vec![3, 6])].into());
        let second = assign(&host, &first, &[(a, 2), (b, 2)].into());
        assert_eq!(second, [(a, vec![1, 2]), (b, vec![3, 6])].into());
        assert_eq!(
            assign(&host, &second, &[(a, 2), (b, 2), (c, 1)].into()),
            second,
            "one is left to all others"
        );
        // Who gets more or fewer keeps what it has.
        assert_eq!(assign(&host, &first, &[(b, 3)].into()), [(b, vec![3, 6, 2])].into());
        assert_eq!(assign(&host, &first, &[(b, 1)].into()), [(b, vec![3])].into());
        assert!(assign(&[0], &none, &[(a, 1)].into()).is_empty());
        assert!(assign(&[0], &[(a, vec![0])].into(), &[(a, 1)].into()).is_empty(), "it was left to it alone");
        // What is given twice, or is not there any more, nobody has.
        let twice = [(a, vec![3, 9]), (b, vec![3])].into();
        assert_eq!(assign(&host, &twice, &[(a, 2), (b, 1)].into()), [(a, vec![3, 6]), (b, vec![2])].into());
    }

    /// A process that sleeps, and a guest whose process that is.
    fn guest(dedicated: bool) -> (std::process::Child, Id, Claimant) {
        let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut definition: VmDefinition =
            serde_json::from_value(serde_json::json!({ "name": "a", "boot": { "kernel": "/k" } })).unwrap();
        (definition.cpus, definition.cpu_share.dedicated) = (1, dedicated);
        let claimant = Claimant::of_process(&definition, child.id());
        (child, Id::new(), claimant)
    }

    #[test]
    fn threads_are_where_they_may_be_and_are_let_go_again() {
        let mut own = Own::new();
        let all = own.host.clone();
        if all.len() < 2 {
            return;
        }
        let (mut one, a, dedicated) = guest(true);
        let (mut other, b, usual) = guest(false);
        let both = [(a, &dedicated), (b, &usual)];
        own.follow(both.into_iter());
        let last = all[all.len() - 1..].to_vec();
        assert_eq!((own.of(a), own.of(b)), (&last[..], &[][..]));
        assert_eq!(allowed(Some(one.id())), last);
        assert_eq!(allowed(Some(other.id())), all[..all.len() - 1]);
        // Another daemon finds them so, and lets them go when nobody has any.
        let mut shared = dedicated;
        shared.share = usual.share;
        let mut own = Own::new();
        own.follow([(a, &shared), (b, &usual)].into_iter());
        assert!(own.of(a).is_empty());
        assert_eq!((allowed(Some(one.id())), allowed(Some(other.id()))), (all.clone(), all));
        for child in [&mut one, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
