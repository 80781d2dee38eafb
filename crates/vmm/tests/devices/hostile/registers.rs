//! Registers, ports and configuration space, used as no driver may.

use std::sync::Arc;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vmm::engine::Engine;
use vmm::engine::soft::Soft;
use vmm::interrupt::MsiMessage;
use vmm::memory::{Ram, map};
use vmm::virtio::feature;

use super::world::{DISK, LAST_SLOT, NET, RNG, World, watch_for_panics};
use crate::driver::{Driver, STATUS};
use crate::rig::Rig;

const DATA: u64 = 0x10_0000;
const COMMAND: u64 = 4;
const BAR: u64 = 0x10;
/// In the command register: memory space.
const DECODE: u64 = 2;

fn world() -> World {
    watch_for_panics();
    World::new()
}

fn config(slot: u64) -> u64 {
    map::ECAM + (slot << 15)
}

fn move_bar(rig: &Rig, slot: u64, to: u64) {
    rig.write(config(slot) + BAR, to & 0xffff_ffff, 4);
    rig.write(config(slot) + BAR + 4, to >> 32, 4);
}

#[test]
fn configuration_space_may_be_accessed_at_any_offset_and_width() {
    let world = world();
    for slot in 0..33 {
        for offset in (0..0x110).chain(0xff0..0x1000) {
            for width in 1..=8 {
                let before = world.rig.read(config(slot) + offset, width);
                for value in [0, u64::MAX, before, 0x5a5a_5a5a_5a5a_5a5a] {
                    world.rig.write(config(slot) + offset, value, width);
                    world.rig.read(config(slot) + offset, width);
                }
            }
        }
        // What says who it is stays.
        let who = if slot == 0 { 0x29c0_8086 } else { world.rig.read(config(slot), 4) };
        assert_eq!(world.rig.read(config(slot), 4), who);
        assert!(who == 0xffff_ffff || who & 0xffff != 0xffff);
    }
    for address in [map::ECAM + (1 << 12), map::ECAM + map::ECAM_SIZE - 4, map::ECAM + (1 << 20)] {
        world.rig.write(address, 0, 4);
        assert_eq!(world.rig.read(address, 4), 0xffff_ffff, "there is nothing at {address:#x}");
    }
    world.is_sound();
}

#[test]
fn the_window_in_configuration_space_reaches_registers_and_nothing_else() {
    let world = world();
    let at = (0x40..0x100)
        .step_by(4)
        .find(|at| world.rig.read(config(RNG) + at, 4) & 0xff00_00ff == 0x0500_0009)
        .expect("the capability is there");
    let window = config(RNG) + at;
    for bar in [0, 1, 5, 255] {
        for offset in [0, 4, 0x13, 0x14, 0x1000, 0x2000, 0x3000, 0x4000, 0x7fff, 0x8000, 0xffff_ffff] {
            for len in [0, 1, 2, 3, 4, 5, 8, 0xffff_ffff] {
                world.rig.write(window + 4, bar, 1);
                world.rig.write(window + 8, offset, 4);
                world.rig.write(window + 12, len, 4);
                for width in 1..=8 {
                    for part in 0..4 {
                        world.rig.read(window + 16 + part, width);
                        world.rig.write(window + 16 + part, 0, width);
                    }
                }
            }
        }
    }
    world.is_sound();
}

#[test]
fn every_register_of_every_device_may_be_accessed_at_any_width() {
    let world = world();
    for slot in 1..=LAST_SLOT {
        Driver::start(&world.rig, slot, u64::MAX);
        let bar = world.bar(slot);
        let pieces =
            [0..0x48, 0x1000..0x1008, 0x2000..0x2048, 0x3000..0x3020, 0x4000..0x4050, 0x6000..0x6010];
        for offset in pieces.into_iter().flatten().chain(0x7ff0..0x8000) {
            for width in 1..=8 {
                for value in [u64::MAX, 0x0102_0408_1020_4080, 1, 0] {
                    world.rig.write(bar + offset, value, width);
                    world.rig.read(bar + offset, width);
                }
            }
        }
        world.serves(slot);
    }
    world.is_sound();
}

