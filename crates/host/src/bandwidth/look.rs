//! What guests did on pools and networks since it was looked before, and what each may do from now on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{BandwidthFlow, BandwidthShare, Id, Name, Size, Way};
use share::{Group, Share};
use vmm::figures::Page;
use vmm::flows::{Allowed, Part, Passed, key};

use super::rule::{Allowance, Member, WAITED, allowances};
use super::ways;
use crate::shares::{Carries, Nested, Place};

/// For how long what is said holds, ns. A daemon that says nothing for longer is not there, and each guest has what it would have if all
/// were busy.
const HOLDS: u64 = 3_000_000_000;

/// What was done in less than that says little of what is wanted, ns: something has changed, and is divided by what was seen before.
const LEAST_WINDOW: u64 = 100_000_000;

/// Who does so much of what it is allowed is kept waiting by that, and not by the other one of bytes and operations.
const NEARLY: f64 = 0.8;

/// A guest that runs.
pub struct Guest {
    /// Its id.
    pub id: Id,
    /// Where it says what it does.
    pub page: Arc<Page>,
    /// What it is promised of pools.
    pub disks: BandwidthShare,
    /// What it is promised of networks.
    pub networks: BandwidthShare,
    /// The pools and networks that it uses.
    pub places: Vec<Place>,
    /// The group that it is in.
    pub group: Option<Name>,
}

/// A guest among those that share one way of a place.
struct Sharing {
    id: Id,
    share: BandwidthShare,
    /// The number of its group.
    group: Option<usize>,
}

/// What each guest does where.
pub type Flows = HashMap<Id, Vec<(Place, BandwidthFlow)>>;

/// A guest's flow that is followed.
struct Followed {
    page: Arc<Page>,
    number: usize,
    passed: Passed,
    /// When that was so, ns.
    at: u64,
    /// Bytes and operations each second in the last two windows.
    did: [[f64; 2]; 2],
    /// The part of the last window in which something waited.
    waited: f64,
    /// Bytes and operations each second that it was allowed in it.
    allowed: [Option<f64>; 2],
}

/// What was seen so far.
#[derive(Default)]
pub struct Looks {
    followed: HashMap<(Id, Place, Way), Followed>,
}

impl Followed {
    /// The flow of this key in a guest's memory, if its process has told of it.
    fn new(page: &Arc<Page>, key: u64, now: u64) -> Option<Self> {
        let number = page.flow(key)?;
        let passed = page.passed(number, now);
        let (did, allowed) = ([[0.0; 2]; 2], [None; 2]);
        Some(Self { page: Arc::clone(page), number, passed, at: now, did, waited: 0.0, allowed })
    }

    fn is_of(&self, page: &Arc<Page>, key: u64) -> bool {
        Arc::ptr_eq(&self.page, page) && page.is_flow(self.number, key)
    }

    /// Looks what it did since. Whatever a process says, it did no less than nothing, and waited no longer than it could.
    fn measure(&mut self, now: u64) {
        let window = now.saturating_sub(self.at);
        if window < LEAST_WINDOW {
            return;
        }
        let passed = self.page.passed(self.number, now);
        let seconds = window as f64 / 1e9;
        let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
        let did = [each(passed.bytes, self.passed.bytes), each(passed.operations, self.passed.operations)];
        let waited = passed.waited_ns.saturating_sub(self.passed.waited_ns) as f64 / window as f64;
        (self.did, self.waited) = ([did, self.did[0]], waited.min(1.0));
        (self.passed, self.at) = (passed, now);
    }

    /// What it is among those that share bytes (0) or operations (1).
    fn member(&self, what: usize, share: Share, group: Option<usize>) -> Member {
        let did = |what: usize| self.did[0][what].max(self.did[1][what]);
        let is_used = |what: usize| self.allowed[what].is_some_and(|allowed| did(what) >= allowed * NEARLY);
        let for_other = is_used(1 - what) && !is_used(what);
        Member { share, group, did: did(what), waited: self.waited, for_other }
    }

    fn allow(&mut self, bytes: Option<Allowance>, operations: Option<Allowance>, until: u64) {
        self.allowed = [bytes, operations].map(|allowance| allowance.map(|allowance| allowance.rate));
        let part = |allowance: Option<Allowance>| allowance.map_or(Part::default(), part);
        self.page.allow(self.number, &Allowed { bytes: part(bytes), operations: part(operations), until });
    }

    fn told(&self, way: Way, bytes: Option<Allowance>, operations: Option<Allowance>) -> BandwidthFlow {
        let [did, _] = self.did;
        BandwidthFlow {
            way,
            bytes: did[0] as u64,
            operations: did[1] as u64,
            waited: self.waited,
            allowed: bytes.map(|bytes| Size(part(bytes).per_second)),
            allowed_operations: operations.map(|operations| part(operations).per_second),
            waited_for_group: self.waited >= WAITED && bytes.is_some_and(|bytes| bytes.group_is_full),
        }
    }
}

