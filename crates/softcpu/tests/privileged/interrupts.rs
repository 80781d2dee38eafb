//! Interrupts from outside: when they come in, in which order, and the local APIC they come through (Intel SDM vol. 3,
//! 6.3 to 6.9 and chapter 11).

use softcpu::{Activity, Exit, rflags};

use crate::guest::{CODE, DATA, Guest, HANDLERS, code};
use crate::{r, seg, vector};

const BASE: u64 = 0xfee0_0000;
/// A linear page that leads to the local APIC's registers.
const APIC: u64 = DATA + 0x2000;
/// x2APIC mode in IA32_APIC_BASE.
const X2APIC: u64 = 1 << 10;

/// A 64-bit guest whose local APIC is enabled, its registers at [`APIC`] and in RBX; interrupts are enabled if `open`.
fn guest(code: &[u8], open: bool) -> Guest {
    let mut g = Guest::long(code).with(r::BX, APIC).flags(if open { rflags::IF } else { 0 });
    g.map(APIC, BASE | 0x1b);
    let mut state = g.cpu.state();
    state.apic.registers[0xf] = 0x1ff;
    g.cpu.set_state(&state);
    g.begin();
    g
}

/// The same with the APIC in x2APIC mode.
fn x2apic(code: &[u8]) -> Guest {
    let mut g = guest(code, false);
    let mut state = g.cpu.state();
    state.apic.base |= X2APIC;
    g.cpu.set_state(&state);
    g
}

fn interrupt(g: &Guest, vector: u8) {
    g.system.signal_msi(BASE, vector.into());
}

fn nmi(g: &Guest) {
    g.system.signal_msi(BASE, 0x400);
}

#[test]
fn an_interrupt_waits_for_if_and_comes_between_instructions() {
    // Vol. 3, 6.8.1.
    let mut g = guest(code!(64, "inc eax"), true);
    interrupt(&g, 0x40);
    let taken = g.go_to_halt().expect("an interrupt");
    assert_eq!((taken.vector, taken.at, taken.rflags), (0x40, 0, 0x202));
    assert_eq!(g.state.apic.registers[0x12], 1, "in service");
    let mut g = guest(code!(64, "inc eax"), false);
    interrupt(&g, 0x40);
    assert_eq!(g.go_to_halt(), None);
    assert_eq!(g.state.apic.registers[0x22], 1, "still requested");
}

#[test]
fn sti_lets_one_more_instruction_run() {
    // Vol. 2, STI: not if IF was set already; POPF and IRET do not.
    for (code, at) in [
        (code!(64, "sti", "nop", "nop"), Some(2)),
        (code!(64, "sti", "cli", "nop"), None),
        (code!(64, "sti", "sti", "nop"), Some(2)),
        (code!(64, "push 0x202", "popfq", "nop"), Some(6)),
        (code!(64, "mov ss, edx", "sti", "nop"), Some(4)),
        (code!(64, "sti", "hlt"), Some(2)),
    ] {
        let mut g = guest(code, false);
        let mut state = g.cpu.state();
        state.gpr[r::DX] = 0x10;
        g.cpu.set_state(&state);
        interrupt(&g, 0x40);
        assert_eq!(g.go_to_halt().map(|t| t.at), at, "{code:x?}");
    }
}

#[test]
fn a_load_of_ss_holds_interrupts_off_for_one_instruction() {
    // Vol. 3, 6.8.3. The interrupt arrives with the first instruction, a write to CR8.
    for (code, at) in [
        (code!(64, "mov cr8, rcx", "nop"), 4),
        (code!(64, "cli", "mov cr8, rcx", "push rsi", "mov ss, edx", "popfq", "nop"), 0),
    ] {
        let mut g = guest(code, true);
        let mut state = g.cpu.state();
        (state.gpr[r::DX], state.gpr[r::SI]) = (0x10, 0x202);
        state.apic.registers[8] = 0xf0;
        g.cpu.set_state(&state);
        interrupt(&g, 0x40);
        let taken = g.go_to_halt().expect("an interrupt");
        // CLI 1, MOV CR8 4, PUSH 1, MOV SS 2, POPF 1: the next boundary is that behind POPF.
        assert_eq!(taken.at, if at == 0 { 9 } else { at });
    }
    let mut g = guest(code!(64, "nop", "nop"), true);
    let mut state = g.cpu.state();
    state.shadow = true;
    g.cpu.set_state(&state);
    interrupt(&g, 0x40);
    assert_eq!(g.go_to_halt().map(|t| t.at), Some(1));
}