#[test]
fn a_vector_written_in_pieces_of_any_width_is_the_one_that_is_sent() {
    let world = world();
    let mut driver = Driver::start(&world.rig, RNG, 0);
    let entry = driver.bar + 0x4000 + 16;
    for width in [1u64, 2, 3, 5, 7] {
        // Data: masked meanwhile.
        world.rig.write(entry + 12, 1, 4);
        let data = 0x5a00 + width;
        for at in 0..4u64.div_ceil(width) {
            let len = width.min(4 - at * width);
            world.rig.write(entry + 8 + at * width, data >> (8 * width * at), len as usize);
        }
        world.rig.write(entry + 12, 0, 1);
        driver.add(0, &[(DATA, 64, true)]);
        driver.kick(0);
        assert!(world.rig.wait_for_message(data as u32, 0, Duration::from_secs(10)), "written by {width}");
        world.rig.eventually("the request", || driver.poll(0).is_some());
    }
    // Beyond the table's last entry there is nothing.
    world.rig.write(driver.bar + 0x4000 + 32, u64::MAX, 8);
    assert_eq!(world.rig.read(driver.bar + 0x4000 + 32, 8), 0);
    // An entry and what is behind it.
    world.rig.write(entry + 13, u64::MAX, 8);
    world.is_sound();
}

#[test]
fn a_bar_is_never_over_memory_or_other_registers() {
    let world = world();
    let (rig, first) = (&world.rig, world.bar(RNG));
    world.serves(RNG);
    rig.machine.guest_memory().write_obj(0x1122_3344u32, GuestAddress(0x40_0000)).unwrap();
    for to in [
        0,
        0x40_0000,
        (16 << 20) - 0x8000,
        map::ECAM,
        map::ECAM - 0x4000,
        map::IOAPIC,
        map::LAPIC,
        map::HIGH_START,
        0xffff_8000,
        1 << 40,
        u64::MAX,
    ] {
        move_bar(rig, RNG, to);
        rig.write(to & !0xf, 0, 4);
        assert_eq!(
            rig.read(config(DISK), 2),
            0x1af4,
            "configuration space is where it was, with a BAR at {to:#x}"
        );
        assert_eq!(rig.read(map::IOAPIC, 4), 0);
    }
    let kept: u32 = rig.machine.guest_memory().read_obj(GuestAddress(0x40_0000)).unwrap();
    assert_eq!(kept, 0x1122_3344);
    // Over another's BAR: that one stays where it is.
    let disk = world.bar(DISK);
    for to in [disk, disk + 0x4000, disk - 0x4000] {
        move_bar(rig, RNG, to);
        world.serves(DISK);
    }
    move_bar(rig, RNG, first);
    world.serves(RNG);
    world.is_sound();
}

#[test]
fn a_bar_moved_or_switched_off_in_the_middle_of_a_request_takes_nothing_with_it() {
    let world = world();
    let rig = &world.rig;
    for slot in [DISK, NET, RNG] {
        let home = world.bar(slot);
        for round in 0..20 {
            let mut driver = Driver::start(rig, slot, 0);
            rig.machine.guest_memory().write_slice(&[0; 16], GuestAddress(DATA)).unwrap();
            let queue = if slot == NET { 1 } else { 0 };
            driver.add(queue, &[(DATA, 16, false), (DATA + 0x1000, 512, true), (DATA + 0x2000, 1, true)]);
            driver.kick(queue);
            match round % 4 {
                0 => rig.write(config(slot) + COMMAND, 0, 2),
                1 => move_bar(rig, slot, home + 0x10_0000 * 20),
                2 => move_bar(rig, slot, 0),
                _ => {
                    rig.write(config(slot) + COMMAND, 0, 2);
                    assert_eq!(rig.read(home + STATUS, 1), 0xff, "nobody answers");
                    rig.write(config(slot) + COMMAND, DECODE, 2);
                    assert_eq!(rig.read(home + STATUS, 1) & 15, 15, "it is as it was");
                }
            }
            rig.eventually("the request", || driver.poll(queue).is_some());
            move_bar(rig, slot, home);
        }
        world.serves(slot);
    }
    world.is_sound();
}

#[test]
fn a_device_reset_in_the_middle_of_requests_touches_memory_no_more() {
    let world = world();
    for slot in [DISK, NET, RNG] {
        for _ in 0..30 {
            let mut driver = Driver::start(&world.rig, slot, u64::MAX);
            world.rig.machine.guest_memory().write_slice(&[0; 16], GuestAddress(DATA)).unwrap();
            let queue = if slot == NET { 1 } else { 0 };
            for _ in 0..60 {
                driver.add(queue, &[(DATA, 16, false), (DATA + 0x1000, 512, true), (DATA + 0x2000, 1, true)]);
            }
            driver.kick(queue);
            driver.write(STATUS, 0, 1);
            let used = driver.descriptors(queue) + 0x8000;
            driver.memory().write_slice(&[0; 0x1000], GuestAddress(used)).unwrap();
            driver.kick(queue);
            std::thread::sleep(Duration::from_micros(300));
            let mut now = [1; 0x1000];
            driver.memory().read_slice(&mut now, GuestAddress(used)).unwrap();
            assert_eq!(now, [0; 0x1000]);
        }
        world.serves(slot);
    }
    world.is_sound();
}

