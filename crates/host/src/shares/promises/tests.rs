//! What is promised, to whom, and who is refused.

use super::*;

#[test]
fn one_hurries_as_long_as_somebody_wants_that() {
    let (shares, id) = (Arc::new(Shares::new(None)), Id::new());
    shares.settle(id, &guest(0.0), Some(1));
    let hurries = || shares.running()[0].1.hurries;
    assert!(!hurries());
    let hurry = shares.hurry(id);
    assert!(hurries() && shares.wait(Duration::ZERO) == Woken::News);
    drop(hurry);
    assert!(!hurries() && shares.wait(Duration::ZERO) == Woken::News);
    // It may have gone meanwhile.
    let hurry = shares.hurry(id);
    shares.give_back(id);
    drop(hurry);
}

fn guest(reserve: f64) -> VmDefinition {
    let mut definition = VmDefinition::named("a".parse().unwrap());
    definition.cpu_share.reserve = Processors::nearest(reserve);
    definition
}

/// One processor, and a pool of 1 GiB.
const HAS: Capacity = Capacity { cpu: 1.0, memory: Some(Size(1 << 30)) };

fn promise(shares: &Shares, id: Id, reserve: f64) -> Result<(), Problem> {
    shares.take(id, &guest(reserve), HAS, |_| Kept::of(&guest(reserve)))
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
    shares.take(a, &guest(0.2), HAS, |before| before.and(Kept::of(&guest(0.2)))).unwrap();
    assert!(promise(&shares, b, 0.5).is_err(), "it may be undone");
    assert_eq!(shares.running()[0].1.share.reserve, Processors::nearest(0.7));
    shares.settle(a, &guest(0.2), Some(1));
    promise(&shares, b, 0.5).unwrap();
}

#[test]
fn a_pool_of_memory_is_never_promised_beyond_what_it_is() {
    let (shares, ids) = (Shares::default(), [Id::new(), Id::new()]);
    let promise = |id: Id, mib: u64, has: Capacity| {
        let mut definition = guest(0.0);
        definition.memory_share.reserve = Size(mib << 20);
        shares.take(id, &definition, has, |_| Kept::of(&definition))
    };
    promise(ids[0], 768, HAS).unwrap();
    let refused = promise(ids[1], 512, HAS).unwrap_err();
    assert_eq!(
        refused.detail,
        "a: the pool of memory has 256M left to promise, and 512M is asked for: 256M too much; 256M would fit"
    );
    assert_eq!(refused.errors[0].pointer, "/memory_share/reserve");
    promise(ids[1], 256, HAS).unwrap();
    assert_eq!(shares.memory_reserved(), Size(1 << 30));
    // Without a pool nothing is divided.
    promise(ids[1], 512, Capacity { memory: None, ..HAS }).unwrap();
    let mut large = guest(0.0);
    large.memory_share.reserve = Size(1 << 30);
    let wrong = Shares::new(Some(Size(512 << 20))).check(&large);
    assert_eq!(wrong[0].detail, "this host's pool of memory is 512M: at most 512M can be reserved");
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
        Shares::default().check(definition).into_iter().map(|wrong| wrong.detail).collect::<Vec<_>>()
    };
    assert_eq!(said(&guest(300.0)), [format!("guests may use {has} processors of this host: at most {has}")]);
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
    let mut known = 0;
    assert_eq!(shares.wait_besides(&mut known, Duration::from_secs(60)), Woken::News);
    assert_eq!(shares.wait_besides(&mut known, Duration::ZERO), Woken::Time);
    shares.end();
    assert_eq!(shares.wait_besides(&mut known, Duration::from_secs(60)), Woken::Over);
    assert_eq!(shares.wait(Duration::from_secs(60)), Woken::Over);
}

#[test]
fn who_has_processors_to_itself_leaves_one_to_everybody_and_keeps_its_own_until_a_change_is_done() {
    let (shares, ids) = (Shares::default(), [Id::new(), Id::new(), Id::new()]);
    let has = Capacity { cpu: 4.0, memory: None };
    let own = |cpus: u32, dedicated: bool| {
        let mut definition = guest(0.0);
        (definition.cpus, definition.cpu_share.dedicated) = (cpus, dedicated);
        definition
    };
    let take = |id, definition: &VmDefinition| shares.take(id, definition, has, |_| Kept::of(definition));
    let besides = |id, definition: &VmDefinition| {
        shares.take(id, definition, has, |before| before.and(Kept::of(definition)))
    };
    take(ids[0], &own(2, true)).unwrap();
    shares.settle(ids[0], &own(2, true), Some(1));
    assert_eq!(shares.reserved(), Processors::nearest(2.0));
    let refused = take(ids[1], &own(2, true)).unwrap_err();
    assert_eq!(refused.errors[0].pointer, "/cpu_share/dedicated");
    assert!(refused.detail.contains("other guests have 2 to themselves"), "{}", refused.detail);
    assert!(refused.detail.contains("a guest can have 1 at most, and this one has 2"), "{}", refused.detail);
    take(ids[1], &own(1, true)).unwrap();
    shares.settle(ids[1], &own(1, true), Some(2));
    // Until it is done with sharing them again nobody else has them.
    besides(ids[0], &own(2, false)).unwrap();
    assert!(take(ids[2], &own(1, true)).is_err());
    shares.settle(ids[0], &own(2, false), Some(1));
    take(ids[2], &own(1, true)).unwrap();
    shares.give_back(ids[2]);
    // A machine that has two until it is started again has two to itself.
    shares.settle(ids[0], &own(1, true), Some(1));
    shares.uses(ids[0], &own(2, false));
    let running: HashMap<_, _> = shares.running().into_iter().collect();
    assert_eq!((running[&ids[0]].cpus, running[&ids[0]].share.reserve.get()), (2, 2.0));
    assert!(take(ids[2], &own(1, true)).is_err());
}
