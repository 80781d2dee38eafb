//! Breakpoints and single stepping (Intel SDM vol. 3, chapter 18).

use softcpu::rflags;

use crate::guest::{CODE, DATA, Guest, STACK, Taken, code};
use crate::{r, sel, vector};

const B0: u64 = 1 << 0;
const BD: u64 = 1 << 13;
const BS: u64 = 1 << 14;
/// What DR6 tells, without the bits that never change.
const TOLD: u64 = 0xe00f;
const GD: u64 = 1 << 13;
const DE: u64 = 1 << 3;

const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const PORT: u64 = 2;
const READ_WRITE: u64 = 3;

/// DR7 that enables breakpoint `n` for this kind of access to 1 << `log` bytes.
fn dr7(n: u64, kind: u64, size: u64) -> u64 {
    let length = match size {
        1 => 0,
        2 => 1,
        4 => 3,
        _ => 2,
    };
    0x400 | 2 << (n * 2) | (kind | length << 2) << (16 + n * 4)
}

fn watching(code: &[u8], at: u64, kind: u64, size: u64) -> Guest {
    let mut g = Guest::long(code).with(r::BX, DATA).with(r::DI, DATA).with(r::SI, DATA + 0x100);
    g.state.dr[0] = at;
    g.state.dr[7] = dr7(0, kind, size);
    g
}

/// Takes a #DB; what DR6 tells of it.
fn debug(g: &mut Guest) -> (Taken, u64) {
    let taken = g.fault();
    assert_eq!(taken.vector, vector::DB);
    (taken, g.state.dr[6] & TOLD)
}

#[test]
fn single_stepping_traps_after_each_instruction() {
    // Vol. 3, 18.3.1.4: the handler runs without TF, the saved flags have it.
    let mut g = Guest::long(code!(64, "inc eax", "inc eax")).flags(rflags::TF);
    let (taken, told) = debug(&mut g);
    assert_eq!((taken.at, told, g.reg(r::AX)), (2, BS, 1));
    assert_eq!((taken.rflags & rflags::TF, taken.rflags & rflags::RF), (rflags::TF, 0));
    assert_eq!(g.state.rflags & rflags::TF, 0);
    // With a handler that returns, every instruction once.
    let mut g =
        Guest::long(code!(64, "inc eax", "inc eax", "jmp 22f", "nop", "22:", "push rax", "popfq", "nop"))
            .flags(rflags::TF);
    g.on(vector::DB, code!(64, "inc ecx", "iretq"));
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::CX)), (2, 5), "POPF that clears TF is the last");
}

#[test]
fn popf_and_iret_that_set_the_trap_flag_trap_after_the_next_instruction() {
    // Vol. 3, 18.3.1.4.
    let mut g = Guest::long(code!(64, "push rcx", "popfq", "inc eax", "inc eax")).with(r::CX, rflags::TF);
    let (taken, told) = debug(&mut g);
    assert_eq!((taken.at, told, g.reg(r::AX)), (4, BS, 1));
    let mut g = Guest::long(code!(64, "iretq", "inc eax", "inc eax")).with(r::SP, STACK - 40);
    g.write_words(STACK - 40, [CODE + 2, sel::CODE.into(), rflags::TF, STACK, sel::DATA.into()]);
    assert_eq!(debug(&mut g).0.at, 4);
}

#[test]
fn software_interrupts_are_not_stepped_into_and_faults_not_through() {
    // Vol. 3, 6.12.1.3: entering a handler clears TF and the pending trap with it.
    let mut g = Guest::long(code!(64, "int 0x40")).flags(rflags::TF);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.rflags & rflags::TF), (0x40, rflags::TF));
    let mut g = Guest::long(code!(64, "ud2")).flags(rflags::TF);
    let taken = g.fault();
    assert_eq!((taken.vector, g.state.dr[6] & TOLD), (vector::UD, 0));
}

