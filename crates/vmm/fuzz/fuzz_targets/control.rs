//! Any bytes on the control socket: each line is answered or refused (`cargo fuzz run control`).

#![no_main]

#[path = "../../tests/machine/hostile/client.rs"]
mod client;
#[path = "../../tests/machine/guest.rs"]
#[allow(dead_code)]
mod guest;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    client::say(input);
});
