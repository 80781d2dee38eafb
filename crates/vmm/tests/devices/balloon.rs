//! The balloon of every machine, driven as Linux drives it. In these machines it is in the first slot.

use vm_memory::{Bytes, GuestAddress};
use vmm::machine::Machine;
use vmm::memory::GuestMemory;

use crate::driver::{Driver, GENERATION};
use crate::rig::Rig;

const INFLATE: usize = 0;
const STATISTICS: usize = 2;
const REPORTS: usize = 4;
/// Where requests lie, and memory that is handed over.
const REQUEST: u64 = 0x10_0000;
const PAGES: u64 = 0x20_0000;

fn fill(memory: &GuestMemory, start: u64, pages: u64) {
    memory.write_slice(&vec![7; pages as usize * 4096], GuestAddress(start)).unwrap();
}

fn byte(machine: &Machine, at: u64) -> u8 {
    machine.guest_memory().read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn pages_that_are_handed_over_go_back_to_the_host() {
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    rig.machine.set_memory((16 << 20) - 8 * 4096, false).unwrap();
    assert_eq!(driver.config(0, 4), 8, "the target");
    fill(driver.memory(), PAGES, 8);
    let numbers: Vec<u8> =
        [1u32, 0, 2, 7].iter().flat_map(|n| ((PAGES / 4096) as u32 + n).to_le_bytes()).collect();
    driver.memory().write_slice(&numbers, GuestAddress(REQUEST)).unwrap();
    driver.add(INFLATE, &[(REQUEST, 16, false)]);
    driver.kick(INFLATE);
    driver.used(INFLATE);
    let left: Vec<_> = (0..8).map(|page| byte(&rig.machine, PAGES + page * 4096)).collect();
    assert_eq!(left, [0, 0, 0, 7, 7, 7, 7, 0]);
    rig.write(driver.bar + 0x2000 + 4, 4, 4);
    let size = rig.machine.memory_size();
    assert_eq!((size.target, size.balloon), (8 * 4096, 4 * 4096));
}

#[test]
fn what_a_pool_wants_comes_besides_what_the_guest_is_to_be_without_for_good() {
    let rig = Rig::new(vec![]);
    let driver = Driver::start(&rig, 1, u64::MAX);
    let now = || {
        let size = rig.machine.memory_size();
        (size.target >> 20, size.pooled >> 20)
    };
    rig.machine.set_pooled(3 << 20).unwrap();
    assert_eq!((now(), driver.config(0, 4)), ((3, 3), 3 << 8), "MiB, and pages");
    rig.machine.set_memory(14 << 20, false).unwrap();
    assert_eq!((now(), driver.config(0, 4)), ((5, 3), 5 << 8));
    rig.machine.set_pooled(1 << 20).unwrap();
    assert_eq!((now(), driver.config(0, 4)), ((3, 1), 3 << 8));
    let refused = rig.machine.set_pooled(7 << 20).unwrap_err().to_string();
    assert!(refused.contains("at least 8 MiB"), "{refused}");
    assert_eq!(now(), (3, 1), "nothing has changed");
    // Less memory for good leaves a pool less to take.
    rig.machine.set_pooled(6 << 20).unwrap();
    rig.machine.set_memory(10 << 20, false).unwrap();
    assert_eq!(now(), (8, 2));
    rig.machine.pause();
    let other = Rig::restored(vec![], rig.saved());
    let size = other.machine.memory_size();
    assert_eq!((size.target >> 20, size.pooled >> 20), (8, 2), "it goes along with a saved machine");
}

#[test]
fn a_driver_is_told_the_same_target_again_as_long_as_it_has_not_reached_it() {
    let rig = Rig::new(vec![]);
    let driver = Driver::start(&rig, 1, u64::MAX);
    let told = || {
        let before = driver.read(GENERATION, 1);
        rig.machine.set_pooled(1 << 20).unwrap();
        driver.read(GENERATION, 1) - before
    };
    let holds = |pages: u64| rig.write(driver.bar + 0x2000 + 4, pages, 4);
    assert_eq!((told(), told()), (1, 1));
    holds(256);
    assert_eq!(told(), 0, "it has what it is to have");
    // As Linux takes some back when it has no memory left (feature DEFLATE_ON_OOM).
    holds(200);
    assert_eq!(told(), 1);
}

#[test]
fn what_is_reported_as_free_goes_back_and_nonsense_is_nothing() {
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    fill(driver.memory(), PAGES, 4);
    let outside = (0xfee0_0000, 1 << 20, true);
    driver.add(REPORTS, &[(PAGES, 8192, true), outside, (PAGES + 3 * 4096, 4096, true)]);
    driver.kick(REPORTS);
    driver.used(REPORTS);
    let left: Vec<_> = (0..4).map(|page| byte(&rig.machine, PAGES + page * 4096)).collect();
    assert_eq!(left, [0, 0, 7, 0]);
    assert_eq!(rig.machine.reported_memory(), 3 * 4096, "what is no memory does not count");
    rig.machine.set_reporting(false);
    fill(driver.memory(), PAGES, 1);
    driver.add(REPORTS, &[(PAGES, 4096, true)]);
    driver.kick(REPORTS);
    driver.used(REPORTS);
    assert_eq!((byte(&rig.machine, PAGES), rig.machine.reported_memory()), (7, 3 * 4096), "it is kept");
}

#[test]
fn statistics_come_when_somebody_asks() {
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    let mut say = |free: u64| {
        let one = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        let bytes = [one(4, free), one(5, 64 << 20), one(99, 1)].concat();
        driver.memory().write_slice(&bytes, GuestAddress(REQUEST)).unwrap();
        driver.add(STATISTICS, &[(REQUEST, 30, false)]);
        driver.kick(STATISTICS);
        rig.eventually("it is known", || rig.machine.guest_memory_stats().free == Some(free));
        // Asking gave the buffer back.
        driver.used(STATISTICS);
    };
    say(1 << 20);
    say(2 << 20);
    let stats = rig.machine.guest_memory_stats();
    assert_eq!((stats.total, stats.available), (Some(64 << 20), None));
}

#[test]
fn statistics_that_wait_for_a_question_go_along_with_a_saved_machine() {
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    let bytes = [&4u16.to_le_bytes()[..], &(5u64 << 20).to_le_bytes()].concat();
    driver.memory().write_slice(&bytes, GuestAddress(REQUEST)).unwrap();
    driver.add(STATISTICS, &[(REQUEST, 10, false)]);
    driver.kick(STATISTICS);
    // Until the device has the buffer, without asking for it.
    std::thread::sleep(std::time::Duration::from_millis(50));
    rig.machine.pause();
    let other = Rig::restored(vec![], rig.saved());
    other.machine.resume();
    other.eventually("it is known there", || other.machine.guest_memory_stats().free == Some(5 << 20));
    let used = || other.machine.guest_memory().read_obj::<u16>(driver.used_index(STATISTICS)).unwrap();
    other.eventually("the buffer is given back once", || used() == 1);
}
