//! Any bytes, in any mode, for a few thousand instructions: no panic, no hang (`cargo fuzz run any_bytes`).

#![no_main]

#[path = "../../tests/hostile/machine.rs"]
mod machine;
#[path = "../../tests/ram/mod.rs"]
mod ram;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    machine::run(input, 4000);
});
