//! Any file as a kernel: it is loaded or refused (`cargo fuzz run kernel`).

#![no_main]

#[path = "../../tests/machine/hostile/kernel.rs"]
mod kernel;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    kernel::load(input);
});
