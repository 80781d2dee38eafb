//! The tests.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::*;
use crate::{MapEntry, StartInfo, apic, pci, serial, vectors};

type Outcome = Result<(), &'static str>;

unsafe extern "C" {
    fn user_mix();
    fn user_dirty();
    fn user_spin();
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static end_of_image: u8;
}

fn check(holds: bool, otherwise: &'static str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// Runs all tests; gives how many passed and failed.
pub fn run_all(info: &'static StartInfo) -> (u64, u64) {
    apic::enable();
    let tests: [(&str, fn(&'static StartInfo) -> Outcome); 15] = [
        ("every page of memory keeps what is written to it", memory),
        ("a port answers", ports),
        ("a memory-mapped register answers", mapped_registers),
        ("configuration space reads the same both ways", configuration),
        ("exceptions come with the right vector and address", exceptions),
        ("user mode computes what it should", user_mode),
        ("an interrupt to oneself arrives", self_interrupt),
        ("the timer fires once", timer_once),
        ("the timer fires again and again", timer_periodic),
        ("the timer fires at a time-stamp", timer_deadline),
        ("a pin of the I/O APIC interrupts", pin),
        ("a pin that stays up interrupts again and again", level_pin),
        ("a device's message interrupts", message),
        ("a second processor starts", second_processor),
        ("the outside can talk to us", host),
    ];
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests {
        match test(info) {
            Ok(()) => {
                passed += 1;
                serial::text("pass ");
                serial::line(name);
            }
            Err(why) => {
                failed += 1;
                serial::text("fail ");
                serial::text(name);
                serial::text(": ");
                serial::line(why);
            }
        }
    }
    (passed, failed)
}

fn ram(info: &StartInfo) -> impl Iterator<Item = MapEntry> {
    // SAFETY: the boot protocol puts `map_entries` lines at `map`.
    let map = unsafe { core::slice::from_raw_parts(info.map as *const MapEntry, info.map_entries as usize) };
    map.iter().copied().filter(|e| e.kind == 1)
}

/// Writes a word into pages spread over all RAM above the image, in user mode (at full speed everywhere), and reads
/// them back.
fn memory(info: &'static StartInfo) -> Outcome {
    let image_end = &raw const end_of_image as u64;
    let mut seen = 0u64;
    for e in ram(info) {
        let start = e.start.max(image_end.max(0x20_0000)).next_multiple_of(4096);
        let end = (e.start + e.size).min(8 << 30);
        if start + 4096 > end {
            continue;
        }
        let stride = ((end - start) / 64).next_multiple_of(4096).max(4096);
        let mut at = start;
        while at + 8 <= end {
            write64(at, at ^ 0x5a5a_1234_8765_a5a5);
            at += stride;
        }
        write64(end - 8, end ^ 0x1111);
        let mut at = start;
        while at + 8 <= end {
            if at != end - 8 && read64(at) != at ^ 0x5a5a_1234_8765_a5a5 {
                return Err("a word was lost");
            }
            seen += 1;
            at += stride;
        }
        if read64(end - 8) != end ^ 0x1111 {
            return Err("the last word was lost");
        }
    }
    check(seen > 16, "there is hardly any memory")
}

fn ports(_: &StartInfo) -> Outcome {
    check(serial::scratch(0x5a) == 0x5a && serial::scratch(0xa5) == 0xa5, "the scratch register forgot")
}

fn mapped_registers(_: &StartInfo) -> Outcome {
    check(apic::io_read(1) >> 16 & 0xff == 23, "the I/O APIC has not 24 pins")?;
    apic::io_write(0x10 + 46, 0x1_0077);
    check(apic::io_read(0x10 + 46) & 0x1_00ff == 0x1_0077, "a redirection entry forgot")
}

fn configuration(_: &StartInfo) -> Outcome {
    let bridge = pci::read(0, 0);
    check(bridge != u32::MAX, "there is no host bridge")?;
    check(pci::read_mapped(0, 0) == bridge, "the mapped space differs")?;
    check(pci::read(31, 0x3c) == pci::read_mapped(31, 0x3c), "an empty slot differs")
}

fn exceptions(_: &StartInfo) -> Outcome {
    let before = (vectors::count(6), vectors::count(14), vectors::count(0));
    vectors::expect(2);
    // SAFETY: the handler skips the instruction.
    unsafe { core::arch::asm!("ud2") };
    check(vectors::count(6) == before.0 + 1, "no #UD")?;
    vectors::expect(3);
    // SAFETY: the handler skips the three-byte load.
    unsafe { core::arch::asm!("mov rax, [rcx]", in("rcx") 0x7f12_3456_7000u64, out("rax") _) };
    check(vectors::count(14) == before.1 + 1, "no #PF")?;
    check(vectors::last() == (0, 0x7f12_3456_7000), "wrong error code or address")?;
    vectors::expect(2);
    // SAFETY: the handler skips the two-byte division.
    unsafe { core::arch::asm!("div ecx", in("ecx") 0, inout("eax") 1 => _, inout("edx") 0 => _) };
    check(vectors::count(0) == before.2 + 1, "no #DE")
}

fn user_mode(_: &StartInfo) -> Outcome {
    let rounds = 200_000u64;
    let mut expected = 0u64;
    for _ in 0..rounds {
        expected = expected.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    }
    check(vectors::user(user_mix, rounds) == expected, "a wrong result")
}

/// Waits until `vector` came in `times` times more than `before`.
fn wait(vector: u8, before: u64, times: u64) -> Outcome {
    for _ in 0..2_000_000u32 {
        if vectors::count(vector) >= before + times {
            return Ok(());
        }
        window();
    }
    Err("it did not")
}

fn self_interrupt(_: &StartInfo) -> Outcome {
    let before = vectors::count(0x40);
    apic::command(apic::id(), 0x40);
    wait(0x40, before, 1)?;
    apic::command(0, 1 << 18 | 0x40);
    wait(0x40, before, 2)
}

fn timer_once(_: &StartInfo) -> Outcome {
    let before = vectors::count(0x41);
    apic::timer(0x41, false, 100_000);
    while vectors::count(0x41) == before {
        enable_and_halt();
    }
    for _ in 0..1000 {
        window();
    }
    check(vectors::count(0x41) == before + 1, "it fired twice")
}

fn timer_periodic(_: &StartInfo) -> Outcome {
    let before = vectors::count(0x42);
    apic::timer(0x42, true, 500_000);
    while vectors::count(0x42) < before + 5 {
        enable_and_halt();
    }
    apic::timer_off();
    Ok(())
}

fn timer_deadline(_: &StartInfo) -> Outcome {
    let before = vectors::count(0x43);
    let at = rdtsc() + 5_000_000;
    apic::deadline(0x43, at);
    while vectors::count(0x43) == before {
        enable_and_halt();
    }
    check(rdtsc() >= at, "it came early")
}

fn pin(_: &StartInfo) -> Outcome {
    let before = vectors::count(0x44);
    apic::route(4, 0x44);
    serial::transmit_interrupt(true);
    let outcome = wait(0x44, before, 1);
    serial::transmit_interrupt(false);
    apic::mask(4);
    outcome
}

fn level_pin(_: &StartInfo) -> Outcome {
    let before = vectors::count(LEVEL_VECTOR);
    apic::route_level(4, LEVEL_VECTOR);
    serial::transmit_interrupt(true);
    let outcome = wait(LEVEL_VECTOR, before, LEVEL_TIMES);
    (0..1000).for_each(|_| window());
    apic::mask(4);
    outcome?;
    // A paravirtual KVM was seen to tell the end of an interrupt before it came, and so to send one too many.
    check(vectors::count(LEVEL_VECTOR) <= before + LEVEL_TIMES + 1, "it goes on when the pin is down")
}

const LEVEL_VECTOR: u8 = 0x47;
/// How often it interrupts before it is lowered.
const LEVEL_TIMES: u64 = 3;

/// What is to be done for a device before its interrupt ends: until the pin is down, nothing but interrupts is executed.
pub fn service(vector: u64) {
    if vector == u64::from(LEVEL_VECTOR) && vectors::count(LEVEL_VECTOR) % LEVEL_TIMES == 0 {
        serial::transmit_interrupt(false);
    }
}

fn message(_: &StartInfo) -> Outcome {
    let before = vectors::count(0x45);
    let bytes = pci::entropy(apic::id(), 0x45, || {
        window();
        vectors::count(0x45) > before
    })?;
    check(bytes == 64, "not all bytes were delivered")
}

static AP_ID: AtomicU64 = AtomicU64::new(u64::MAX);
static COUNTER: AtomicU64 = AtomicU64::new(0);
static GO: AtomicU64 = AtomicU64::new(0);
const ROUNDS: u64 = 20_000;

#[unsafe(no_mangle)]
extern "C" fn ap_main() {
    vectors::load();
    apic::enable();
    AP_ID.store(u64::from(apic::id()), Ordering::SeqCst);
    while GO.load(Ordering::SeqCst) == 0 {
        core::hint::spin_loop();
    }
    for _ in 0..ROUNDS {
        COUNTER.fetch_add(1, Ordering::SeqCst);
    }
    loop {
        enable_and_halt();
    }
}

/// Starts processor 1 by INIT and SIPI (if the machine has one), races it on one counter, and interrupts it.
fn second_processor(_: &StartInfo) -> Outcome {
    let (from, to) = (&raw const ap_trampoline as u64, &raw const ap_trampoline_end as u64);
    for i in 0..to - from {
        // SAFETY: conventional memory at 0x8000 is nobody's.
        unsafe { ((0x8000 + i) as *mut u8).write_volatile(((from + i) as *const u8).read_volatile()) };
    }
    apic::command(1, 0x4500);
    apic::command(1, 0x4608);
    for _ in 0..3_000_000u32 {
        if AP_ID.load(Ordering::SeqCst) != u64::MAX {
            break;
        }
        core::hint::spin_loop();
    }
    if AP_ID.load(Ordering::SeqCst) == u64::MAX {
        serial::line("note: there is one processor");
        return Ok(());
    }
    check(AP_ID.load(Ordering::SeqCst) == 1, "it has the wrong APIC id")?;
    GO.store(1, Ordering::SeqCst);
    for _ in 0..ROUNDS {
        COUNTER.fetch_add(1, Ordering::SeqCst);
    }
    for _ in 0..30_000_000u32 {
        if COUNTER.load(Ordering::SeqCst) == 2 * ROUNDS {
            break;
        }
        core::hint::spin_loop();
    }
    check(COUNTER.load(Ordering::SeqCst) == 2 * ROUNDS, "atomic additions were lost")?;
    let before = vectors::count(0x46);
    apic::command(1, 0x46);
    wait(0x46, before, 1)
}

/// Where host-driven tests dirty pages: 16 MiB.
const PLAYGROUND: u64 = 16 << 20;

#[repr(C)]
struct Argument([AtomicU64; 3]);
static ARGUMENT: Argument = Argument([const { AtomicU64::new(0) }; 3]);

/// Does what single bytes from outside ask: `d` dirties 16 pages at 16 MiB in user mode; `s` spins in user mode with a
/// count at a printed address until the word before it is set (or for ever); `k` keeps register patterns over a halt;
/// `q` (or anything else) ends.
fn host(_: &StartInfo) -> Outcome {
    serial::line("host ready");
    let argument = &raw const ARGUMENT as u64;
    loop {
        match serial::get() {
            b'd' => {
                ARGUMENT.0[0].store(PLAYGROUND, Ordering::SeqCst);
                ARGUMENT.0[1].store(16, Ordering::SeqCst);
                ARGUMENT.0[2].fetch_add(0x0101, Ordering::SeqCst);
                vectors::user(user_dirty, argument);
                serial::line("host dirtied");
            }
            b's' => {
                ARGUMENT.0[0].store(0, Ordering::SeqCst);
                ARGUMENT.0[1].store(0, Ordering::SeqCst);
                serial::text("host spins ");
                serial::number(argument);
                serial::line("");
                vectors::user(user_spin, argument);
                serial::line("host spun");
            }
            b'k' => {
                serial::line("host keeps");
                keep()?;
                serial::line("host kept");
            }
            _ => return Ok(()),
        }
    }
}

/// Fills registers with patterns, waits for a byte, and checks that they kept them: state that went out and in.
fn keep() -> Outcome {
    let mut bad: u64;
    // SAFETY: saves what the compiler needs; polls the line status register until a byte is there.
    unsafe {
        core::arch::asm!(
            "push rbx", "push rbp",
            "mov r8, 0x1111", "mov r9, 0x2222", "mov r10, 0x3333", "mov r11, 0x4444",
            "mov rbx, 0x5555", "mov rbp, 0x6666", "mov rsi, 0x7777", "mov rdi, -0x8888",
            "mov edx, 0x3fd",
            "2: in al, dx", "test al, 1", "jz 2b",
            "xor ecx, ecx",
            "cmp r8, 0x1111", "setne al", "or cl, al",
            "cmp r9, 0x2222", "setne al", "or cl, al",
            "cmp r10, 0x3333", "setne al", "or cl, al",
            "cmp r11, 0x4444", "setne al", "or cl, al",
            "cmp rbx, 0x5555", "setne al", "or cl, al",
            "cmp rbp, 0x6666", "setne al", "or cl, al",
            "cmp rsi, 0x7777", "setne al", "or cl, al",
            "cmp rdi, -0x8888", "setne al", "or cl, al",
            "pop rbp", "pop rbx",
            out("rcx") bad, out("rax") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    serial::get();
    check(bad == 0, "a register changed")
}

/// The ACPI sleep control register of hardware-reduced machines, where ours puts it.
pub fn acpi_power_off() {
    outb(SLEEP_CONTROL, 5 << 2 | 1 << 5);
    outw(SLEEP_CONTROL, 0x2000);
}

const SLEEP_CONTROL: u16 = 0x600;
