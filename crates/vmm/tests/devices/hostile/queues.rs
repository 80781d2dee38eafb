//! Queues and requests that no driver may make.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};
use vmm::memory::map;
use vmm::virtio::feature;

use super::world::{BALLOON, CONSOLE, DISK, LAST_SLOT, NET, RNG, World, panicked, watch_for_panics};
use crate::driver::{Driver, NEEDS_RESET, QUEUES, STATUS, write_descriptor};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const RAM_END: u64 = 16 << 20;
const DATA: u64 = 0x10_0000;
/// An indirect table.
const TABLE: u64 = 0x20_0000;

/// Registers of a queue.
const SELECT: u64 = 0x16;
const SIZE: u64 = 0x18;
const ENABLE: u64 = 0x1c;
const ADDRESSES: [u64; 3] = [0x20, 0x28, 0x30];

fn world() -> World {
    watch_for_panics();
    World::new()
}

/// The device has done with the request, one way or the other.
fn comes_to_an_end(driver: &mut Driver, queue: usize, what: &str) {
    let rig = driver.rig;
    rig.eventually(what, || driver.read(STATUS, 1) & NEEDS_RESET != 0 || driver.poll(queue).is_some());
    panicked();
}

/// Whether requests wait in this queue until something comes from the host, or somebody there asks.
fn receives(slot: u64, queue: usize) -> bool {
    matches!(slot, NET | CONSOLE) && queue.is_multiple_of(2) || (slot, queue) == (BALLOON, 2)
}

/// A frame to be received, which needs a buffer.
fn give_it_something(world: &World, slot: u64, queue: usize) {
    if slot == NET && queue == 0 {
        world.send(&[&60u32.to_be_bytes()[..], &[7; 60]].concat());
    }
}

type Descriptor = (u64, u32, u16, u16);

/// Has every queue of every device meet a request of these descriptors, with `table` as an indirect table.
fn every_queue_survives(what: &str, chain: &[Descriptor], table: &[Descriptor]) {
    let world = world();
    let memory = world.rig.machine.guest_memory();
    for (n, descriptor) in table.iter().enumerate() {
        write_descriptor(memory, TABLE + 16 * n as u64, *descriptor);
    }
    for slot in 1..=LAST_SLOT {
        let mut driver = Driver::start(&world.rig, slot, u64::MAX);
        for queue in 0..driver.queues.len() {
            driver.restart();
            let at = driver.descriptors(queue);
            for (n, descriptor) in chain.iter().enumerate() {
                write_descriptor(memory, at + 16 * n as u64, *descriptor);
            }
            driver.make_available(queue, 0);
            give_it_something(&world, slot, queue);
            driver.kick(queue);
            if !receives(slot, queue) {
                comes_to_an_end(&mut driver, queue, what);
            }
        }
        world.serves(slot);
    }
    world.is_sound();
}

#[test]
fn requests_that_lead_to_themselves_come_to_an_end() {
    for flags in [NEXT, NEXT | WRITE] {
        every_queue_survives("a loop of one", &[(DATA, 16, flags, 0)], &[]);
        every_queue_survives("a loop of two", &[(DATA, 16, NEXT, 1), (DATA, 16, flags, 0)], &[]);
        every_queue_survives("a loop of nothing", &[(DATA, 0, flags, 0)], &[]);
    }
    let link = [(TABLE, 16, INDIRECT, 0)];
    every_queue_survives("a loop in a table", &link, &[(DATA, 16, NEXT, 0)]);
    let largest = [(TABLE, 0xffff0, INDIRECT, 0)];
    every_queue_survives("a loop in a large table", &largest, &[(DATA, 0, NEXT, 0)]);
    every_queue_survives("a loop in a large table", &largest, &[(DATA, 1, NEXT | WRITE, 0)]);
}

#[test]
fn tables_in_tables_and_tables_of_odd_sizes_come_to_an_end() {
    let inner = [(TABLE, 16, INDIRECT, 0), (DATA, 16, 0, 0)];
    every_queue_survives("a table in itself", &[(TABLE, 32, INDIRECT, 0)], &inner);
    every_queue_survives("a table and more", &[(TABLE, 16, INDIRECT | NEXT, 0)], &[(DATA, 16, NEXT, 0)]);
    for len in [0, 1, 15, 17, 0x10_0000, u32::MAX, !15] {
        every_queue_survives("a table of odd size", &[(TABLE, len, INDIRECT, 0)], &[(DATA, 16, WRITE, 0)]);
    }
    for at in [RAM_END - 8, RAM_END, map::LOW_END, map::IOAPIC, u64::MAX - 15, u64::MAX] {
        every_queue_survives("a table that is nowhere", &[(at, 64, INDIRECT, 0)], &[]);
    }
}

