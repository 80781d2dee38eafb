//! The local APIC in x2APIC mode, and the I/O APIC.

use crate::cpu::{rdmsr, read32, write32, wrmsr};

const IOAPIC: u64 = 0xfec0_0000;

/// Turns the local APIC on in x2APIC mode.
pub fn enable() {
    wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
    wrmsr(0x80f, 0x1ff);
    wrmsr(0x808, 0);
}

/// This processor's APIC id.
pub fn id() -> u32 {
    rdmsr(0x802) as u32
}

/// Tells the local APIC that the interrupt in service is done.
pub fn end_of_interrupt() {
    wrmsr(0x80b, 0);
}

/// Sends an interrupt command.
pub fn command(destination: u32, low: u32) {
    wrmsr(0x830, u64::from(destination) << 32 | u64::from(low));
}

/// Starts the timer: `periodic` or once, `count` ticks (divided by 1), on `vector`.
pub fn timer(vector: u8, periodic: bool, count: u32) {
    wrmsr(0x83e, 0xb);
    wrmsr(0x832, u64::from(vector) | if periodic { 1 << 17 } else { 0 });
    wrmsr(0x838, u64::from(count));
}

/// Arms the timer for a time-stamp.
pub fn deadline(vector: u8, tsc: u64) {
    wrmsr(0x832, u64::from(vector) | 2 << 17);
    wrmsr(0x6e0, tsc);
}

/// Stops the timer.
pub fn timer_off() {
    wrmsr(0x838, 0);
    wrmsr(0x832, 1 << 16);
}

/// Reads a register of the I/O APIC.
pub fn io_read(register: u32) -> u32 {
    write32(IOAPIC, register);
    read32(IOAPIC + 0x10)
}

/// Writes a register of the I/O APIC.
pub fn io_write(register: u32, v: u32) {
    write32(IOAPIC, register);
    write32(IOAPIC + 0x10, v);
}

/// Sends pin `pin` to this processor as `vector`, edge-triggered.
pub fn route(pin: u32, vector: u8) {
    io_write(0x11 + pin * 2, id() << 24);
    io_write(0x10 + pin * 2, u32::from(vector));
}

/// The same, level-triggered.
pub fn route_level(pin: u32, vector: u8) {
    io_write(0x11 + pin * 2, id() << 24);
    io_write(0x10 + pin * 2, 1 << 15 | u32::from(vector));
}

/// Masks pin `pin`.
pub fn mask(pin: u32) {
    io_write(0x10 + pin * 2, 1 << 16);
}
