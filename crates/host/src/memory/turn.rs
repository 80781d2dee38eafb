//! One look at all guests of a pool, and what follows from it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use api::{Id, MemoryNow, MemoryPressure, Size};
use share::Amount;
use share::memory::{Place, Pressure, Reading, Resident, Wants, Working, evictions, steps};

use super::grouped::Grouped;
use super::heard::Heard;
use super::limits::{Limited, Limits, Member, Whose};
use super::parts::{Parts, Talking};
use crate::shares::Nested;

/// So long next to nothing may be free before somebody is suspended: balloons need some seconds to fill.
const PATIENCE: Duration = Duration::from_secs(20);
/// So long paging may get on at most before that counts as if it did not.
const PAGED: Duration = Duration::from_secs(120);
/// So long a guest that says nothing may be starting, and touch all that it has before its balloon is there.
const START: Duration = Duration::from_secs(120);
/// So much a guest's process is taken to need for itself at most, bytes. What is beyond that the guest has taken from its balloon without a word, and others are
/// not to be without it.
const MOST_BESIDES: u64 = 64 << 20;
/// A balloon is not told of less than this part of a guest's memory.
const GRAIN: u64 = 256;
/// Nor of less than this, bytes.
const LEAST_GRAIN: u64 = 1 << 20;

/// What follows from a look.
#[derive(Debug, Default)]
pub struct Turn {
    /// Bytes that guests are to be without from now on.
    pub balloons: Vec<(Id, u64)>,
    /// Who has to go, so that the others can stay.
    pub suspend: Option<Id>,
}

/// What a guest's process has between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Has {
    /// The guest.
    pub id: Id,
    /// What it takes of the host for itself, bytes.
    pub own: u64,
    /// What it keeps whatever others need, bytes.
    pub reserve: u64,
}

/// What is known of a guest from the looks before.
struct Followed {
    since: Instant,
    /// What is to be in memory of what it has.
    resident: Option<Amount>,
    /// The most that its process was seen to take besides, bytes.
    besides: u64,
    working: Working,
    /// How often it has waited for a page, and what it has read again, bytes.
    counts: Option<[u64; 2]>,
    at: Instant,
}

/// What is remembered from one look to the next.
pub struct Looks {
    size: u64,
    /// What of that guests can have.
    pool: u64,
    guests: HashMap<Id, Followed>,
    limits: Limits,
    pressure: Pressure,
    /// Since when next to nothing is free.
    low: Option<Instant>,
    /// When paging has got on since, and since when it does.
    paged: Option<(Instant, Instant)>,
    /// Who could not be suspended since next to nothing is free.
    stay: HashSet<Id>,
    at: Option<Instant>,
}

impl Looks {
    /// Nothing yet, for a pool of so many bytes.
    pub fn new(pool: u64) -> Self {
        Self {
            size: pool,
            pool,
            guests: HashMap::new(),
            limits: Limits::default(),
            pressure: Pressure::High,
            low: None,
            paged: None,
            stay: HashSet::new(),
            at: None,
        }
    }

    /// Takes it that so many bytes of the pool are needed for something else.
    pub fn go_without(&mut self, bytes: u64) {
        self.pool = self.size.saturating_sub(bytes);
    }

    /// Takes it that paging gets on: nobody has to go as long as it does, but for some time at most.
    pub fn gets_on(&mut self, now: Instant) {
        let first = self.paged.map_or(now, |(_, first)| first);
        self.paged = Some((now, first));
    }

    /// A guest that was to go cannot be suspended: others are asked before it is tried once more.
    pub fn stays(&mut self, id: Id) {
        self.stay.insert(id);
    }

    /// How little is free.
    pub fn pressure(&self) -> MemoryPressure {
        told(self.pressure)
    }

    /// The same, as the rule has it.
    pub fn state(&self) -> Pressure {
        self.pressure
    }

