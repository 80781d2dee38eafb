//! What is promised, and to whom.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::{CpuShare, Id, Invalid, Problem, Processors, VmDefinition};
use share::admission::{Member, Promises};

use super::seen::Seen;

/// A guest that is promised something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claimant {
    /// What it is promised.
    pub share: CpuShare,
    /// How many processors it has.
    pub cpus: u32,
    /// Its process, while it has one.
    pub pid: Option<u32>,
    /// What is kept for it: more than it has reserved while it is being changed.
    kept: Processors,
}

/// What guests are promised, and what they get.
#[derive(Debug, Default)]
pub struct Shares {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    guests: HashMap<Id, Claimant>,
    /// Whether that is other than whoever follows it knows.
    news: bool,
    /// Whether nobody is to follow it any more.
    over: bool,
    seen: Seen,
}

/// Why whoever followed the guests is woken.
#[derive(Debug, PartialEq)]
pub enum Woken {
    /// Something has changed.
    News,
    /// It is time to look again.
    Time,
    /// There is nothing more to do.
    Over,
}

/// Processors of the host that guests may use.
pub fn capacity() -> f64 {
    f64::from(crate::machine::cpus())
}

impl Shares {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<Id, Claimant>) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state.guests);
        state.news = true;
        self.changed.notify_all();
        result
    }

    /// What is wrong with a definition on this host.
    pub fn check(definition: &VmDefinition) -> Vec<Invalid> {
        let (share, has) = (&definition.cpu_share, capacity());
        let mut wrong = Vec::new();
        let mut say = |field: &str, value: Processors, detail: String| {
            wrong.push(Invalid::new(format!("/cpu_share/{field}"), value.get(), detail));
        };
        let cpus = f64::from(definition.cpus);
        if share.reserve.get() > has {
            say(
                "reserve",
                share.reserve,
                format!("guests may use {has} processors of this host: at most {has}"),
            );
        } else if share.reserve.get() > cpus {
            say(
                "reserve",
                share.reserve,
                format!("the guest has {cpus} processors and cannot use more: at most {cpus}"),
            );
        }
        if let Some(limit) = share.limit.filter(|limit| limit.get() > has) {
            say(
                "limit",
                limit,
                format!("guests may use {has} processors of this host: at most {has}, or none"),
            );
        }
        wrong
    }

    /// Promises a guest what its definition says, from now on; nothing changes if that cannot be kept.
    ///
    /// # Errors
    /// If not enough is left: what is missing, and what would fit.
    pub fn promise(&self, id: Id, definition: &VmDefinition) -> Result<(), Problem> {
        self.take(id, definition, capacity(), |_| definition.cpu_share.reserve)
    }

    /// The same for a guest that is being changed: until that is done, or undone, it keeps what it was promised, too.
    ///
    /// # Errors
    /// As [`promise`](Self::promise).
    pub fn promise_besides(&self, id: Id, definition: &VmDefinition) -> Result<(), Problem> {
        self.take(id, definition, capacity(), |before| before.max(definition.cpu_share.reserve))
    }

    fn take(
        &self,
        id: Id,
        definition: &VmDefinition,
        capacity: f64,
        keep: impl FnOnce(Processors) -> Processors,
    ) -> Result<(), Problem> {
        let wanted = definition.cpu_share;
        self.change(|guests| {
            let member = |id: &Id, share: share::Share| Member {
                name: id.to_string(),
                group: None,
                share,
                expandable: None,
            };
            let kept =
                |claimant: &Claimant| share::Share { reserve: claimant.kept.get(), ..Default::default() };
            let others = guests.iter().filter(|(other, _)| **other != id);
            let members: Vec<_> = others.map(|(id, claimant)| member(id, kept(claimant))).collect();
            let admitted = Promises::new(capacity, &members)
                .and_then(|promises| promises.admit(&member(&id, wanted.share())));
            // Nothing can always be promised.
            if let Err(refusal) = admitted
                && !wanted.reserve.is_none()
            {
                let detail = format!("{}: {refusal}", definition.name);
                let mut problem = Problem::conflict(&detail);
                problem.errors.push(Invalid::new(
                    "/cpu_share/reserve",
                    wanted.reserve.get(),
                    refusal.to_string(),
                ));
                return Err(problem);
            }
            let before = guests.get(&id);
            let kept = keep(before.map_or(Processors::default(), |before| before.kept));
            let pid = before.and_then(|before| before.pid);
            // What it gets changes when all is done.
            let (share, cpus) = before
                .filter(|before| before.pid.is_some())
                .map_or((wanted, definition.cpus), |before| (before.share, before.cpus));
            guests.insert(id, Claimant { share, cpus, pid, kept });
            Ok(())
        })
    }

    /// What a guest has been promised is what its definition says, whatever else is: it has been admitted with that.
    pub fn settle(&self, id: Id, definition: &VmDefinition, pid: Option<u32>) {
        let (share, cpus) = (definition.cpu_share, definition.cpus);
        self.change(|guests| guests.insert(id, Claimant { share, cpus, pid, kept: share.reserve }));
    }

    /// A guest's process has ended; it keeps what it is promised.
    pub fn ended(&self, id: Id) {
        self.change(|guests| {
            if let Some(claimant) = guests.get_mut(&id) {
                claimant.pid = None;
            }
        });
    }

    /// A guest is promised nothing any more.
    pub fn give_back(&self, id: Id) {
        self.change(|guests| guests.remove(&id));
    }

    /// What all guests together have reserved.
    pub fn reserved(&self) -> Processors {
        Processors::nearest(self.state().guests.values().map(|claimant| claimant.kept.get()).sum())
    }

    /// Waits until something changes, or for so long.
    pub fn wait(&self, most: Duration) -> Woken {
        let until = Instant::now() + most;
        let mut state = self.state();
        loop {
            if state.over {
                return Woken::Over;
            }
            if std::mem::take(&mut state.news) {
                return Woken::News;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Time;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The guests that have processes.
    pub fn running(&self) -> Vec<(Id, Claimant)> {
        let state = self.state();
        state
            .guests
            .iter()
            .filter(|(_, claimant)| claimant.pid.is_some())
            .map(|(id, of)| (*id, *of))
            .collect()
    }

    /// Nobody is to follow it any more.
    pub fn end(&self) {
        self.state().over = true;
        self.changed.notify_all();
    }

    /// What guests get has been looked at.
    pub fn note(&self, seen: Seen) {
        self.state().seen = seen;
    }

    /// What guests got when it was looked at last.
    pub fn seen<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.state().seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(reserve: f64) -> VmDefinition {
        let mut definition = VmDefinition::named("a".parse().unwrap());
        definition.cpu_share.reserve = Processors::nearest(reserve);
        definition
    }

    fn promise(shares: &Shares, id: Id, reserve: f64) -> Result<(), Problem> {
        shares.take(id, &guest(reserve), 1.0, |_| Processors::nearest(reserve))
    }

    #[test]
    fn no_more_is_promised_than_there_is_and_what_is_given_back_can_be_had() {
        let (shares, ids) = (Shares::default(), [Id::new(), Id::new(), Id::new()]);
        promise(&shares, ids[0], 0.7).unwrap();
        let refused = promise(&shares, ids[1], 0.4).unwrap_err();
        assert_eq!(refused.status, 409);
        assert_eq!(
            refused.detail,
            "a: the host has 0.3 left to promise, and 0.4 is asked for: 0.1 too much; 0.3 would fit"
        );
        assert_eq!(refused.errors[0].pointer, "/cpu_share/reserve");
        promise(&shares, ids[1], 0.3).unwrap();
        promise(&shares, ids[2], 0.0).unwrap();
        assert_eq!(shares.reserved(), Processors::nearest(1.0));
        // What it had is its own to change.
        promise(&shares, ids[0], 0.5).unwrap();
        promise(&shares, ids[0], 0.7).unwrap();
        shares.give_back(ids[1]);
        promise(&shares, ids[2], 0.3).unwrap();
    }

    #[test]
    fn what_is_being_changed_keeps_what_it_had_until_it_is_done() {
        let (shares, a, b) = (Shares::default(), Id::new(), Id::new());
        shares.settle(a, &guest(0.7), Some(1));
        shares.take(a, &guest(0.2), 1.0, |before| before.max(Processors::nearest(0.2))).unwrap();
        assert!(promise(&shares, b, 0.5).is_err(), "it may be undone");
        assert_eq!(shares.running()[0].1.share.reserve, Processors::nearest(0.7));
        shares.settle(a, &guest(0.2), Some(1));
        promise(&shares, b, 0.5).unwrap();
    }

    #[test]
    fn two_that_want_the_last_of_it_do_not_both_get_it() {
        let shares = Shares::default();
        let got: usize = std::thread::scope(|scope| {
            let ask = || promise(&shares, Id::new(), 0.3).is_ok();
            let asking: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        });
        assert_eq!((got, shares.reserved()), (3, Processors::nearest(0.9)));
    }

    #[test]
    fn what_the_host_or_the_guest_does_not_have_is_refused_with_what_it_has() {
        let has = capacity();
        let said = |definition: &VmDefinition| {
            Shares::check(definition).into_iter().map(|wrong| wrong.detail).collect::<Vec<_>>()
        };
        assert_eq!(
            said(&guest(300.0)),
            [format!("guests may use {has} processors of this host: at most {has}")]
        );
        let mut limited = guest(0.5);
        limited.cpu_share.limit = Some(Processors::nearest(300.0));
        assert_eq!(
            said(&limited),
            [format!("guests may use {has} processors of this host: at most {has}, or none")]
        );
        if has > 1.0 {
            assert_eq!(said(&guest(1.5)), ["the guest has 1 processors and cannot use more: at most 1"]);
        }
        assert!(said(&guest(1.0)).is_empty());
    }

    #[test]
    fn whoever_follows_hears_of_changes_and_of_the_end() {
        let shares = Shares::default();
        shares.settle(Id::new(), &guest(0.1), Some(1));
        assert_eq!(shares.wait(Duration::from_secs(60)), Woken::News);
        assert_eq!(shares.wait(Duration::ZERO), Woken::Time);
        shares.end();
        assert_eq!(shares.wait(Duration::from_secs(60)), Woken::Over);
    }
}