#[test]
fn data_that_are_not_in_memory_do_no_harm() {
    let places =
        [RAM_END - 1, RAM_END, map::LOW_END + (1 << 20), map::ECAM, map::HIGH_START, u64::MAX - 3, u64::MAX];
    for at in places {
        for (len, flags) in [(16, 0), (16, WRITE), (u32::MAX, WRITE), (0, 0)] {
            every_queue_survives("data that are nowhere", &[(at, len, flags, 0)], &[]);
        }
        let chain = [(DATA, 16, NEXT, 1), (at, 512, NEXT | WRITE, 2), (at, 1, WRITE, 0)];
        every_queue_survives("data that are nowhere", &chain, &[]);
    }
    every_queue_survives("more than there is", &[(0, u32::MAX, WRITE, 0)], &[]);
    every_queue_survives("the next is nowhere", &[(DATA, 16, NEXT, 0xffff)], &[]);
    let four_gigabytes = [(0, u32::MAX, NEXT | WRITE, 1), (0, u32::MAX, WRITE, 0)];
    every_queue_survives("more than 4 GiB", &four_gigabytes, &[]);
}

#[test]
fn an_index_that_runs_ahead_or_a_request_the_table_has_not_end_the_device_until_its_reset() {
    let world = world();
    for slot in 1..=LAST_SLOT {
        let mut driver = Driver::start(&world.rig, slot, u64::MAX);
        for queue in 0..driver.queues.len() {
            for index in [300u16, 0x7fff, 0x8000, 0xffff] {
                driver.restart();
                let at = driver.available(queue).0;
                driver.memory().write_obj(index, GuestAddress(at + 2)).unwrap();
                if slot == CONSOLE && receives(slot, queue) {
                    // Looked at when there is something to be received.
                    continue;
                }
                give_it_something(&world, slot, queue);
                driver.kick(queue);
                world.rig.eventually("a broken ring", || driver.read(STATUS, 1) & NEEDS_RESET != 0);
            }
            for head in [256u16, 0xffff] {
                driver.restart();
                driver.make_available(queue, head);
                if receives(slot, queue) {
                    continue;
                }
                driver.kick(queue);
                comes_to_an_end(&mut driver, queue, "a request that the table has not");
            }
        }
        world.serves(slot);
    }
    world.is_sound();
}

#[test]
fn a_queue_that_is_not_in_memory_is_never_used() {
    let world = world();
    for slot in 1..=LAST_SLOT {
        let mut driver = Driver::start(&world.rig, slot, u64::MAX);
        for register in ADDRESSES {
            for at in [1, RAM_END, RAM_END - 16, map::LOW_END, map::IOAPIC, u64::MAX, !15] {
                driver.write(STATUS, 0, 1);
                for status in [1, 3] {
                    driver.write(STATUS, status, 1);
                }
                driver.write(8, 1, 4);
                driver.write(0xc, feature::VERSION_1 >> 32, 4);
                driver.write(STATUS, 11, 1);
                for (other, place) in ADDRESSES.into_iter().zip([QUEUES, QUEUES + 0x1000, QUEUES + 0x2000]) {
                    let place = if other == register { at } else { place };
                    driver.write(other, place & 0xffff_ffff, 4);
                    driver.write(other + 4, place >> 32, 4);
                }
                driver.write(ENABLE, 1, 2);
                driver.write(STATUS, 15, 1);
                assert_ne!(driver.read(STATUS, 1) & NEEDS_RESET, 0, "slot {slot}: {register:#x} at {at:#x}");
                driver.kick(0);
            }
        }
        driver.restart();
        world.serves(slot);
    }
    world.is_sound();
}

#[test]
fn sizes_that_no_queue_can_have_are_not_taken() {
    let world = world();
    let driver = Driver::start(&world.rig, DISK, 0);
    driver.write(STATUS, 0, 1);
    driver.write(SELECT, 0, 2);
    let most = driver.read(SIZE, 2);
    for size in [0, 3, 5, 100, 255, most + 1, 2 * most, 0x8000, 0xffff] {
        driver.write(SIZE, size, 2);
        assert_eq!(driver.read(SIZE, 2), most, "after {size}");
    }
    for size in [1, 2, 128] {
        driver.write(SIZE, size, 2);
        assert_eq!(driver.read(SIZE, 2), size);
    }
    // There is no such queue.
    for queue in [2, 1023, 1024, 0xffff] {
        driver.write(SELECT, queue, 2);
        for register in [SIZE, ENABLE, 0x20, 0x24, 0x28, 0x30] {
            driver.write(register, u64::MAX, 4);
            assert_eq!(driver.read(register, 2), 0);
        }
        driver.write(0x1a, 0, 2);
        assert_eq!(driver.read(0x1a, 2), 0xffff);
    }
    world.is_sound();
}