    /// Gives what is to be paged out of each guest, bytes, where balloons are too slow or guests cannot give more, in the pool or below a limit: to be asked several times between looks.
    pub fn page(&mut self, now: Instant, guests: &[Has]) -> Vec<(Id, u64)> {
        let pool = self.pool as Amount;
        let free = pool - guests.iter().map(|guest| guest.own as Amount).sum::<Amount>();
        self.pressure = self.pressure.next(free, pool);
        // It is asked five times a second, and mostly there is nothing to do.
        if !self.pressure.pages() && self.limits.is_empty() {
            return Vec::new();
        }
        let resident = |guest: &Has| {
            let has = guest.own as Amount;
            match self.guests.get(&guest.id).and_then(|of| of.resident) {
                Some(target) => Resident { has, target, least: guest.reserve as Amount },
                // Nobody knows yet what one is to have that has just come.
                None => Resident { has, target: has, least: has },
            }
        };
        let residents: Vec<_> = guests.iter().map(resident).collect();
        let wanted = if self.pressure.pages() { Pressure::paged_until(pool) - free } else { 0.0 };
        let mut evicted = evictions(wanted, &residents);
        let places = guests.iter().enumerate().map(|(n, guest)| (guest.id, n)).collect();
        self.limits.page(now, &places, &residents, &mut evicted);
        let some = guests.iter().zip(evicted).map(|(guest, bytes)| (guest.id, bytes as u64));
        some.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// What is to be in memory of each guest's, if it has to be paged: the pool is divided among all, whether they can give by a balloon or not.
    fn reside(&mut self, grouped: &Grouped, talking: &[Talking], silent: &[&Heard]) {
        let of_silent = |guest: &Heard| {
            let size = guest.size() as Amount;
            Wants { share: guest.share.share(), size, active: (guest.own as Amount).min(size) }
        };
        let all = talking.iter().map(|guest| (guest.heard, guest.wants));
        let all = all.chain(silent.iter().map(|guest| (*guest, of_silent(guest))));
        let residents = grouped.divide(self.pool as Amount * (1.0 - Pressure::MARGIN), all);
        let guests = talking.iter().map(|guest| guest.heard).chain(silent.iter().copied());
        for (guest, resident) in guests.zip(residents.guests) {
            if let Some(of) = self.guests.get_mut(&guest.id) {
                of.resident = Some(resident);
            }
        }
    }

    /// Takes note of what nobody is to have more of.
    fn limit(&mut self, grouped: &Grouped, talking: &[Talking], silent: &[&Heard]) {
        let talking = talking.iter().map(|guest| (guest.heard, guest.reading.spare()));
        let all = talking.chain(silent.iter().map(|guest| (*guest, 0.0)));
        let mut members = HashMap::new();
        for (guest, spare) in all {
            let Some(of) = self.guests.get_mut(&guest.id) else { continue };
            of.besides = of.besides.max(guest.besides().min(MOST_BESIDES));
            members.insert(guest.id, (guest, Member { id: guest.id, besides: of.besides, spare }));
        }
        let own = members.values().filter_map(|(guest, member)| {
            let most = guest.share.limit?.0 as Amount;
            Some(Limited { whose: Whose::Guest(guest.id), most, members: vec![*member] })
        });
        let of_groups = grouped.limits().map(|(number, most, ids)| {
            let members = ids.filter_map(|id| Some(members.get(&id)?.1)).collect();
            Limited { whose: Whose::Group(number), most, members }
        });
        self.limits.set(own.chain(of_groups).collect());
    }

    /// Looks at all guests that run, in these groups; gives what is to be done, and what each has. What guests' programs need beyond their part of the pool they may
    /// touch all the same as far as a paging device has room for that, in bytes.
    pub fn look(
        &mut self,
        now: Instant,
        groups: &Nested,
        heard: &[Heard],
        room: u64,
    ) -> (Turn, HashMap<Id, MemoryNow>) {
        let grouped = Grouped::new(groups, heard);
        let seconds = self.at.map_or(1.0, |at| (now - at).as_secs_f64());
        self.at = Some(now);
        self.guests.retain(|id, _| heard.iter().any(|guest| guest.id == *id));
        let mut seen: HashMap<_, _> = heard.iter().map(|guest| (guest.id, guest.now())).collect();
        let (talking, silent): (Vec<_>, Vec<_>) = heard.iter().partition(|guest| guest.available().is_some());
        let used: Amount = heard.iter().map(|guest| guest.own as Amount).sum();
        self.pressure = self.pressure.next(self.pool as Amount - used, self.pool as Amount);
        // Whose system says nothing gives nothing.
        let kept: Vec<_> = silent.iter().map(|guest| (*guest, self.keeps(now, guest))).collect();
        let besides: Amount = heard.iter().map(|guest| guest.besides().min(MOST_BESIDES) as Amount).sum();
        let kept_by_all = besides + kept.iter().map(|(_, bytes)| bytes).sum::<Amount>();
        let rest = (self.pool as Amount - kept_by_all).max(0.0);
        let talking: Vec<_> = talking.into_iter().map(|guest| self.read(now, guest, seconds)).collect();
        self.reside(&grouped, &talking, &silent);
        self.limit(&grouped, &talking, &silent);
        let parts =
            Parts::new(&grouped.beside(&kept), rest * (1.0 - Pressure::MARGIN), room as Amount, &talking);
        let places: Vec<_> = talking
            .iter()
            .zip(parts.touches())
            .map(|(guest, touches)| place(&guest.reading, touches))
            .collect();
        let next = steps(
            rest + parts.beyond.iter().sum::<Amount>(),
            self.pressure.pace(),
            seconds.min(5.0),
            &places,
        );
        let mut turn = Turn { balloons: Vec::new(), suspend: self.least(now, &grouped, heard) };
        for (Talking { heard: guest, .. }, next) in talking.iter().zip(&next) {
            let without = (guest.size() as Amount - next).max(0.0) as u64;
            if is_worth_it(guest, without) {
                turn.balloons.push((guest.id, without));
            }
        }
        turn.balloons.extend(silent.iter().filter(|guest| guest.stats.pooled > 0).map(|guest| (guest.id, 0)));
        for (guest, target) in talking.iter().zip(&parts.targets) {
            if let Some(of) = seen.get_mut(&guest.heard.id) {
                (of.active, of.target) = (Some(Size(guest.wants.active as u64)), Some(Size(*target as u64)));
            }
        }
        (turn, seen)
    }

    fn follow(&mut self, now: Instant, id: Id) -> &mut Followed {
        let new = || Followed {
            since: now,
            resident: None,
            besides: 0,
            working: Working::default(),
            counts: None,
            at: now,
        };
        self.guests.entry(id).or_insert_with(new)
    }

    /// What a guest that says nothing is taken to have: all of it while it starts, and later what it has touched.
    fn keeps(&mut self, now: Instant, guest: &Heard) -> Amount {
        let starts = now - self.follow(now, guest.id).since < START;
        let size = guest.size();
        let most = guest.share.share().most(size as Amount);
        if starts { most } else { guest.own.min(size) as Amount }
    }

    fn read<'a>(&mut self, now: Instant, guest: &'a Heard, seconds: f64) -> Talking<'a> {
        let followed = self.follow(now, guest.id);
        // Of what a guest reads from its disks only that is what it has no room for in its cache of files which it has had before.
        let rereads = guest.stats.disks.iter().map(|disk| disk.reread_bytes).sum();
        let counts = [guest.stats.guest_memory.major_faults.unwrap_or_default(), rereads];
        let since = (now - followed.at).as_secs_f64();
        let [faults, rereads] = match followed.counts {
            Some(before) if since > 0.0 => [0, 1].map(|n| counts[n].saturating_sub(before[n]) as f64 / since),
            _ => [0.0; 2],
        };
        (followed.counts, followed.at) = (Some(counts), now);
        let reading = Reading {
            size: guest.size() as Amount,
            balloon: guest.size().saturating_sub(guest.held()) as Amount,
            available: guest.available().unwrap_or_default() as Amount,
            faults,
            rereads,
        };
        let active = followed.working.look(&reading, seconds);
        let wants = Wants { share: guest.share.share(), size: reading.size, active };
        Talking { heard: guest, reading, wants }
    }

    /// Whom the others are better off without, if next to nothing has been free for long.
    fn least(&mut self, now: Instant, grouped: &Grouped, heard: &[Heard]) -> Option<Id> {
        if self.pressure != Pressure::Low {
            (self.low, self.paged) = (None, None);
            self.stay.clear();
            return None;
        }
        let low = *self.low.get_or_insert(now);
        // Somebody who comes back as fast as it is paged must not keep the others from what they are promised for ever.
        let paged = self.paged.filter(|(last, first)| *last - *first < PAGED).map_or(low, |(last, _)| last);
        if now.saturating_duration_since(low.max(paged)) < PATIENCE {
            return None;
        }
        // Whoever goes takes a while to.
        self.low = Some(now);
        grouped.least(heard, |id| !self.stay.contains(&id)).or_else(|| {
            // Whatever kept all of them may be over.
            self.stay.clear();
            grouped.least(heard, |_| true)
        })
    }
}

/// How little is free, as it is told.
pub fn told(pressure: Pressure) -> MemoryPressure {
    match pressure {
        Pressure::High => MemoryPressure::High,
        Pressure::Clear => MemoryPressure::Clear,
        Pressure::Soft => MemoryPressure::Soft,
        Pressure::Hard => MemoryPressure::Hard,
        Pressure::Low => MemoryPressure::Low,
    }
}

fn place(reading: &Reading, target: Amount) -> Place {
    Place { size: reading.size, held: reading.held(), target, spare: reading.spare() }
}

/// Whether a balloon is told that it is to be so large: each word costs the guest some work. All that it has is given back in any case.
fn is_worth_it(guest: &Heard, without: u64) -> bool {
    let grain = (guest.size() / GRAIN).max(LEAST_GRAIN);
    let change = guest.stats.pooled.abs_diff(without);
    // It has taken some of it back meanwhile.
    let lacks = without.saturating_sub(guest.size() - guest.held());
    change >= grain || without == 0 && change > 0 || lacks >= grain
}

#[cfg(test)]
pub(super) mod tests;
