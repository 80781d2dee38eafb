//! What guests and groups never have more of in memory, also where their programs use it: balloons take what nobody needs, and the rest is paged out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use api::Id;
use share::Amount;
use share::memory::{Resident, evictions};

/// So long a balloon may take for what a guest says to be free: it gets a part of the guest's memory each second ([`share::memory::Pressure::pace`]). After that it is paged out,
/// whatever the guest says.
const BALLOON: Duration = Duration::from_secs(40);
/// What a guest's process takes for itself is not the guest's; nobody knows how much that is before the guest has touched all that it has, bytes.
const LEAST_BESIDES: u64 = 16 << 20;
/// Less than this is not worth paging, bytes.
const GRAIN: Amount = (1 << 20) as Amount;

/// Who has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A guest.
    Guest(Id),
    /// A group, by its number.
    Group(usize),
}

/// A limit, and what there is to it.
#[derive(Debug, Clone)]
pub struct Limited {
    /// Of whom.
    pub whose: Whose,
    /// The most that they may have together, bytes.
    pub most: Amount,
    /// Who that is.
    pub members: Vec<Member>,
}

/// Somebody who is held to a limit, alone or with others.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// The guest.
    pub id: Id,
    /// What its process takes besides the guest's memory, as far as that is seen, bytes.
    pub besides: u64,
    /// What its system says that it can be without, bytes.
    pub spare: Amount,
}

/// All limits.
#[derive(Debug, Default)]
pub struct Limits {
    all: Vec<Limited>,
    /// Since when somebody has more.
    over: HashMap<Whose, Instant>,
}

impl Limits {
    /// These hold from now on, those within others before them.
    pub fn set(&mut self, all: Vec<Limited>) {
        self.over.retain(|whose, _| all.iter().any(|limited| limited.whose == *whose));
        self.all = all;
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Has what is beyond them paged out besides what is to go of each anyway, bytes; who is where among both `places` says.
    pub fn page(
        &mut self,
        now: Instant,
        places: &HashMap<Id, usize>,
        residents: &[Resident],
        evicted: &mut [Amount],
    ) {
        for limited in &self.all {
            let members =
                limited.members.iter().filter_map(|member| Some((member, *places.get(&member.id)?)));
            let members: Vec<_> = members.collect();
            let left: Vec<_> = members
                .iter()
                .map(|(_, n)| Resident { has: residents[*n].has - evicted[*n], ..residents[*n] })
                .collect();
            let besides: u64 = members.iter().map(|(member, _)| member.besides.max(LEAST_BESIDES)).sum();
            let has: Amount = left.iter().map(|resident| resident.has).sum();
            let over = has - limited.most - besides as Amount;
            if over < GRAIN {
                self.over.remove(&limited.whose);
                continue;
            }
            let since = *self.over.entry(limited.whose).or_insert(now);
            let by_balloons: Amount = members.iter().map(|(member, _)| member.spare).sum();
            let wanted = if now - since < BALLOON { over - by_balloons } else { over };
            for ((_, n), bytes) in members.iter().zip(evictions(wanted, &left)) {
                evicted[*n] += bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: Amount = (1 << 20) as Amount;

    fn resident(has: u64, least: u64) -> Resident {
        Resident { has: has as Amount * MIB, target: 100.0 * MIB, least: least as Amount * MIB }
    }

    fn member(id: Id, spare: u64) -> Member {
        Member { id, besides: 20 << 20, spare: spare as Amount * MIB }
    }

    fn paged(limits: &mut Limits, now: Instant, ids: &[Id], residents: &[Resident]) -> Vec<u64> {
        let places = ids.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        let mut evicted = vec![0.0; residents.len()];
        limits.page(now, &places, residents, &mut evicted);
        evicted.into_iter().map(|bytes| (bytes / MIB).round() as u64).collect()
    }

    #[test]
    fn what_no_balloon_takes_is_paged_out_and_the_rest_if_balloons_do_not_take_it() {
        let id = Id::new();
        let mut limits = Limits::default();
        let limit =
            |spare| Limited { whose: Whose::Guest(id), most: 200.0 * MIB, members: vec![member(id, spare)] };
        limits.set(vec![limit(0)]);
        let now = Instant::now();
        assert_eq!(paged(&mut limits, now, &[id], &[resident(220, 0)]), [0]);
        assert_eq!(paged(&mut limits, now, &[id], &[resident(600, 0)]), [380]);
        assert_eq!(paged(&mut limits, now, &[id], &[resident(600, 500)]), [100], "what is reserved stays");
        limits.set(vec![limit(300)]);
        assert_eq!(paged(&mut limits, now, &[id], &[resident(600, 0)]), [80]);
        assert_eq!(paged(&mut limits, now + BALLOON, &[id], &[resident(600, 0)]), [380], "it gives nothing");
        assert_eq!(paged(&mut limits, now + BALLOON, &[id], &[resident(220, 0)]), [0]);
        assert_eq!(paged(&mut limits, now + BALLOON, &[id], &[resident(600, 0)]), [80], "it is another time");
        assert_eq!(paged(&mut limits, now, &[], &[]), [0; 0], "it does not run any more");
    }

    #[test]
    fn a_group_has_no_more_than_its_limit_besides_what_its_members_page_out_for_their_own() {
        let ids = [Id::new(), Id::new(), Id::new()];
        let mut limits = Limits::default();
        limits.set(vec![
            Limited { whose: Whose::Guest(ids[0]), most: 280.0 * MIB, members: vec![member(ids[0], 0)] },
            Limited {
                whose: Whose::Group(0),
                most: 460.0 * MIB,
                members: vec![member(ids[0], 0), member(ids[1], 0)],
            },
        ]);
        let residents = [resident(400, 0), resident(300, 0), resident(900, 0)];
        let paged = paged(&mut limits, Instant::now(), &ids, &residents);
        // 100 for its own; of 600 then 100 more, of both by what they have above what they are to have.
        assert_eq!(paged, [150, 50, 0]);
    }
}
