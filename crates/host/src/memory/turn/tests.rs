//! Looks at guests whose systems do what they are told.

use super::super::grouped::tests::groups;
use super::super::merging::Merged;
use super::*;
use api::MemoryShare;
use vmm::control::Stats;
use vmm::virtio::balloon::GuestMemoryStats;

const MIB: u64 = 1 << 20;

/// A guest of 512 MiB whose balloon has done what it was told.
pub fn guest(id: Id, balloon: u64, own: u64, available: Option<u64>) -> Heard {
    let said = serde_json::json!({ "guest_time_ns": 0, "processors": [], "memory": 512 * MIB, "resident": own * MIB });
    let mut stats: Stats = serde_json::from_value(said).unwrap();
    (stats.balloon, stats.balloon_target, stats.pooled) = (balloon * MIB, balloon * MIB, balloon * MIB);
    stats.guest_memory = GuestMemoryStats { available: available.map(|mib| mib * MIB), ..Default::default() };
    Heard {
        id,
        pid: 0,
        share: MemoryShare::default(),
        group: None,
        own: own * MIB,
        merges: false,
        merged: Merged::default(),
        out: 0,
        stats,
    }
}

/// Guests as they would be if their balloons did what they are told at once: each has so much in use, MiB.
struct World {
    looks: Looks,
    now: Instant,
    /// What a paging device has room for, MiB.
    room: u64,
    groups: Nested,
    /// Caches of files fill what programs leave, and each one's process takes so much besides, MiB.
    besides: Option<u64>,
    guests: Vec<(Heard, u64)>,
}

impl World {
    fn new(pool: u64, used: &[u64]) -> Self {
        let guests = used.iter().map(|used| (guest(Id::new(), 0, *used, Some(512 - used)), *used)).collect();
        Self {
            looks: Looks::new(pool * MIB),
            now: Instant::now(),
            room: 0,
            groups: Nested::default(),
            besides: None,
            guests,
        }
    }

    fn second(&mut self) -> Turn {
        self.now += Duration::from_secs(1);
        for (guest, used) in &mut self.guests {
            let held = guest.held() / MIB;
            guest.stats.guest_memory.available = Some(held.saturating_sub(*used) * MIB);
            let own = self.besides.map_or(held.min(*used), |besides| held + besides);
            guest.own = (own * MIB).saturating_sub(guest.out);
        }
        self.page();
        let heard: Vec<_> = self.guests.iter().map(|(guest, _)| guest.clone()).collect();
        let (turn, _) = self.looks.look(self.now, &self.groups, &heard, self.room * MIB);
        for (id, without) in &turn.balloons {
            let guest = &mut self.guests.iter_mut().find(|(guest, _)| guest.id == *id).unwrap().0;
            let stats = &mut guest.stats;
            (stats.balloon, stats.balloon_target, stats.pooled) = (*without, *without, *without);
        }
        turn
    }

    fn page(&mut self) {
        if self.room == 0 {
            return;
        }
        let has =
            |(guest, _): &(Heard, u64)| Has { id: guest.id, own: guest.own, reserve: guest.share.reserve.0 };
        let has: Vec<_> = self.guests.iter().map(has).collect();
        for (id, bytes) in self.looks.page(self.now, &has) {
            let guest = &mut self.guests.iter_mut().find(|(guest, _)| guest.id == id).unwrap().0;
            guest.out += bytes;
            guest.own -= bytes;
        }
    }

    fn own(&self) -> Vec<u64> {
        self.guests.iter().map(|(guest, _)| guest.own / MIB).collect()
    }

    fn held(&self) -> Vec<u64> {
        self.guests.iter().map(|(guest, _)| guest.held() / MIB).collect()
    }
}

#[test]
fn together_they_have_no_more_than_the_pool_and_who_begins_to_work_gets_what_others_do_not_use() {
    let mut world = World::new(1024, &[60, 60, 60, 60]);
    for _ in 0..60 {
        world.second();
    }
    let held = world.held();
    assert!(held.iter().sum::<u64>() <= 1024, "{held:?}");
    assert!(held.iter().all(|held| *held > 200), "all are alike: {held:?}");
    world.guests[0].1 = 440;
    for second in 0.. {
        world.second();
        assert!(world.held().iter().sum::<u64>() <= 1024, "{:?}", world.held());
        // What the others do not touch costs them four times, and no more.
        if world.held()[0] >= 420 {
            break;
        }
        assert!(second < 90, "{:?}", world.held());
    }
    for _ in 0..60 {
        world.second();
    }
    let held = world.held();
    assert!(held[0] >= 420 && held[1..].iter().all(|held| *held >= 100), "{held:?}");
}

