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

/// Processors of the host by their numbers, the lowest first.
type Numbers = Vec<u32>;

/// Who has which.
#[derive(Debug)]
pub struct Own {
    /// All that guests may use.
    host: Numbers,
    given: BTreeMap<Id, Numbers>,
    /// What was said to whose process last.
    told: HashMap<Id, (u32, Numbers)>,
}

impl Own {
    /// Nobody has any, of those that this process may use.
    pub fn new() -> Self {
        Self { host: allowed(None), given: BTreeMap::new(), told: HashMap::new() }
    }

    /// What a guest has to itself.
    pub fn of(&self, guest: Id) -> &[u32] {
        self.given.get(&guest).map_or(&[], Vec::as_slice)
    }

    /// Sees to it that the guests that run have what is theirs; to be called when one comes, goes or becomes another one.
    pub fn follow<'a>(&mut self, guests: impl Iterator<Item = (Id, &'a Claimant)> + Clone) {
        let running = guests.filter_map(|(id, claimant)| Some((id, claimant, claimant.pid?)));
        let wanted: BTreeMap<_, _> = running
            .clone()
            .filter(|(_, claimant, _)| claimant.share.dedicated)
            .map(|(id, claimant, pid)| (id, (claimant.cpus as usize, pid)))
            .collect();
        // Another daemon may have given them theirs.
        for (id, (_, pid)) in &wanted {
            if !self.given.contains_key(id) {
                self.given.extend(found(*pid).map(|found| (*id, found)));
            }
        }
        let wanted = wanted.into_iter().map(|(id, (count, _))| (id, count)).collect();
        self.given = assign(&self.host, &self.given, &wanted);
        let rest = self.rest();
        let mut told = HashMap::new();
        for (id, _, pid) in running {
            let may = self.given.get(&id).unwrap_or(&rest);
            let is_new = self.told.get(&id).is_none_or(|told| told.0 != pid);
            let is_so = match is_new {
                // Where nobody has anything of their own nothing has to be said to who comes.
                true => !self.given.contains_key(&id) && allowed(Some(pid)) == *may,
                false => self.told.get(&id).is_some_and(|told| told.1 == *may),
            };
            if !is_so {
                tell(id, pid, may, self.given.contains_key(&id));
            }
            told.insert(id, (pid, may.clone()));
        }
        self.told = told;
    }

    /// Takes care of threads that have come meanwhile.
    pub fn keep(&self) {
        for (id, own) in &self.given {
            if let Some((pid, _)) = self.told.get(id) {
                tell(*id, *pid, own, true);
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
    let mut assigned = BTreeMap::new();
    let keeps = |id: &Id, count: usize| given.get(id).filter(|given| given.len() == count);
    for (id, &count) in wanted {
        if let Some(given) = keeps(id, count).filter(|given| given.iter().all(|number| free.contains(number)))
        {
            free.retain(|number| !given.contains(number));
            assigned.insert(*id, given.clone());
        }
    }
    for (id, &count) in wanted {
        if !assigned.contains_key(id) && free.len() > count {
            assigned.insert(*id, free.split_off(free.len() - count));
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

/// What a guest has to itself, as its processors' threads have been told: each one, and another one each.
fn found(pid: u32) -> Option<Numbers> {
    let threads = vcpus::threads(pid).ok()?.into_iter().filter(|(_, vcpu)| vcpu.is_some());
    let each: Option<Numbers> = threads
        .map(|(thread, _)| match allowed(Some(thread))[..] {
            [number] => Some(number),
            _ => None,
        })
        .collect();
    let mut each = each?;
    each.sort_unstable();
    let count = each.len();
    each.dedup();
    (count > 0 && each.len() == count).then_some(each)
}

/// Tells the threads of a guest where they may run: each of its processors' on one, if these are its own.
fn tell(id: Id, pid: u32, may: &[u32], is_own: bool) {
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
    let result = loop {
        // One that came meanwhile may have been begun by one that had not been told.
        let threads = vcpus::threads(pid).unwrap_or_default();
        let new: Vec<_> = threads.into_iter().filter(|(thread, _)| told.insert(*thread)).collect();
        if new.is_empty() {
            break Ok(());
        }
        let failed = new.iter().find_map(|(thread, vcpu)| {
            let result = sched_setaffinity(Pid::from_raw(*thread as i32), &of(*vcpu));
            // It may just have ended.
            result.err().filter(|error| *error != Errno::SRCH)
        });
        if let Some(error) = failed {
            break Err(io::Error::from(error));
        }
    };
    if let Err(error) = result {
        tracing::warn!("guest {id} cannot be kept to the processors {may:?} of the host: {error}");
    }
}

#[cfg(test)]
mod tests {
    use api::VmDefinition;

    use super::*;

    #[test]
    fn each_keeps_its_own_and_one_is_left_to_everybody_else() {
        let (a, b, c) = (Id::new(), Id::new(), Id::new());
        let host = [0, 1, 2, 3, 6];
        let none = BTreeMap::new();
        let first = assign(&host, &none, &[(a, 2)].into());
        assert_eq!(first, [(a, vec![3, 6])].into());
        let second = assign(&host, &first, &[(a, 2), (b, 2)].into());
        assert_eq!(second, [(a, vec![3, 6]), (b, vec![1, 2])].into());
        assert_eq!(assign(&host, &second, &[(b, 2)].into()), [(b, vec![1, 2])].into());
        assert_eq!(assign(&host, &second, &[(b, 3)].into()), [(b, vec![2, 3, 6])].into());
        let third = assign(&host, &second, &[(a, 2), (b, 2), (c, 1)].into());
        assert_eq!(third, second, "one is left to all others");
        assert!(assign(&[0], &none, &[(a, 1)].into()).is_empty());
        // What is given twice, or is not there any more, nobody has.
        let twice = [(a, vec![3, 9]), (b, vec![6])].into();
        assert_eq!(assign(&host, &twice, &[(a, 2), (b, 1)].into()), [(a, vec![2, 3]), (b, vec![6])].into());
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
