//! A guest that does anything to its machine: no panic, no hang, and after a reset all works (`cargo fuzz run guest`).

#![no_main]

#[path = "../../tests/devices/driver.rs"]
#[allow(dead_code)]
mod driver;
#[path = "../../tests/machine/guest.rs"]
#[allow(dead_code)]
mod guest;
#[path = "../../tests/devices/hostile/operations.rs"]
mod operations;
#[path = "../../tests/devices/rig.rs"]
#[allow(dead_code)]
mod rig;
#[path = "../../tests/devices/hostile/world.rs"]
#[allow(dead_code)]
mod world;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let world = world::World::new();
    operations::run(&world, input);
    world.is_sound();
});