#[test]
fn a_halted_processor_goes_on_behind_hlt() {
    // Vol. 2, HLT.
    let mut g = guest(code!(64, "nop"), true);
    assert_eq!(g.go_to_halt(), None);
    assert_eq!(g.state.activity, Activity::Halted);
    interrupt(&g, 0x40);
    assert_eq!(g.go_to_halt().map(|t| t.at), Some(2));
    // Without IF only an NMI wakes it.
    let mut g = guest(code!(64, "nop"), false);
    assert_eq!(g.go_to_halt(), None);
    interrupt(&g, 0x40);
    assert_eq!((g.go_to_halt(), g.state.rip), (None, CODE + 2));
    nmi(&g);
    assert_eq!(g.go_to_halt().map(|t| (t.vector, t.at)), Some((vector::NMI, 2)));
}

#[test]
fn an_nmi_comes_before_an_interrupt_and_needs_no_if() {
    // Vol. 3, 6.9.
    let mut g = guest(code!(64, "nop"), true);
    interrupt(&g, 0xff);
    nmi(&g);
    assert_eq!(g.go_to_halt().map(|t| (t.vector, t.at)), Some((vector::NMI, 0)));
    let mut g = guest(code!(64, "nop"), false);
    nmi(&g);
    assert_eq!(g.go_to_halt().map(|t| (t.vector, t.at)), Some((vector::NMI, 0)));
    assert!(g.state.nmi_blocked);
}

#[test]
fn an_nmi_in_the_handler_of_an_nmi_waits_for_iret() {
    // Vol. 3, 6.7.1. The handler sends itself another.
    let mut g = x2apic(code!(64, "nop"));
    g.on(
        vector::NMI,
        code!(
            64,
            "inc r8",
            "cmp r8, 2",
            "je 22f",
            "mov ecx, 0x830",
            "mov eax, 0x40400",
            "xor edx, edx",
            "wrmsr",
            "nop",
            "inc r9",
            "jmp 33f",
            "22:",
            "mov r10, r9",
            "33:",
            "iretq"
        ),
    );
    nmi(&g);
    assert_eq!(g.go_to_halt(), None);
    assert_eq!((g.reg(8), g.reg(9), g.reg(10)), (2, 1, 1));
    assert!(!g.state.nmi_blocked);
}

#[test]
fn the_task_priority_lets_only_higher_classes_through() {
    // Vol. 3, 11.8.3.1 and 11.8.6.
    for (tpr, vector, comes) in
        [(0x50, 0x5f, false), (0x50, 0x60, true), (0x4f, 0x50, true), (0xf0, 0xff, false)]
    {
        let mut g = guest(code!(64, "mov [rbx + 0x80], eax", "sti", "nop", "mov ecx, [rbx + 0xa0]"), false);
        let mut state = g.cpu.state();
        state.gpr[r::AX] = tpr;
        g.cpu.set_state(&state);
        interrupt(&g, vector);
        assert_eq!(g.go_to_halt().is_some(), comes, "{vector:#x} at {tpr:#x}");
        if !comes {
            assert_eq!(g.reg(r::CX), tpr, "PPR");
        }
    }
}