#[test]
fn what_processes_take_besides_their_guests_memory_is_no_part_of_what_guests_share() {
    let mut world = World::new(640, &[60, 60]);
    for (guest, weight) in world.guests.iter_mut().zip([2000, 1000]) {
        guest.0.share.weight = weight;
        guest.0.stats.guest_memory.major_faults = Some(0);
    }
    world.besides = Some(20);
    for _ in 0..120 {
        for (guest, _) in &mut world.guests {
            *guest.stats.guest_memory.major_faults.as_mut().unwrap() += 2000;
        }
        assert!(world.second().suspend.is_none());
    }
    let (held, own) = (world.held(), world.own());
    assert!(held[0].abs_diff(2 * held[1]) <= 6, "{held:?}");
    assert!((590..=608).contains(&own.iter().sum::<u64>()), "{own:?}");
    assert!(world.looks.state() <= Pressure::Clear);
}

#[test]
fn what_one_cannot_give_others_have_to_but_not_what_they_are_promised() {
    for (a, most) in [(390, 964), (500, 2000)] {
        let mut world = World::new(1024, &[a, 60, 100]);
        world.guests[1].0.share.reserve = Size(400 * MIB);
        for _ in 0..120 {
            world.second();
        }
        let held = world.held();
        assert!(held.iter().sum::<u64>() <= most, "{held:?}");
        assert!(held[0] >= 420 && (400..=408).contains(&held[1]) && held[2] >= 130, "{held:?}");
    }
}

#[test]
fn who_gives_nothing_does_not_get_ever_more() {
    let mut world = World::new(1024, &[60, 60, 60]);
    for _ in 0..60 {
        world.second();
    }
    let before = world.held()[0];
    world.guests[0].1 = 512;
    world.guests[1..].iter_mut().for_each(|guest| guest.1 = 290);
    for _ in 0..120 {
        world.second();
    }
    let held = world.held();
    assert!(held[0] >= before && held[1..].iter().all(|held| *held >= 300), "{before}: {held:?}");
}

#[test]
fn what_programs_need_beyond_the_pool_they_touch_all_the_same_where_the_rest_can_be_paged() {
    let mut world = World::new(1000, &[60, 60, 60]);
    world.room = 2000;
    world.guests[2].0.share.reserve = Size(400 * MIB);
    for _ in 0..60 {
        world.second();
    }
    assert_eq!(world.guests.iter().map(|(guest, _)| guest.out).sum::<u64>(), 0, "nobody lacks anything");
    // All of them begin to use 400, 1200 together.
    for used in (60..=400).step_by(20) {
        for guest in &mut world.guests {
            guest.1 = used;
        }
        for _ in 0..5 {
            let turn = world.second();
            assert!(turn.suspend.is_none());
            assert!(world.own().iter().sum::<u64>() <= 1000, "{:?}", world.own());
        }
    }
    for _ in 0..30 {
        assert!(world.second().suspend.is_none());
    }
    assert!(world.held().iter().all(|held| *held >= 400), "{:?}", world.held());
    let own = world.own();
    assert!(own.iter().sum::<u64>() <= 990 && own[2] >= 400, "{own:?}");
    assert!(own[0].abs_diff(own[1]) < 20, "{own:?}");
}

#[test]
fn groups_have_what_they_have_reserved_and_never_more_than_their_limit() {
    let eng = |mib: u64, limit: Option<u64>| MemoryShare {
        reserve: Size(mib * MIB),
        limit: limit.map(|mib| Size(mib * MIB)),
        ..MemoryShare::default()
    };
    for (share, room, used, most) in [
        (eng(0, Some(300)), 0, 60, 300),
        (eng(700, None), 0, 60, 964),
        // What programs need beyond it does not go to a paging device that has room for it.
        (eng(0, Some(400)), 2000, 300, 400),
    ] {
        let mut world = World::new(1024, &[60; 4]);
        (world.groups, world.room) = (groups(&[("eng", share)]), room);
        for n in [0, 1] {
            world.guests[n].0.group = Some("eng".parse().unwrap());
        }
        for second in 0..120 {
            if second == 60 {
                (world.guests[0].1, world.guests[1].1) = (used, used);
            }
            world.second();
        }
        let held = world.held();
        let inside = held[0] + held[1];
        assert!(inside <= most + 4 && inside >= share.reserve.0 / MIB, "{share:?}: {held:?}");
        assert!(held.iter().sum::<u64>() <= 1024 && held[2].abs_diff(held[3]) <= 2, "{held:?}");
    }
}

#[test]
fn nothing_is_paged_before_balloons_have_shown_to_be_too_slow_and_then_to_where_they_go_on() {
    let ids = [Id::new(), Id::new()];
    let mut looks = Looks::new(1000 * MIB);
    let heard = [guest(ids[0], 0, 480, Some(30)), guest(ids[1], 0, 480, Some(30))];
    let has =
        |a: u64, b: u64| [(ids[0], a), (ids[1], b)].map(|(id, own)| Has { id, own: own * MIB, reserve: 0 });
    assert!(looks.page(Instant::now(), &has(500, 500)).is_empty(), "nobody knows yet what they are to have");
    looks.look(Instant::now(), &Nested::default(), &heard, 1000 * MIB);
    assert!(looks.page(Instant::now(), &has(485, 485)).is_empty());
    let page = looks.page(Instant::now(), &has(500, 485));
    let sum: u64 = page.iter().map(|(_, bytes)| bytes / MIB).sum();
    assert!((24..=25).contains(&sum) && page[0].1 > page[1].1, "until 4 % are free: {page:?}");
    assert!(looks.page(Instant::now(), &has(474, 485)).is_empty(), "until it is worse again");
}

