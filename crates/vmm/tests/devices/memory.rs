//! Memory that is plugged in and pulled out, driven as Linux drives it. In these machines the device is in the second slot.

use vm_memory::{Bytes, GuestAddress};

use crate::driver::Driver;
use crate::rig::Rig;

const REQUEST: u64 = 0x10_0000;
const ANSWER: u64 = 0x10_1000;
const BLOCK: u64 = 2 << 20;
const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;
const ACK: u16 = 0;
const NACK: u16 = 1;
const ERROR: u16 = 3;
/// What the machines of these tests begin with.
const BASE: u64 = 16 << 20;

/// Asks for something; gives the answer and the state.
fn ask(driver: &mut Driver<'_>, kind: u16, address: u64, blocks: u16) -> (u16, u16) {
    let mut request = [0u8; 24];
    request[..2].copy_from_slice(&kind.to_le_bytes());
    request[8..16].copy_from_slice(&address.to_le_bytes());
    request[16..18].copy_from_slice(&blocks.to_le_bytes());
    driver.memory().write_slice(&request, GuestAddress(REQUEST)).unwrap();
    driver.add(0, &[(REQUEST, 24, false), (ANSWER, 10, true)]);
    driver.kick(0);
    assert_eq!(driver.used(0).1, 10);
    let word = |at| driver.memory().read_obj(GuestAddress(ANSWER + at)).unwrap();
    (word(0), word(8))
}

#[test]
fn a_guest_plugs_what_it_is_asked_to_and_no_more() {
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 2, 0);
    let start = driver.config(16, 8);
    assert_eq!((driver.config(0, 8), driver.config(40, 8), driver.config(48, 8)), (BLOCK, 0, 0));
    assert_eq!(ask(&mut driver, PLUG, start, 1).0, NACK, "nobody asked");
    rig.machine.set_memory(BASE + 3 * BLOCK, false).unwrap();
    assert_eq!(driver.config(48, 8), 3 * BLOCK);
    assert_eq!(ask(&mut driver, PLUG, start + BLOCK, 2).0, ACK);
    assert_eq!(ask(&mut driver, PLUG, start + BLOCK, 1).0, ERROR, "it is plugged");
    assert_eq!(ask(&mut driver, PLUG, start + 4 * BLOCK, 2).0, NACK, "too much");
    assert_eq!(rig.machine.memory_size().memory, BASE + 2 * BLOCK);
    assert_eq!(ask(&mut driver, STATE, start + BLOCK, 2), (ACK, 0));
    assert_eq!(ask(&mut driver, STATE, start, 1), (ACK, 1));
    assert_eq!(ask(&mut driver, STATE, start, 2), (ACK, 2));
    driver.memory().write_slice(&[7; 64], GuestAddress(start + BLOCK)).unwrap();
    assert_eq!(ask(&mut driver, UNPLUG, start + BLOCK, 1).0, ACK);
    assert_eq!(driver.memory().read_obj::<u8>(GuestAddress(start + BLOCK)).unwrap(), 0, "it went back");
    assert_eq!(ask(&mut driver, UNPLUG, start + BLOCK, 1).0, ERROR);
    assert_eq!(ask(&mut driver, UNPLUG_ALL, 0, 0).0, ACK);
    assert_eq!(rig.machine.memory_size().memory, BASE);
}

#[test]
fn blocks_that_are_not_the_devices_are_refused() {
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 2, 0);
    let (start, size) = (driver.config(16, 8), driver.config(24, 8));
    rig.machine.set_memory(BASE + 8 * BLOCK, false).unwrap();
    for (address, count) in [
        (0, 1),
        (start + 1, 1),
        (start, 0),
        (start - BLOCK, 1),
        (start + size, 1),
        (start + size - BLOCK, 2),
        (u64::MAX, 9),
    ] {
        for kind in [PLUG, UNPLUG, STATE] {
            assert_eq!(ask(&mut driver, kind, address, count).0, ERROR, "{address:#x} {count}");
        }
    }
    assert_eq!(ask(&mut driver, 77, start, 1).0, ERROR);
    assert!(rig.machine.set_memory(BASE + size + 1, false).is_err());
    assert!(rig.machine.set_memory(4096, false).is_err());
}