#[test]
fn an_interrupt_in_service_holds_off_its_class_until_its_end() {
    // Vol. 3, 11.8.4 and 11.8.5.
    let order = |first: u8, second: u8, end: bool| {
        let mut g = guest(code!(64, "nop"), true);
        // The first handler lets interrupts in, waits, and ends its own.
        let handler = code!(
            64,
            "inc r8",
            "sti",
            "nop",
            "mov r9, r10",
            "mov dword ptr [rbx + 0xb0], 0",
            "jmp 22f",
            "22:",
            "mov r11, r10",
            "cli"
        );
        let without =
            code!(64, "inc r8", "sti", "nop", "mov r9, r10", "jmp 22f", "22:", "mov r11, r10", "cli");
        g.on(first, if end { handler } else { without });
        g.on(second, code!(64, "inc r10", "iretq"));
        interrupt(&g, first);
        interrupt(&g, second);
        assert_eq!(g.go_to_halt(), None);
        (g.reg(8), g.reg(9), g.reg(11))
    };
    assert_eq!(order(0x55, 0x51, true), (1, 0, 1), "the same class waits for the end of the first");
    assert_eq!(order(0x55, 0x41, true), (1, 0, 1));
    assert_eq!(order(0x55, 0x41, false), (1, 0, 0));
}

#[test]
fn requests_are_served_by_priority() {
    // Vol. 3, 11.8.3.
    let mut g = guest(code!(64, "nop"), true);
    for (vector, code) in [
        (0x31, code!(64, "shl r8, 4", "or r8, 1", "mov dword ptr [rbx + 0xb0], 0", "iretq")),
        (0x91, code!(64, "shl r8, 4", "or r8, 2", "mov dword ptr [rbx + 0xb0], 0", "iretq")),
        (0x35, code!(64, "shl r8, 4", "or r8, 3", "mov dword ptr [rbx + 0xb0], 0", "iretq")),
    ] {
        g.on(vector, code);
        interrupt(&g, vector);
    }
    while g.go_to_halt().is_none() && g.reg(8) < 0x100 {}
    assert_eq!(g.reg(8), 0x231);
    assert!(g.state.apic.registers[0x10..0x18].iter().all(|&r| r == 0));
}