/// In whole bytes or operations; whoever is allowed anything is allowed something.
fn part(allowance: Allowance) -> Part {
    let whole = |amount: f64| amount.max(1.0) as u64;
    Part { per_second: whole(allowance.rate), burst: whole(allowance.burst), alone: whole(allowance.alone) }
}

impl Looks {
    /// Looks what all of `guests`, in these groups, did on pools and networks that carry so much, and says what they may do; `now` is the
    /// host's monotonic clock, ns.
    pub fn look(
        &mut self,
        now: u64,
        places: &BTreeMap<Place, Carries>,
        groups: &Nested,
        guests: &[Guest],
    ) -> Flows {
        let mut sharing: BTreeMap<(Place, Way), Vec<Sharing>> = BTreeMap::new();
        let mut before = std::mem::take(&mut self.followed);
        for guest in guests {
            let group = groups.number(guest.group.as_ref());
            for place in &guest.places {
                for (way, name) in ways(place) {
                    let (at, key) = ((guest.id, place.clone(), way), key(&name));
                    let known = before.remove(&at).filter(|flow| flow.is_of(&guest.page, key));
                    let Some(mut flow) = known.or_else(|| Followed::new(&guest.page, key, now)) else {
                        continue;
                    };
                    flow.measure(now);
                    self.followed.insert(at, flow);
                    let share = *place.share(&guest.disks, &guest.networks);
                    sharing.entry((place.clone(), way)).or_default().push(Sharing {
                        id: guest.id,
                        share,
                        group,
                    });
                }
            }
        }
        let mut seen = Flows::new();
        for ((place, way), members) in sharing {
            let carries = places.get(&place).copied().unwrap_or_default();
            self.divide(now, (&place, way), carries, groups, &members, &mut seen);
        }
        seen
    }

