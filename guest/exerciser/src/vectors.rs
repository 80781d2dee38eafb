//! Exceptions and interrupts: what came in, and the way back from user mode.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// What the stubs in boot.s push.
#[repr(C)]
pub struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// RAX in [`Frame::registers`].
const RAX: usize = 14;
/// What an exception handler may be told to do: skip this many bytes.
static SKIP: AtomicU64 = AtomicU64::new(0);
static LAST_ERROR: AtomicU64 = AtomicU64::new(0);
static LAST_CR2: AtomicU64 = AtomicU64::new(0);
static COUNTS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);
static mut IDT: Idt = Idt([[0; 2]; 256]);

unsafe extern "C" {
    static vector_stubs: u8;
    fn user_return();
    fn user_call(function: u64, argument: u64) -> u64;
}

/// Fills the interrupt descriptor table and loads it, here and on each further processor.
pub fn init() {
    for vector in 0..256u64 {
        let handler = &raw const vector_stubs as u64 + vector * 16;
        let low = handler & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        // SAFETY: only the boot processor writes the table, before anybody uses it.
        unsafe { (&raw mut IDT.0[vector as usize]).write([low, handler >> 32]) };
    }
    load();
}

/// Loads the interrupt descriptor table.
pub fn load() {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let pointer = Pointer(4095, &raw const IDT as u64);
    // SAFETY: the table is filled and lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

#[unsafe(no_mangle)]
extern "C" fn handle_vector(frame: &mut Frame) {
    COUNTS[(frame.vector & 255) as usize].fetch_add(1, Ordering::SeqCst);
    LAST_ERROR.store(frame.error, Ordering::SeqCst);
    if frame.vector == 14 {
        let cr2: u64;
        // SAFETY: reading CR2 changes nothing.
        unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) };
        LAST_CR2.store(cr2, Ordering::SeqCst);
    }
    if frame.vector == 6 && frame.cs & 3 == 3 {
        // A user_call is done: go back to its caller with the kernel's segments. RSP is loaded there.
        frame.rip = user_return as *const () as u64;
        frame.cs = 8;
        frame.ss = 0x10;
        frame.rflags = 2;
        return;
    }
    if frame.vector < 32 {
        let skip = SKIP.swap(0, Ordering::SeqCst);
        if skip == 0 {
            unexpected(frame);
        }
        frame.rip += skip;
        return;
    }
    crate::tests::service(frame.vector);
    crate::apic::end_of_interrupt();
}

fn unexpected(frame: &Frame) -> ! {
    use crate::serial::{line, number, text};
    text("exerciser: unexpected exception ");
    number(frame.vector);
    text(" error ");
    number(frame.error);
    text(" at ");
    number(frame.rip);
    text(" rax ");
    number(frame.registers[RAX]);
    line("");
    crate::cpu::power_off()
}

/// How often `vector` came in.
pub fn count(vector: u8) -> u64 {
    COUNTS[usize::from(vector)].load(Ordering::SeqCst)
}

/// The next exception is expected and skips `bytes` of instruction.
pub fn expect(bytes: u64) {
    SKIP.store(bytes, Ordering::SeqCst);
}

/// Error code and CR2 of the last exception.
pub fn last() -> (u64, u64) {
    (LAST_ERROR.load(Ordering::SeqCst), LAST_CR2.load(Ordering::SeqCst))
}

/// Runs one of boot.s's user functions at privilege level 3.
pub fn user(function: unsafe extern "C" fn(), argument: u64) -> u64 {
    // SAFETY: the functions in boot.s keep to the convention and touch only what `argument` names.
    unsafe { user_call(function as *const () as u64, argument) }
}