#[test]
fn a_negotiation_out_of_order_starts_nothing() {
    let world = world();
    let mut driver = Driver::start(&world.rig, RNG, 0);
    let served = |driver: &mut Driver| {
        driver.add(0, &[(DATA, 64, true)]);
        driver.kick(0);
        std::thread::sleep(Duration::from_millis(2));
        driver.poll(0).is_some()
    };
    driver.add(0, &[(DATA, 64, true)]);
    driver.kick(0);
    driver.used(0);
    let features = |driver: &Driver, low: u64, high: u64| {
        driver.write(8, 0, 4);
        driver.write(0xc, low, 4);
        driver.write(8, 1, 4);
        driver.write(0xc, high, 4);
    };
    let modern = feature::VERSION_1 >> 32;
    // No features; features that nobody offered; none that a modern driver must take.
    for (low, high) in [(0, 0), (u64::MAX, modern), (1, modern), (0, modern | 1 << 31)] {
        driver.write(STATUS, 0, 1);
        driver.write(STATUS, 3, 1);
        features(&driver, low, high);
        driver.write(STATUS, 11, 1);
        assert_eq!(driver.read(STATUS, 1), 3, "{low:#x} {high:#x} are taken");
        driver.write(STATUS, 15, 1);
        assert!(!served(&mut driver));
    }
    // The driver gave up, or begins with the end.
    for status in [4, 7, 15, 128, 143, 255] {
        driver.write(STATUS, 0, 1);
        driver.write(STATUS, status, 1);
        assert!(!served(&mut driver), "{status}");
    }
    // Features beyond the 64 there are, and after they have been accepted.
    driver.restart();
    for select in [2, 3, u64::MAX] {
        driver.write(0, select, 4);
        assert_eq!(driver.read(4, 4), 0);
        driver.write(8, select, 4);
        driver.write(0xc, u64::MAX, 4);
        assert_eq!(driver.read(0xc, 4), 0);
    }
    features(&driver, u64::MAX, u64::MAX);
    driver.write(8, 1, 4);
    assert_eq!(driver.read(0xc, 4), modern);
    // Steps back, without a reset, change nothing for a device at work.
    for status in [11, 3, 1, 15] {
        driver.write(STATUS, status, 1);
    }
    driver.restart();
    world.serves(RNG);
    world.is_sound();
}

#[test]
fn every_port_may_be_accessed_at_every_width() {
    let world = world();
    for port in 0..=0xffffu16 {
        for width in [1, 2, 4] {
            let mut data = [0; 4];
            world.rig.bus.port_read(port, &mut data[..width]);
            for value in [[0xff; 4], [0x34, 6, 0xfe, 1], [0; 4]] {
                world.rig.bus.port_write(port, &value[..width]);
            }
        }
    }
    world.is_sound();
}

#[test]
fn what_a_guest_says_again_and_again_is_told_once() {
    let world = world();
    for _ in 0..100_000 {
        for (port, value) in [(0x505, 1), (0xcf9, 6), (0x64, 0xfe), (0x600, 0x34)] {
            world.rig.bus.port_write(port, &[value]);
        }
    }
    let told = std::iter::from_fn(|| world.rig.machine.wait(Duration::ZERO)).count();
    assert_eq!(told, 3, "a panic, a reset, an end");
    world.is_sound();
}

#[test]
fn the_chipset_takes_any_bytes_in_any_order() {
    let world = world();
    let (mut state, bus) = (1u64, &world.rig.bus);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for _ in 0..30_000 {
        let value = next() as u8;
        match next() % 5 {
            0 => bus.port_write(0x3f8 + (next() % 8) as u16, &[value]),
            1 => bus.port_write(0x70 + (next() % 2) as u16, &[value]),
            2 => bus.port_write(0x71, &[value]),
            3 => {
                world.rig.write(map::IOAPIC, next() & 0x3f, 4);
                world.rig.write(map::IOAPIC + 0x10, next() << 8 | next(), 4);
            }
            _ => drop(world.rig.machine.input(&[value; 3])),
        }
        bus.port_read(0x71, &mut [0]);
        bus.port_read(0x3f8 + (next() % 8) as u16, &mut [0]);
        world.rig.read(map::IOAPIC + 0x10, 4);
    }
    world.is_sound();
}

#[test]
fn any_message_may_be_sent_to_processors_in_software() {
    let ram = Arc::new(Ram::new(8 << 20).unwrap());
    let partition = Soft.create(ram, 3, 1_000_000).unwrap();
    for n in 0..200_000u64 {
        let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let near = 0xfee0_0000 | random >> 44;
        let address = [near, random, near | random << 40, u64::MAX][n as usize % 4];
        partition.signal(MsiMessage { address, data: (random >> 7) as u32 });
    }
}
