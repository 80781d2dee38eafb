//! Instructions Rust has no words for.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

pub fn inb(port: u16) -> u8 {
    let v: u8;
    // SAFETY: this is the kernel; ports are its own.
    unsafe { asm!("in al, dx", out("al") v, in("dx") port, options(nomem, nostack)) };
    v
}

pub fn outb(port: u16, v: u8) {
    // SAFETY: as above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") v, options(nomem, nostack)) };
}

pub fn inl(port: u16) -> u32 {
    let v: u32;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", out("eax") v, in("dx") port, options(nomem, nostack)) };
    v
}

pub fn outl(port: u16, v: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") v, options(nomem, nostack)) };
}

pub fn outw(port: u16, v: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") v, options(nomem, nostack)) };
}

pub fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: the tests read MSRs that exist.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi, options(nomem, nostack)) };
    u64::from(hi) << 32 | u64::from(lo)
}

pub fn wrmsr(msr: u32, v: u64) {
    // SAFETY: the tests write MSRs that exist.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") v as u32, in("edx") (v >> 32) as u32, options(nostack)) };
}

pub fn rdtsc() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: always there.
    unsafe { asm!("rdtsc", out("eax") lo, out("edx") hi, options(nomem, nostack)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Lets interrupts in and waits for one.
pub fn enable_and_halt() {
    // SAFETY: handlers are installed.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Lets interrupts in for a moment.
pub fn window() {
    // SAFETY: handlers are installed.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// Reads a register in memory.
pub fn read32(at: u64) -> u32 {
    // SAFETY: everything below 8 GiB is mapped one to one.
    unsafe { (at as *const u32).read_volatile() }
}

/// Writes a register in memory.
pub fn write32(at: u64, v: u32) {
    // SAFETY: as in `read32`.
    unsafe { (at as *mut u32).write_volatile(v) }
}

/// Reads memory.
pub fn read64(at: u64) -> u64 {
    // SAFETY: as in `read32`.
    unsafe { (at as *const u64).read_volatile() }
}

/// Writes memory.
pub fn write64(at: u64, v: u64) {
    // SAFETY: as in `read32`.
    unsafe { (at as *mut u64).write_volatile(v) }
}

/// Powers the machine off through the ACPI sleep register, then waits.
pub fn power_off() -> ! {
    crate::tests::acpi_power_off();
    loop {
        // SAFETY: nothing more is to be done.
        unsafe { asm!("cli", "hlt") };
    }
}

/// Computes for ever: sums that follow from one another, in memory of 256 KiB.
pub fn compute() -> ! {
    static SUMS: [AtomicU64; 32 << 10] = [const { AtomicU64::new(0) }; 32 << 10];
    let mut sum = 1;
    loop {
        for one in &SUMS {
            sum = one.load(Ordering::Relaxed).rotate_left(7).wrapping_add(sum);
            one.store(sum, Ordering::Relaxed);
        }
    }
}