#[test]
fn a_repeated_instruction_is_stepped_element_by_element() {
    // Vol. 3, 18.3.1.4.
    let mut g = Guest::long(code!(64, "rep stosb", "push rbx", "popfq", "nop"))
        .with(r::CX, 3)
        .with(r::DI, DATA)
        .flags(rflags::TF);
    g.on(vector::DB, code!(64, "inc edx", "iretq"));
    g.run();
    assert_eq!((g.reg(r::DX), g.reg(r::CX), g.reg(r::DI)), (5, 0, DATA + 3), "three elements, PUSH and POPF");
}

#[test]
fn an_instruction_breakpoint_is_a_fault_that_rf_holds_off_once() {
    // Vol. 3, 18.3.1.1.
    let mut g = watching(code!(64, "inc eax", "inc eax"), CODE + 2, EXECUTE, 1);
    let (taken, told) = debug(&mut g);
    assert_eq!((taken.at, told, g.reg(r::AX)), (2, B0, 1));
    let mut g =
        watching(code!(64, "inc eax", "22:", "inc eax", "cmp eax, 5", "jne 22b"), CODE + 2, EXECUTE, 1);
    g.on(vector::DB, code!(64, "inc ecx", "bts qword ptr [rsp + 16], 16", "iretq"));
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(r::AX)), (4, 5));
    // A fault of the instruction saves RF, so that trying it again does not break again.
    let mut g = watching(code!(64, "mov al, [rbx]"), CODE, EXECUTE, 1).flags(rflags::RF);
    g.unmap(DATA);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.rflags & rflags::RF), (vector::PF, rflags::RF));
}

#[test]
fn a_breakpoint_on_a_repeated_instruction_breaks_once() {
    // Vol. 3, 18.3.1.1: RF stays set until the instruction is complete.
    for stepped in [0, rflags::TF] {
        let mut g = watching(code!(64, "rep stosb", "push r9", "popfq", "nop"), CODE, EXECUTE, 1)
            .with(r::CX, 3)
            .flags(stepped);
        g.on(
            vector::DB,
            code!(
                64,
                "mov rdx, dr6",
                "test dl, 1",
                "jz 22f",
                "inc r8",
                "bts qword ptr [rsp + 16], 16",
                "22:",
                "xor edx, edx",
                "mov dr6, rdx",
                "iretq"
            ),
        );
        g.run();
        assert_eq!((g.reg(8), g.reg(r::CX)), (1, 0), "TF {stepped:#x}");
    }
}

#[test]
fn data_breakpoints_trap_after_the_access_that_overlaps_them() {
    // Vol. 3, 18.2.5 and 18.3.1.2.
    let (load, store, rmw) = (
        code!(64, "mov eax, [rbx]", "nop"),
        code!(64, "mov [rbx], eax", "nop"),
        code!(64, "add [rbx], eax", "nop"),
    );
    for (what, code, at, kind, size, hit) in [
        ("a write", store, DATA, WRITE, 4, true),
        ("a read is none", load, DATA, WRITE, 4, false),
        ("a read", load, DATA, READ_WRITE, 4, true),
        ("a write by read-write", store, DATA, READ_WRITE, 1, true),
        ("a read-modify-write", rmw, DATA, WRITE, 1, true),
        ("the last byte", store, DATA + 3, WRITE, 1, true),
        ("behind it", store, DATA + 4, WRITE, 1, false),
        ("in an aligned field of two", store, DATA + 3, WRITE, 2, true),
        ("below", store, DATA - 1, WRITE, 1, false),
        ("in an aligned field of eight", store, DATA + 7, WRITE, 8, true),
    ] {
        let mut g = watching(code, at, kind, size);
        if hit {
            let (taken, told) = debug(&mut g);
            assert_eq!((taken.at, told), (2, B0), "{what}");
        } else {
            g.run();
        }
    }
}