    /// Says what those that share one way of a place may do.
    fn divide(
        &mut self,
        now: u64,
        (place, way): (&Place, Way),
        carries: Carries,
        groups: &Nested,
        members: &[Sharing],
        seen: &mut Flows,
    ) {
        let all = members
            .iter()
            .filter_map(|of| self.followed.get(&(of.id, place.clone(), way)).map(|flow| (flow, of)));
        let all: Vec<_> = all.collect();
        let of = |what: usize, capacity: Option<f64>, share: fn(&BandwidthShare) -> Share| {
            let members = all.iter().map(|(flow, of)| flow.member(what, share(&of.share), of.group));
            let groups: Vec<Group> =
                groups.promised(|group| share(place.share(&group.disk_share, &group.network_share)));
            allowances(capacity, &groups, &members.collect::<Vec<_>>())
        };
        let bytes = of(0, carries.bandwidth.map(|bandwidth| bandwidth.0 as f64), BandwidthShare::share);
        // Reserves and limits are in bytes.
        let by_weight = |of: &BandwidthShare| Share { weight: of.weight, ..Share::default() };
        let operations = of(1, carries.operations.map(|count| count as f64), by_weight);
        let ids: Vec<_> = all.iter().map(|(_, of)| of.id).collect();
        for ((id, bytes), operations) in ids.iter().zip(bytes).zip(operations) {
            let Some(flow) = self.followed.get_mut(&(*id, place.clone(), way)) else { continue };
            flow.allow(bytes, operations, now.saturating_add(HOLDS));
            seen.entry(*id).or_default().push((place.clone(), flow.told(way, bytes, operations)));
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm::figures::Figures;
    use vmm::flows::Flow;

    use super::*;

    const MIB: u64 = 1 << 20;
    const WINDOW: u64 = 250_000_000;

    /// A guest, and what its process has of its flows.
    fn guest(share: BandwidthShare, places: &[Place]) -> (Guest, Vec<Flow>) {
        let (figures, (page, file)) = (Figures::new().unwrap(), Page::create().unwrap());
        figures.publish(Page::open(file).unwrap());
        let names = places.iter().flat_map(ways).map(|(_, name)| name);
        let flows = names.enumerate().map(|(number, name)| Flow::new(figures.clone(), number, key(&name)));
        let flows = flows.collect();
        let places = places.to_vec();
        (
            Guest { id: Id::new(), page: Arc::new(page), disks: share, networks: share, places, group: None },
            flows,
        )
    }

    fn weight(weight: u32) -> BandwidthShare {
        BandwidthShare { weight, ..BandwidthShare::default() }
    }

    fn carries(mib: u64, operations: Option<u64>) -> Carries {
        Carries { bandwidth: Some(Size(mib * MIB)), operations }
    }

    /// Something has waited there until `now` for the whole window before.
    fn wait(flow: &Flow, now: u64) {
        // What is held back asks again and again.
        (0..=5).for_each(|ask| flow.waits(now - WINDOW + ask * WINDOW / 5));
    }

    fn rates(flow: &Flow, now: u64) -> [u64; 2] {
        flow.allowed(now).map(|(rate, _)| rate)
    }

    #[test]
    fn guests_on_a_pool_share_what_it_carries_and_what_one_leaves_is_the_others() {
        let pool = Place::Pool("p".parse().unwrap());
        let (a, of_a) = guest(weight(2000), std::slice::from_ref(&pool));
        let (b, of_b) = guest(weight(1000), std::slice::from_ref(&pool));
        let (a_id, guests) = (a.id, [a, b]);
        let mut places = BTreeMap::from([(pool.clone(), carries(9, Some(300)))]);
        let (mut looks, mut now) = (Looks::default(), WINDOW);
        looks.look(now, &places, &Nested::default(), &guests);
        // Both are kept waiting all the time.
        now += WINDOW;
        wait(&of_a[0], now);
        wait(&of_b[0], now);
        let seen = looks.look(now, &places, &Nested::default(), &guests);
        assert_eq!((rates(&of_a[0], now), rates(&of_b[0], now)), ([6 * MIB, 200], [3 * MIB, 100]));
        let (place, flow) = &seen[&a_id][0];
        assert_eq!((place, flow.way, flow.waited, flow.allowed), (&pool, Way::All, 1.0, Some(Size(6 * MIB))));
        // The first one does its part, and then nothing.
        of_a[0].pass(6 * MIB / 4, 50);
        of_a[0].waits_no_more(now);
        now += WINDOW;
        wait(&of_b[0], now);
        let seen = looks.look(now, &places, &Nested::default(), &guests);
        assert_eq!((seen[&a_id][0].1.bytes, seen[&a_id][0].1.operations), (6 * MIB, 200));
        for _ in 0..2 {
            now += WINDOW;
            wait(&of_b[0], now);
            looks.look(now, &places, &Nested::default(), &guests);
        }
        assert_eq!(rates(&of_b[0], now), [9 * MIB, 300]);
        assert!(rates(&of_a[0], now)[0] >= 9 * MIB / 100, "it keeps a little");
        // Nobody looks after it: each has its part.
        assert_eq!(rates(&of_a[0], now + HOLDS + 1), [6 * MIB, 200]);
        // Nobody says any more what the pool carries.
        places.clear();
        looks.look(now + WINDOW, &places, &Nested::default(), &guests);
        assert_eq!(rates(&of_b[0], now + WINDOW), [0, 0]);
        assert_eq!(rates(&of_b[0], u64::MAX), [0, 0]);
    }

    #[test]
    fn networks_are_divided_each_way_and_limits_hold_without_anything_to_divide() {
        let network = Place::Network("n".parse().unwrap());
        let limited = BandwidthShare { limit: Some(Size(MIB)), ..weight(1000) };
        let (a, of_a) = guest(limited, std::slice::from_ref(&network));
        let (b, of_b) = guest(weight(1000), std::slice::from_ref(&network));
        let guests = [a, b];
        let mut looks = Looks::default();
        looks.look(WINDOW, &BTreeMap::new(), &Nested::default(), &guests);
        assert_eq!([&of_a[0], &of_a[1], &of_b[0]].map(|flow| rates(flow, WINDOW)[0]), [MIB, MIB, 0]);
        let places = BTreeMap::from([(network, carries(10, None))]);
        // One sends and the other one receives: each has all of that way.
        wait(&of_a[1], 2 * WINDOW);
        wait(&of_b[0], 2 * WINDOW);
        looks.look(2 * WINDOW, &places, &Nested::default(), &guests);
        let all = [&of_a[1], &of_b[0], &of_b[1]].map(|flow| rates(flow, 2 * WINDOW)[0]);
        assert_eq!(all, [MIB, 10 * MIB, 9 * MIB]);
    }

    #[test]
    fn a_process_that_lies_has_no_more_than_its_part_and_one_that_says_nothing_is_left_out() {
        let pool = Place::Pool("p".parse().unwrap());
        let (a, of_a) = guest(weight(1000), std::slice::from_ref(&pool));
        let (b, of_b) = guest(weight(1000), std::slice::from_ref(&pool));
        let (c, _) = guest(weight(1000), &[]);
        let silent = Guest { places: vec![pool.clone()], ..c };
        let guests = [a, b, silent];
        let places = BTreeMap::from([(pool, carries(8, None))]);
        let mut looks = Looks::default();
        looks.look(WINDOW, &places, &Nested::default(), &guests);
        // It goes back, and has waited since the beginning of time, and for ever.
        for (turn, (bytes, since)) in (2..).zip([(u64::MAX, 1), (1, u64::MAX), (u64::MAX / 2, 2)]) {
            of_a[0].pass(bytes, bytes);
            of_a[0].waits(since);
            of_a[0].waits_no_more(u64::MAX);
            wait(&of_b[0], turn * WINDOW);
            let seen = looks.look(turn * WINDOW, &places, &Nested::default(), &guests);
            assert_eq!(seen.len(), 2);
            assert!(rates(&of_b[0], turn * WINDOW)[0] >= 4 * MIB);
        }
    }
}