#[test]
fn plugged_memory_is_saved_with_the_machine_and_gone_with_a_reset() {
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 2, 0);
    let start = driver.config(16, 8);
    rig.machine.set_memory(BASE + 4 * BLOCK, false).unwrap();
    assert_eq!(ask(&mut driver, PLUG, start + BLOCK, 3).0, ACK);
    driver.memory().write_slice(&[9; 64], GuestAddress(start + 2 * BLOCK)).unwrap();
    rig.machine.pause();
    let saved = rig.saved();
    let other = Rig::restored(vec![], saved);
    let size = other.machine.memory_size();
    assert_eq!((size.memory, size.requested), (BASE + 3 * BLOCK, 4 * BLOCK));
    assert_eq!(other.machine.guest_memory().read_obj::<u8>(GuestAddress(start + 2 * BLOCK)).unwrap(), 9);
    other.machine.resume();
    other.machine.reset().unwrap();
    let size = other.machine.memory_size();
    assert_eq!((size.memory, size.requested), (BASE, 4 * BLOCK), "it is asked for again");
}

#[test]
fn the_balloon_stands_in_for_what_the_guest_does_not_let_go_of() {
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 2, 0);
    let start = driver.config(16, 8);
    rig.machine.set_memory(BASE + 4 * BLOCK, false).unwrap();
    assert_eq!(ask(&mut driver, PLUG, start, 4).0, ACK);
    let stands_in = |rig: &Rig| {
        let size = rig.machine.memory_size();
        assert_eq!(size.target - size.pooled, size.standing_in, "it is asked for that and what a pool wants");
        size.standing_in / BLOCK
    };
    rig.machine.set_pooled(1 << 20).unwrap();
    rig.machine.set_memory(BASE + BLOCK, false).unwrap();
    assert_eq!((stands_in(&rig), driver.config(48, 8)), (0, BLOCK), "nobody insists");
    rig.machine.set_memory(BASE + BLOCK, true).unwrap();
    assert_eq!((stands_in(&rig), driver.config(48, 8)), (0, BLOCK), "nobody drives the balloon");
    let balloon = Driver::start(&rig, 1, u64::MAX);
    rig.machine.set_memory(BASE + BLOCK, true).unwrap();
    assert_eq!((stands_in(&rig), driver.config(48, 8)), (3, 4 * BLOCK), "it keeps its blocks meanwhile");
    rig.write(balloon.bar + 0x2000 + 4, rig.machine.memory_size().target / 4096, 4);
    assert_eq!((stands_in(&rig), driver.config(48, 8)), (3, BLOCK), "it has handed over its pages");
    rig.machine.set_memory(BASE + BLOCK, true).unwrap();
    assert_eq!((stands_in(&rig), driver.config(48, 8)), (3, BLOCK), "it has still");
    assert_eq!(ask(&mut driver, UNPLUG, start, 1).0, ACK);
    assert_eq!(stands_in(&rig), 2, "one has gone");
    rig.machine.pause();
    let other = Rig::restored(vec![], rig.saved());
    assert_eq!(stands_in(&other), 2, "it goes along with a saved machine");
    rig.machine.resume();
    rig.machine.set_memory(BASE, false).unwrap();
    assert_eq!(stands_in(&rig), 2, "less is asked for");
    rig.machine.set_memory(BASE + 2 * BLOCK, false).unwrap();
    assert_eq!(stands_in(&rig), 1, "more");
    rig.machine.reset().unwrap();
    assert_eq!((stands_in(&rig), stands_in(&other)), (0, 2), "nothing is plugged in any more");
}

/// How often of 50 times one page in a queue of the balloon is taken before the kick returns.
fn taken_at_once(balloon: &mut Driver, queue: usize) -> usize {
    let mut once = || {
        balloon.add(queue, &[(REQUEST, 4, false)]);
        balloon.kick(queue);
        balloon.poll(queue).is_some() || {
            balloon.used(queue);
            false
        }
    };
    (0..50).filter(|_| once()).count()
}

#[test]
fn pages_of_the_balloon_change_hands_before_the_kick_returns_while_somebody_waits() {
    const INFLATE: usize = 0;
    const DEFLATE: usize = 1;
    const ACTUAL: u64 = 4;
    let rig = Rig::new(vec![]);
    let mut driver = Driver::start(&rig, 2, 0);
    let start = driver.config(16, 8);
    rig.machine.set_memory(BASE + BLOCK, false).unwrap();
    assert_eq!(ask(&mut driver, PLUG, start, 1).0, ACK);
    let mut balloon = Driver::start(&rig, 1, u64::MAX);
    balloon.memory().write_slice(&0x200_u32.to_le_bytes(), GuestAddress(REQUEST)).unwrap();
    rig.machine.set_memory(BASE, true).unwrap();
    // Now and then the device thread does something just then, and does this, too.
    let taken = taken_at_once(&mut balloon, INFLATE);
    assert!(taken >= 45, "{taken} of 50");
    balloon.write(0x2000 + ACTUAL, BLOCK / 4096, 4);
    // All of it is the guest's again.
    rig.machine.set_memory(BASE + BLOCK, false).unwrap();
    let taken = taken_at_once(&mut balloon, DEFLATE);
    assert!(taken >= 45, "{taken} of 50");
}