#[test]
fn every_kind_of_access_is_watched() {
    // Vol. 3, 18.3.1.2: stack, strings, SSE, x87, locked and unaligned ones.
    for (code, at, kind) in [
        (code!(64, "push rax", "nop"), STACK - 8, WRITE),
        (code!(64, "pop rax", "nop"), STACK, READ_WRITE),
        (code!(64, "call 22f", "22:", "nop"), STACK - 8, WRITE),
        (code!(64, "movsb", "nop"), DATA, WRITE),
        (code!(64, "movsb", "nop"), DATA + 0x100, READ_WRITE),
        (code!(64, "movups [rbx], xmm0", "nop"), DATA + 15, WRITE),
        (code!(64, "movups xmm0, [rbx]", "nop"), DATA + 15, READ_WRITE),
        (code!(64, "fstp tbyte ptr [rbx]", "nop"), DATA + 9, WRITE),
        (code!(64, "lock xadd [rbx], rax", "nop"), DATA + 7, WRITE),
        (code!(64, "cmpxchg16b [rbx]", "nop"), DATA + 8, WRITE),
        (code!(64, "fxsave [rbx]", "nop"), DATA + 100, WRITE),
        (code!(64, "mov [rbx + 0xffe], rax", "nop"), DATA + 0x1000, WRITE),
        (code!(64, "mov rax, [rbx + 0xffe]", "nop"), DATA + 0x1000, READ_WRITE),
        (code!(64, "add [rbx + 0xffe], rax", "nop"), DATA + 0x1000, WRITE),
    ] {
        let mut g = watching(code, at, kind, 1);
        assert_eq!(debug(&mut g).1, B0, "{code:x?}");
    }
}

#[test]
fn a_repeated_instruction_traps_at_the_element_that_is_watched() {
    // Vol. 3, 18.3.1.2; exact, as without fast string operations.
    for count in [10, 100_000] {
        let mut g = watching(code!(64, "rep stosb", "nop"), DATA + 4, WRITE, 1).with(r::CX, count);
        let (taken, told) = debug(&mut g);
        assert_eq!((taken.at, told, g.reg(r::CX), g.reg(r::DI)), (0, B0, count - 5, DATA + 5));
        assert_eq!(taken.rflags & rflags::RF, rflags::RF);
    }
}

#[test]
fn two_conditions_of_one_instruction_are_one_exception() {
    // Vol. 3, 18.2.3.
    let mut g = watching(code!(64, "mov [rbx], eax", "nop"), DATA, WRITE, 4).flags(rflags::TF);
    (g.state.dr[3], g.state.dr[7]) = (DATA + 2, g.state.dr[7] | dr7(3, READ_WRITE, 2));
    assert_eq!(debug(&mut g).1, BS | B0 | 1 << 3);
    // DR6 keeps what was there.
    let mut g = watching(code!(64, "mov [rbx], eax", "nop"), DATA, WRITE, 4);
    g.state.dr[6] |= 1 << 2;
    assert_eq!(debug(&mut g).1, B0 | 1 << 2);
}

#[test]
fn port_breakpoints_need_de() {
    // Vol. 3, 18.2.4.
    for (de, hit) in [(DE, true), (0, false)] {
        let mut g = watching(code!(64, "out 0x80, al", "nop"), 0x80, PORT, 1);
        g.state.cr4 |= de;
        if hit {
            let (taken, told) = debug(&mut g);
            assert_eq!((taken.at, told, g.ports().len()), (2, B0, 1), "after the access");
        } else {
            g.run();
        }
    }
}

