//! The 16550 at 0x3f8, polled.

use crate::cpu::{inb, outb};

const BASE: u16 = 0x3f8;

/// Writes one byte when the transmitter is ready.
pub fn put(byte: u8) {
    while inb(BASE + 5) & 0x20 == 0 {}
    outb(BASE, byte);
}

/// Writes text.
pub fn text(s: &str) {
    for b in s.bytes() {
        put(b);
    }
}

/// Writes text and ends the line.
pub fn line(s: &str) {
    text(s);
    put(b'\n');
}

/// Writes a decimal number.
pub fn number(mut n: u64) {
    let mut digits = [0u8; 20];
    let mut i = digits.len();
    loop {
        i -= 1;
        digits[i] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    while i < digits.len() {
        put(digits[i]);
        i += 1;
    }
}

/// Waits for a byte from the outside.
pub fn get() -> u8 {
    while inb(BASE + 5) & 1 == 0 {}
    inb(BASE)
}

/// Writes the scratch register and reads it back.
pub fn scratch(byte: u8) -> u8 {
    outb(BASE + 7, byte);
    inb(BASE + 7)
}

/// Lets the transmitter-empty interrupt in, or not.
pub fn transmit_interrupt(on: bool) {
    outb(BASE + 4, 0x0b);
    outb(BASE + 1, if on { 2 } else { 0 });
}
