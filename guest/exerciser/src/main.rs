//! A tiny test kernel: exercises a virtual machine from the inside and says on the serial line what it found.
//!
//! Each test prints `pass NAME` or `fail NAME: WHY`; at the end comes `exerciser: N passed, M failed` and the machine is
//! powered off. Tests that need the outside print `host NAME` and wait for one byte on the serial line.
//!
//! With the command line `compute` it tests nothing and computes for ever.

#![no_std]
#![no_main]

mod apic;
mod cpu;
mod pci;
mod serial;
mod tests;
mod vectors;

core::arch::global_asm!(include_str!("boot.s"), options(att_syntax));

/// The memory map and more, as the PVH boot protocol hands it over (Xen, public/arch-x86/hvm/start_info.h).
#[repr(C)]
pub struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    map: u64,
    map_entries: u32,
}

impl StartInfo {
    /// Whether that is what the machine was started with.
    fn is_told(&self, words: &[u8]) -> bool {
        let said = self.command_line as *const u8;
        // SAFETY: the monitor has put a text that ends with a zero there, which nobody writes to; no byte behind that is read.
        let has = |(n, byte): (usize, &u8)| unsafe { *said.add(n) } == *byte;
        !said.is_null() && words.iter().chain(&[0]).enumerate().all(has)
    }
}

/// One line of the memory map.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MapEntry {
    start: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

#[unsafe(no_mangle)]
extern "C" fn kernel_main(info: &'static StartInfo) -> ! {
    serial::line("exerciser: hello");
    if info.is_told(b"compute") {
        cpu::compute();
    }
    vectors::init();
    // Where there are legacy interrupt controllers, they keep quiet.
    cpu::outb(0x21, 0xff);
    cpu::outb(0xa1, 0xff);
    let (passed, failed) = tests::run_all(info);
    serial::text("exerciser: ");
    serial::number(passed);
    serial::text(" passed, ");
    serial::number(failed);
    serial::line(" failed");
    cpu::power_off()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    serial::line("exerciser: panicked");
    cpu::power_off()
}

/// The core library's unwinding tables name this; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