#[test]
fn debug_registers_hold_what_they_have_and_alias_without_de() {
    // Vol. 3, 18.2.2 and 18.2.3.
    let mut g = Guest::long(code!(
        64,
        "mov dr6, rax",
        "mov dr7, rbx",
        "mov rcx, dr4",
        "mov rdx, dr5",
        "mov dr3, rsi"
    ))
    .with(r::AX, 0xffff_ffff)
    .with(r::BX, 0xffff_df00)
    .with(r::SI, !0);
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(r::DX), g.state.dr[3]), (0xffff_efff, 0xffff_0700, !0));
    let mut g = Guest::long(code!(64, "mov rcx, dr4"));
    g.state.cr4 |= DE;
    assert_eq!(g.fault().vector, vector::UD);
    for code in [code!(64, "mov dr6, rax"), code!(64, "mov dr7, rax")] {
        let mut g = Guest::long(code).with(r::AX, 1 << 32);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error), (vector::GP, 0));
    }
    assert_eq!(Guest::long(&[0x44, 0x0f, 0x21, 0xc0]).fault().vector, vector::UD, "DR8");
}

#[test]
fn general_detect_keeps_everybody_out_but_the_handler() {
    // Vol. 3, 18.2.4 and 18.3.1.3: a fault; GD is cleared on the way to the handler.
    for code in [code!(64, "mov dr0, rax"), code!(64, "mov rax, dr7")] {
        let mut g = Guest::long(code).with(r::AX, 5);
        g.state.dr[7] = 0x400 | GD;
        let (taken, told) = debug(&mut g);
        assert_eq!((taken.at, told, g.state.dr[7], g.state.dr[0]), (0, BD, 0x400, 0));
    }
    let mut g = Guest::long(code!(64, "mov dr0, rax")).user();
    g.state.dr[7] = 0x400 | GD;
    assert_eq!(g.fault().vector, vector::GP);
}

#[test]
fn a_load_of_ss_holds_debug_exceptions_off_for_one_instruction() {
    // Vol. 3, 6.8.3: nothing comes between the load of SS and that of RSP, and what was met by either comes after both.
    let mut g =
        Guest::long(code!(64, "mov ss, eax", "nop", "nop")).with(r::AX, sel::DATA.into()).flags(rflags::TF);
    assert_eq!(debug(&mut g).0.at, 3, "one step for both");
    let mut g =
        watching(code!(64, "mov ss, eax", "nop", "nop"), CODE + 2, EXECUTE, 1).with(r::AX, sel::DATA.into());
    g.run();
    let mut g = watching(code!(64, "mov ss, [rbx]", "nop", "nop"), DATA, READ_WRITE, 2);
    g.write64(DATA, sel::DATA.into());
    let (taken, told) = debug(&mut g);
    assert_eq!((taken.at, told), (3, B0));
    // What waited comes even if the second goes into the kernel: before the handler's first instruction.
    let mut g = watching(code!(64, "mov ss, [rbx]", "int 0x40"), DATA, READ_WRITE, 2);
    g.write64(DATA, sel::DATA.into());
    let (taken, told) = debug(&mut g);
    assert_eq!((taken.at.wrapping_add(CODE), told), (crate::guest::HANDLERS + 0x40 * 16, B0));
}

#[test]
fn a_debug_exception_comes_before_an_interrupt_and_sti_does_not_hold_it_off() {
    // Vol. 3, 6.9, table 6-2.
    let mut g = Guest::long(code!(64, "sti", "nop")).flags(rflags::TF);
    assert_eq!(debug(&mut g).0.at, 1);
}

#[test]
fn a_block_that_ran_before_is_watched_when_breakpoints_are_set_later() {
    // Vol. 3, 18.2: MOV to DR7 takes effect with the next instruction.
    let mut g = Guest::long(code!(
        64,
        "22:",
        "inc ecx",
        "mov [rbx], ecx",
        "cmp ecx, 3",
        "jne 33f",
        "mov dr7, rax",
        "33:",
        "jmp 22b"
    ))
    .with(r::BX, DATA)
    .with(r::AX, dr7(1, WRITE, 4));
    g.state.dr[1] = DATA;
    let (_, told) = debug(&mut g);
    assert_eq!((told, g.reg(r::CX)), (1 << 1, 4));
}