#[test]
fn with_room_for_all_nobody_is_told_anything() {
    let mut world = World::new(4096, &[100, 400]);
    for _ in 0..10 {
        let turn = world.second();
        assert!(turn.balloons.is_empty() && turn.suspend.is_none());
    }
}

#[test]
fn a_balloon_that_has_become_smaller_by_itself_is_told_again() {
    let mut looks = Looks::new(300 * MIB);
    let mut heard = guest(Id::new(), 240, 60, Some(200));
    let mut now = Instant::now();
    let mut told = |heard: &Heard| {
        now += Duration::from_secs(1);
        looks.look(now, &Nested::default(), std::slice::from_ref(heard), 0).0.balloons
    };
    let [(_, without)] = told(&heard)[..] else { panic!("it is to give") };
    (heard.stats.balloon, heard.stats.balloon_target, heard.stats.pooled) = (without, without, without);
    assert!(told(&heard).is_empty());
    heard.stats.balloon -= 2 * MIB;
    let again = told(&heard);
    assert!(matches!(again[..], [(_, bytes)] if bytes.abs_diff(without) < MIB), "{again:?}");
}

#[test]
fn whoever_says_nothing_keeps_what_it_has_and_the_others_make_room_while_it_starts() {
    let (a, b) = (Id::new(), Id::new());
    let (mut looks, now) = (Looks::new(600 * MIB), Instant::now());
    let heard = [guest(a, 0, 200, None), guest(b, 0, 60, Some(450))];
    let (turn, seen) = looks.look(now, &Nested::default(), &heard, 0);
    assert!(matches!(turn.balloons[..], [(id, _)] if id == b), "{turn:?}");
    assert!(seen[&b].target.unwrap() < Size(88 * MIB) && seen[&a].target.is_none());
    // It has no balloon, and does not touch more.
    let (_, seen) = looks.look(now + START, &Nested::default(), &heard, 0);
    assert!(seen[&b].target.unwrap() > Size(350 * MIB), "{seen:?}");
    // Its system has begun anew, and has no balloon yet.
    let (turn, _) = looks.look(Instant::now(), &Nested::default(), &[guest(a, 100, 80, None)], 0);
    assert_eq!(turn.balloons, [(a, 0)]);
}

#[test]
fn if_next_to_nothing_is_free_for_long_the_least_important_one_goes() {
    let ids = [Id::new(), Id::new(), Id::new()];
    let mut looks = Looks::new(1000 * MIB);
    let mut heard: Vec<_> = ids.iter().map(|id| guest(*id, 0, 450, None)).collect();
    (heard[0].share.weight, heard[1].share.weight) = (10, 10);
    // It is promised what it has.
    heard[0].share.reserve = Size(450 * MIB);
    let begun = Instant::now();
    for second in 0..60 {
        let (turn, _) = looks.look(begun + Duration::from_secs(second), &Nested::default(), &heard, 0);
        let wanted = (second > 0 && second % 20 == 0).then_some(ids[1]);
        assert_eq!(turn.suspend, wanted, "after {second} s");
    }
    assert_eq!(looks.pressure(), MemoryPressure::Low);
    // It cannot be suspended, nor can the other one; then it may have become possible.
    for (second, stays, wanted) in [(60, ids[1], ids[2]), (80, ids[2], ids[1])] {
        looks.stays(stays);
        let (turn, _) = looks.look(begun + Duration::from_secs(second), &Nested::default(), &heard, 0);
        assert_eq!(turn.suspend, Some(wanted), "after {second} s");
    }
    assert!(
        looks.look(begun + Duration::from_secs(99), &Nested::default(), &heard[..1], 0).0.suspend.is_none()
    );
}

#[test]
fn nobody_goes_while_paging_gets_on_but_not_for_ever() {
    let ids = [Id::new(), Id::new()];
    let heard: Vec<_> = ids.iter().map(|id| guest(*id, 0, 500, None)).collect();
    let begun = Instant::now();
    let gone = |until: u64| {
        let mut looks = Looks::new(1000 * MIB);
        let gone = |second: &u64| {
            let now = begun + Duration::from_secs(*second);
            if *second < until {
                looks.gets_on(now);
            }
            looks.look(now, &Nested::default(), &heard, 0).0.suspend.is_some()
        };
        (0..300).find(gone)
    };
    assert_eq!([0, 40, 1000].map(gone), [Some(20), Some(59), Some(120)]);
}

#[test]
fn what_a_guest_is_to_be_without_for_good_is_no_memory_of_a_pool() {
    let mut heard = guest(Id::new(), 100, 60, Some(200));
    heard.stats.balloon += 200 * MIB;
    heard.stats.balloon_target += 200 * MIB;
    assert_eq!((heard.size() / MIB, heard.held() / MIB), (312, 212));
}
