//! How machines live and end, shown with kernels of a few instructions.

use std::time::Duration;

use crate::guest::{Code, Guest};
use vmm::machine::Event;

const RESET: (u16, u8) = (0xcf9, 6);
const KEYBOARD: (u16, u8) = (0x64, 0xfe);
const POWER_OFF: (u16, u8) = (0x600, 0x34);
const PANIC: (u16, u8) = (0x505, 1);
const NEVER: Duration = Duration::from_millis(30);

fn says_and_asks((port, value): (u16, u8)) -> Code {
    Code::default().print("hello").out(port, value).spin()
}

#[test]
fn a_guest_that_powers_off_ends_with_power_off() {
    let guest = Guest::start(says_and_asks(POWER_OFF));
    assert_eq!(guest.event(), Event::PowerOff);
    assert_eq!(guest.screen.text(), "hello");
}

#[test]
fn both_ways_to_reset_end_with_reset() {
    for way in [RESET, KEYBOARD] {
        assert_eq!(Guest::start(says_and_asks(way)).event(), Event::Reset);
    }
}

#[test]
fn a_guest_panic_is_told_and_the_guest_runs_on() {
    let guest = Guest::start(Code::default().out(PANIC.0, PANIC.1).print("dumping").spin());
    assert_eq!(guest.event(), Event::GuestPanic);
    guest.screen.wait_for("dumping");
}

#[test]
fn a_triple_fault_is_told() {
    // No interrupt table: an undefined instruction cannot be handled, nor can what follows from that.
    let guest = Guest::start(Code::default().bytes(&[0x0f, 0x0b]));
    assert_eq!(guest.event(), Event::TripleFault);
}

#[test]
fn a_reset_guest_starts_again_from_its_kernel() {
    let guest = Guest::start(says_and_asks(RESET));
    for _ in 0..5 {
        assert_eq!(guest.event(), Event::Reset);
        guest.machine.reset().unwrap();
    }
    assert_eq!(guest.event(), Event::Reset);
    assert_eq!(guest.screen.text(), "hello".repeat(6));
}

#[test]
fn many_requests_to_reset_are_one_reset() {
    let asks = (0..50).fold(Code::default(), |code, _| code.out(KEYBOARD.0, KEYBOARD.1));
    let guest = Guest::start(asks.print(".").spin());
    assert_eq!(guest.event(), Event::Reset);
    guest.screen.wait_for(".");
    guest.machine.pause();
    guest.machine.reset().unwrap();
    guest.screen.wait_for("..");
    // The second life asked as often, and is told of once.
    let events = std::iter::from_fn(|| guest.machine.wait(NEVER)).count();
    assert_eq!(events, 1);
}

#[test]
fn a_machine_can_be_reset_after_a_triple_fault() {
    let guest = Guest::start(Code::default().print("x").bytes(&[0x0f, 0x0b]));
    assert_eq!(guest.event(), Event::TripleFault);
    guest.machine.reset().unwrap();
    assert_eq!(guest.event(), Event::TripleFault);
    assert_eq!(guest.screen.text(), "xx");
}

#[test]
fn nothing_runs_while_paused_and_all_goes_on_after() {
    let guest = Guest::start(Code::default().print("a").bytes(&[0xb9]).bytes(&u32::MAX.to_le_bytes()).spin());
    guest.screen.wait_for("a");
    guest.machine.pause();
    let before = guest.machine.instructions();
    std::thread::sleep(NEVER);
    assert_eq!(guest.machine.instructions(), before);
    for _ in 0..100 {
        guest.machine.resume();
        guest.machine.pause();
    }
    guest.machine.resume();
    std::thread::sleep(NEVER);
    guest.machine.pause();
    assert!(guest.machine.instructions() > before);
}

#[test]
fn pausing_twice_and_dropping_while_running_are_fine() {
    let guest = Guest::start(Code::default().spin());
    guest.machine.pause();
    guest.machine.pause();
    guest.machine.resume();
}

#[test]
fn a_halted_guest_with_interrupts_off_can_be_paused_and_dropped() {
    let guest = Guest::start(Code::default().print("z").bytes(&[0xfa, 0xf4]).spin());
    guest.screen.wait_for("z");
    guest.machine.pause();
    guest.machine.resume();
    assert_eq!(guest.machine.wait(NEVER), None);
}

#[test]
fn typed_input_reaches_the_guest_through_the_receiver() {
    // mov dx, 0x3fd; l: in al, dx; test al, 1; jz l; mov dx, 0x3f8; in al, dx; out dx, al
    let echo = [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee];
    let guest = Guest::start(Code::default().bytes(&echo).bytes(&echo).out(POWER_OFF.0, POWER_OFF.1).spin());
    let mut left = &b"ok"[..];
    while !left.is_empty() {
        left = &left[guest.machine.input(left)..];
        std::thread::yield_now();
    }
    assert_eq!(guest.event(), Event::PowerOff);
    assert_eq!(guest.screen.text(), "ok");
}