/// Runs guest code that never ends until it takes an interrupt; `None` if it does not.
fn wait(g: &mut Guest, nanoseconds: u64) -> Option<u8> {
    let clock = g.system.clock().clone();
    clock.set_ns(clock.now_ns() + nanoseconds);
    let exit = g.cpu.run_for(20_000);
    g.state = g.cpu.state();
    match exit {
        None => None,
        Some(Exit::Halted { .. }) => u8::try_from((g.state.rip - HANDLERS) / 16).ok(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_timer_fires_once_periodically_or_at_a_time_stamp() {
    // Vol. 3, 11.5.4 and 11.5.4.1.
    let arm = code!(
        64,
        "mov dword ptr [rbx + 0x3e0], 0xb",
        "mov [rbx + 0x320], ecx",
        "mov dword ptr [rbx + 0x380], 1000",
        "sti",
        "22:",
        "jmp 22b"
    );
    let go_on = |g: &mut Guest| {
        // Out of the handler, its interrupt ended.
        let mut state = g.cpu.state();
        state.rip = CODE + 24;
        state.rflags |= rflags::IF;
        state.activity = Activity::Running;
        state.apic.registers[0x10..0x18].fill(0);
        g.cpu.set_state(&state);
    };
    for (mode, second) in [(0u64, None), (1 << 17, Some(0x40))] {
        let mut g = guest(arm, false);
        let mut state = g.cpu.state();
        state.gpr[r::CX] = 0x40 | mode;
        g.cpu.set_state(&state);
        g.system.clock().stop();
        assert_eq!(wait(&mut g, 0), None);
        assert_eq!(wait(&mut g, 999), None);
        assert_eq!(wait(&mut g, 1), Some(0x40));
        go_on(&mut g);
        assert_eq!(wait(&mut g, 999), None);
        assert_eq!(wait(&mut g, 1), second);
    }
    let mut g = guest(
        code!(
            64,
            "mov dword ptr [rbx + 0x320], 0x40040",
            "mfence",
            "mov ecx, 0x6e0",
            "rdtsc",
            "add eax, 5000",
            "adc edx, 0",
            "wrmsr",
            "sti",
            "22:",
            "jmp 22b"
        ),
        false,
    );
    g.system.clock().stop();
    assert_eq!(wait(&mut g, 0), None);
    assert_ne!(g.state.apic.tsc_deadline, 0);
    assert_eq!(wait(&mut g, 4999), None);
    assert_eq!(wait(&mut g, 1), Some(0x40));
    assert_eq!(g.state.apic.tsc_deadline, 0);
}

#[test]
fn x2apic_registers_are_msrs_of_64_bits() {
    // Vol. 3, 11.12.
    let read = |msr: u64| {
        let mut g = x2apic(code!(64, "rdmsr"));
        let mut state = g.cpu.state();
        (state.gpr[r::CX], state.gpr[r::AX], state.gpr[r::DX]) = (msr, !0, !0);
        g.cpu.set_state(&state);
        let taken = g.go_to_halt();
        assert!(taken.is_none_or(|t| (t.vector, t.error) == (vector::GP, 0)));
        taken.is_none().then(|| g.reg(r::AX) | g.reg(r::DX) << 32)
    };
    assert_eq!(read(0x802), Some(0));
    assert_eq!(read(0x803), Some(0x5_0014));
    assert_eq!(read(0x80d), Some(1));
    assert_eq!(read(0x80f), Some(0x1ff));
    for none in [0x800, 0x80b, 0x80e, 0x831, 0x83f, 0x8ff] {
        assert_eq!(read(none), None, "{none:#x}");
    }
    // The page is memory in this mode.
    let mut g = x2apic(code!(64, "mov eax, [rbx + 0x30]"));
    assert_eq!(g.go_to_halt(), None);
    assert_eq!(g.reg(r::AX), 0xffff_ffff);
}

#[test]
fn a_processor_sends_itself_interrupts() {
    // Vol. 3, 11.12.11 and 11.6.1.
    let mut g =
        x2apic(code!(64, "mov ecx, 0x83f", "mov eax, 0x77", "xor edx, edx", "wrmsr", "sti", "nop", "nop"));
    let taken = g.go_to_halt().expect("an interrupt");
    assert_eq!((taken.vector, taken.at), (0x77, 16));
    let mut g = guest(code!(64, "mov dword ptr [rbx + 0x300], 0x40078", "jmp 22f", "22:", "nop"), true);
    let taken = g.go_to_halt().expect("an interrupt");
    assert_eq!((taken.vector, taken.at), (0x78, 12));
}

#[test]
fn init_and_startup_begin_another_processor_in_real_mode() {
    // Vol. 3, 9.4.4 and 11.6.4.
    let mut g = x2apic(code!(
        64,
        "mov ecx, 0x830",
        "mov edx, 1",
        "mov eax, 0xc500",
        "wrmsr",
        "mov eax, 0x650",
        "wrmsr"
    ));
    let mut other = g.second();
    assert_eq!(other.run_for(1000), Some(Exit::Halted { deadline: None }));
    assert_eq!(other.state().activity, Activity::Uninitialized);
    g.write(0x5_0000, code!(16, "mov ax, cs", "mov ds, ax", "mov word ptr [0x100], 0x1234"));
    assert_eq!(g.go_to_halt(), None);
    assert!(matches!(other.run_for(1000), Some(Exit::Halted { .. })));
    let state = other.state();
    assert_eq!((g.read16(0x5_0100), state.activity), (0x1234, Activity::Halted));
    assert_eq!((state.segments[seg::CS].selector, state.segments[seg::CS].base), (0x5000, 0x5_0000));
    assert_eq!((state.cr0, state.efer, state.gpr[r::DX]), (0x6000_0010, 0, 0x6f1));
}