#[test]
fn queues_that_are_enabled_without_a_place_or_not_at_all_do_nothing() {
    let world = world();
    for slot in 1..=LAST_SLOT {
        for enable in [0, 1] {
            let driver = Driver::start(&world.rig, slot, 0);
            driver.write(STATUS, 0, 1);
            for status in [1, 3] {
                driver.write(STATUS, status, 1);
            }
            driver.write(8, 1, 4);
            driver.write(0xc, feature::VERSION_1 >> 32, 4);
            driver.write(STATUS, 11, 1);
            driver.write(ENABLE, enable, 2);
            driver.write(STATUS, 15, 1);
            for queue in 0..5 {
                driver.kick(queue);
            }
        }
        world.serves(slot);
    }
    world.is_sound();
}

#[test]
fn a_queue_in_use_stays_as_it_is() {
    let world = world();
    let mut driver = Driver::start(&world.rig, RNG, 0);
    for register in [SIZE, ENABLE, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34] {
        let before = driver.read(register, 4);
        for len in [1, 2, 4, 8] {
            driver.write(register, 0x5555_5555_5555_5555, len);
        }
        assert_eq!(driver.read(register, 4), before, "{register:#x}");
    }
    driver.add(0, &[(DATA, 64, true)]);
    driver.kick(0);
    assert_eq!(driver.used(0).1, 64);
}

#[test]
fn a_driver_that_never_stops_adding_requests_keeps_nobody_else_waiting() {
    let world = world();
    for slot in 1..=LAST_SLOT {
        let driver = Driver::start(&world.rig, slot, 0);
        let queue = driver.queues.len() - 1;
        let (memory, at) = (driver.memory(), driver.descriptors(queue));
        for n in 0..64 {
            write_descriptor(memory, at + 16 * n, (DATA, 12, 0, 0));
        }
        let (available, going) = (driver.available(queue).0, Arc::new(()));
        std::thread::scope(|scope| {
            let stop = Arc::downgrade(&going);
            // Dropped at the end, however it comes.
            let _going = going;
            let driver = &driver;
            scope.spawn(move || {
                while stop.strong_count() > 0 {
                    let used: u16 = memory.read_obj(GuestAddress(at + 0x8002)).unwrap();
                    memory.write_obj(used.wrapping_add(60), GuestAddress(available + 2)).unwrap();
                    driver.kick(queue);
                }
            });
            let is_busy = || memory.read_obj::<u16>(GuestAddress(at + 0x8002)).unwrap() != 0;
            world.rig.eventually("the device begins", is_busy);
            for _ in 0..10 {
                world.rig.machine.pause();
                world.rig.machine.resume();
                world.serves(if slot == RNG { DISK } else { RNG });
            }
            assert_eq!(driver.read(STATUS, 1), 15, "slot {slot}");
            driver.write(STATUS, 0, 1);
        });
        world.serves(slot);
    }
    world.is_sound();
}

#[test]
fn frames_of_any_length_with_any_header_pass_or_are_lost_and_the_next_one_goes_out() {
    let world = world();
    let mut driver = Driver::start(&world.rig, NET, u64::MAX);
    driver.memory().write_slice(&[0xff; 0x2_0000], GuestAddress(DATA)).unwrap();
    for len in
        [0, 1, 11, 12, 13, 25, 26, 60, 1514, 65_000, 65_565, 65_566, 70_000, 1 << 20, 16 << 20, u32::MAX]
    {
        driver.add(1, &[(DATA, len, false)]);
        driver.add(1, &[(DATA, 12, false), (DATA, len, false), (DATA, len, false)]);
        driver.add(1, &[(DATA, 12, true), (DATA, 60, true)]);
        driver.kick(1);
        for _ in 0..3 {
            assert_eq!(driver.used(1).1, 0, "{len}");
            world.drain();
        }
    }
    driver.memory().write_slice(b"the frame that comes through", GuestAddress(DATA + 12)).unwrap();
    driver.add(1, &[(DATA, 72, false)]);
    driver.kick(1);
    driver.used(1);
    let mut out = Vec::new();
    world.rig.eventually("the last frame", || {
        out.extend(world.drained());
        out.windows(28).any(|bytes| bytes == b"the frame that comes through")
    });
    world.is_sound();
}

#[test]
fn a_frame_finds_no_buffer_among_those_that_cannot_take_it() {
    let world = world();
    for (features, len) in [(u64::MAX, 0), (u64::MAX, 1), (0, 20)] {
        let mut driver = Driver::start(&world.rig, NET, features);
        for _ in 0..255 {
            driver.add(0, &[(DATA, len, len != 1)]);
        }
        driver.kick(0);
        world.send(&[&1000u32.to_be_bytes()[..], &[7; 1000]].concat());
        world.rig.machine.pause();
        world.rig.machine.resume();
        world.serves(NET);
    }
    world.is_sound();
}
