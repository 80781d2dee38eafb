//! Through the IDT: gates, stacks, error codes, double and triple faults, and IRET (Intel SDM vol. 3, chapter 6).

use softcpu::rflags;

use crate::guest::{
    CODE, DATA, GDT, Guest, HANDLERS, IDT, INTERRUPT_GATE, OTHER_STACK, STACK, TSS, Taken, code,
};
use crate::{r, seg, sel, vector};

const TRAP_GATE: u16 = 0x8f00;
const DPL3: u16 = 0x6000;
const HANDLER: u64 = HANDLERS + 0x40 * 16;
/// Error code bits: external event, index into the IDT.
const EXT: u64 = 1;
const IDT_ENTRY: u64 = 2;

fn int_0x40() -> &'static [u8] {
    code!(64, "int 0x40")
}

#[test]
fn a_gate_of_64_bits_switches_to_the_stack_of_its_level_and_aligns_it() {
    // Vol. 3, 6.14.2 and 6.14.4: SS:RSP are always pushed, RSP is aligned to 16 first, the new SS is null.
    let mut g = Guest::long(int_0x40()).with(r::SP, STACK - 5).flags(rflags::IF);
    let taken = g.fault();
    let same =
        Taken { vector: 0x40, at: 2, error: 0, cs: sel::CODE, rflags: 0x202, rsp: STACK - 5, ss: sel::DATA };
    assert_eq!(taken, same);
    assert_eq!((g.reg(r::SP), g.state.rflags), (STACK - 16 - 40, 2));
    assert_eq!(g.state.segments[seg::SS].selector, sel::DATA, "no change of level");

    let mut g = Guest::long(int_0x40()).with(r::SP, OTHER_STACK + 5).user().flags(rflags::IF);
    g.gate(0x40, sel::CODE, HANDLER, INTERRUPT_GATE | DPL3);
    g.write64(TSS + 4, STACK - 8);
    let taken = g.fault();
    assert_eq!((taken.cs, taken.ss, taken.rsp), (sel::USER_CODE, sel::USER_DATA, OTHER_STACK + 5));
    assert_eq!(g.reg(r::SP), STACK - 16 - 40);
    let ss = g.state.segments[seg::SS];
    assert!(ss.unusable && ss.selector == 0);
}

#[test]
fn an_ist_entry_names_the_stack_whatever_the_level() {
    // Vol. 3, 6.14.5.
    for ist in 1..=7u16 {
        let mut g = Guest::long(int_0x40());
        g.gate(0x40, sel::CODE, HANDLER, INTERRUPT_GATE | ist);
        g.write64(TSS + 0x1c + u64::from(ist) * 8, 0x5_0000 + u64::from(ist) * 0x1000 + 7);
        let taken = g.fault();
        assert_eq!(taken.rsp, STACK);
        assert_eq!(g.reg(r::SP), 0x5_0000 + u64::from(ist) * 0x1000 - 40);
    }
}

#[test]
fn interrupt_gates_clear_if_and_trap_gates_leave_it_both_clear_tf_nt_and_rf() {
    // Vol. 3, 6.12.1.3 and 6.14.
    for (kind, left) in [(INTERRUPT_GATE, 0), (TRAP_GATE, rflags::IF)] {
        let mut g = Guest::long(int_0x40()).flags(rflags::IF | rflags::NT | rflags::AC | rflags::DF);
        g.gate(0x40, sel::CODE, HANDLER, kind);
        let taken = g.fault();
        assert_eq!(taken.rflags & rflags::NT, rflags::NT);
        assert_eq!(g.state.rflags & (rflags::IF | rflags::NT | rflags::TF), left);
        assert_eq!(g.state.rflags & (rflags::AC | rflags::DF), rflags::AC | rflags::DF);
    }
}

/// What is wrong with a gate and which fault tells of it: the gate's attributes, selector and handler.
type Wrong = (&'static str, u16, u16, u64, u8, u64);

#[test]
fn each_thing_that_is_wrong_with_a_gate_has_its_own_fault() {
    // Vol. 2, INT n; vol. 3, 6.13: the error code names the gate or the segment.
    let at_gate = (0x40 * 8) | IDT_ENTRY;
    let free = sel::FREE;
    let cases: [Wrong; 9] = [
        ("no gate", 0, sel::CODE, HANDLER, vector::GP, at_gate),
        ("a call gate", 0x8c00, sel::CODE, HANDLER, vector::GP, at_gate),
        ("a data segment", 0x9200, sel::CODE, HANDLER, vector::GP, at_gate),
        ("not present", 0x0e00, sel::CODE, HANDLER, vector::NP, at_gate),
        ("a null selector", INTERRUPT_GATE, 0, HANDLER, vector::GP, 0),
        ("a selector beyond the table", INTERRUPT_GATE, 0x800, HANDLER, vector::GP, 0x800),
        ("a data segment as code", INTERRUPT_GATE, sel::DATA, HANDLER, vector::GP, sel::DATA as u64),
        ("32-bit code", INTERRUPT_GATE, sel::CODE32, HANDLER, vector::GP, sel::CODE32 as u64),
        ("an address that is not canonical", INTERRUPT_GATE, sel::CODE, 1 << 50, vector::GP, 0),
    ];
    for (what, kind, selector, offset, vector, error) in cases {
        let mut g = Guest::long(int_0x40());
        g.gate(0x40, selector, offset, kind);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector, error, 0), "{what}");
        assert_eq!(taken.rsp, STACK, "{what}");
    }
    for (what, descriptor, vector) in [
        ("code that is not present", 0x00af_1b00_0000_ffff, vector::NP),
        ("code of an outer level", 0x00af_fb00_0000_ffff, vector::GP),
        ("code with both L and D", 0x00ef_9b00_0000_ffff, vector::GP),
    ] {
        let mut g = Guest::long(int_0x40());
        g.descriptor(free, descriptor);
        g.gate(0x40, free, HANDLER, INTERRUPT_GATE);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector, u64::from(free), 0), "{what}");
    }
}

#[test]
fn the_gate_of_a_program_at_level_3_must_be_open_to_it_unless_the_event_comes_from_outside() {
    // Vol. 3, 6.12.1.2.
    let mut g = Guest::long(int_0x40()).user();
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, (0x40 * 8) | IDT_ENTRY, 0));
    for (code, vector, after) in [
        (code!(64, "int3"), vector::BP, 1),
        (code!(64, ".byte 0xcd, 3"), vector::BP, 2),
        (code!(64, "int 4"), vector::OF, 2),
    ] {
        let mut g = Guest::long(code).user();
        let taken = g.fault();
        assert_eq!(
            (taken.vector, taken.error, taken.at),
            (vector::GP, (u64::from(vector) * 8) | IDT_ENTRY, 0)
        );
        let mut g = Guest::long(code).user();
        g.gate(vector, sel::CODE, HANDLERS + u64::from(vector) * 16, INTERRUPT_GATE | DPL3);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.at), (vector, after));
    }
    let mut g = Guest::long(code!(64, ".byte 0xf1")).user();
    assert_eq!((g.fault().vector, g.state.dr[6] & 0xe00f), (vector::DB, 0), "INT1 asks nobody");
}

#[test]
fn the_table_ends_at_its_limit() {
    // Vol. 3, 6.10.
    let mut g = Guest::long(int_0x40());
    g.state.idtr.limit = 0x40 * 16 + 14;
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error), (vector::GP, (0x40 * 8) | IDT_ENTRY));
    let mut g = Guest::long(int_0x40());
    g.state.idtr.limit = 0x40 * 16 + 15;
    assert_eq!(g.fault().vector, 0x40);
}

#[test]
fn a_fault_in_the_delivery_of_an_exception_says_that_it_comes_from_outside() {
    // Vol. 3, 6.13: EXT.
    let mut g = Guest::long(code!(64, "ud2"));
    g.gate(vector::UD, sel::CODE, HANDLERS, 0x0e00);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::NP, (6 * 8) | IDT_ENTRY | EXT, 0));
    let mut g = Guest::long(code!(64, "ud2"));
    g.gate(vector::UD, 0, HANDLERS, INTERRUPT_GATE);
    assert_eq!(g.fault().error, EXT);
}

#[test]
fn a_stack_that_the_task_does_not_have_is_a_fault_of_the_task() {
    // Vol. 2, INT n: #TS(selector of TR) beyond its limit; #SS(0) for an address that is not canonical; #PF where it is not there.
    let mut g = Guest::long(code!(64, "ud2")).user();
    g.state.tr.limit = 10;
    g.shut_down();
    let mut g = Guest::long(int_0x40());
    g.state.tr.limit = 0x2a;
    g.gate(0x40, sel::CODE, HANDLER, INTERRUPT_GATE | 1);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::TS, u64::from(sel::TSS), 0));
    let mut g = Guest::long(int_0x40());
    g.gate(0x40, sel::CODE, HANDLER, INTERRUPT_GATE | 1);
    g.write64(TSS + 0x24, (1 << 47) + 0x100);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::SS, 0, 0));
    let mut g = Guest::long(int_0x40());
    g.gate(0x40, sel::CODE, HANDLER, INTERRUPT_GATE | 1);
    g.write64(TSS + 0x24, DATA);
    g.unmap(DATA - 1);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at, taken.rsp), (vector::PF, 2, 0, STACK));
    assert_eq!(g.state.cr2, DATA - 8);
}

#[test]
fn two_contributory_faults_make_a_double_fault_and_three_the_end() {
    // Vol. 3, 6.15, tables 6-4 and 6-5.
    let not_present = 0x0e00;
    let mut g = Guest::long(code!(64, "xor edx, edx", "div edx"));
    g.gate(vector::DE, sel::CODE, HANDLERS, not_present);
    g.gate(vector::NP, sel::CODE, HANDLERS, not_present);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at, taken.rflags & rflags::RF), (vector::DF, 0, 2, 0));

    let mut g = Guest::long(code!(64, "mov al, [rbx]")).with(r::BX, DATA);
    g.unmap(DATA);
    g.gate(vector::PF, sel::CODE, HANDLERS, not_present);
    assert_eq!((g.fault().vector, g.state.cr2), (vector::DF, DATA), "#NP while delivering #PF");

    let mut g = Guest::long(code!(64, "ud2"));
    g.gate(vector::UD, sel::CODE, HANDLERS, not_present);
    g.gate(vector::NP, sel::CODE, HANDLERS, not_present);
    assert_eq!(g.fault().vector, vector::DF, "the first is benign, the second and third contribute");

    let mut g = Guest::long(code!(64, "xor edx, edx", "div edx"));
    for vector in [vector::DE, vector::NP, vector::DF] {
        g.gate(vector, sel::CODE, HANDLERS, not_present);
    }
    g.shut_down();
}

#[test]
fn a_page_fault_in_the_delivery_of_a_page_fault_is_a_double_fault_and_cr2_has_the_second() {
    // Vol. 3, 6.15, interrupts 8 and 14.
    let mut g = Guest::long(code!(64, "mov al, [rbx]")).with(r::BX, DATA).with(r::SP, 0x5_0000);
    g.unmap(DATA);
    g.unmap(0x4_f000);
    g.gate(vector::DF, sel::CODE, HANDLERS + 8 * 16, INTERRUPT_GATE | 1);
    g.write64(TSS + 0x24, STACK);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at, taken.rsp), (vector::DF, 0, 0x5_0000));
    assert_eq!(g.state.cr2, 0x5_0000 - 8);
    // #GP while a stack is missing is served as #PF: a page fault after a contributory one is none.
    let mut g = Guest::long(code!(64, "mov al, [rbx]")).with(r::BX, 1 << 50).with(r::SP, 0x5_0000);
    g.unmap(0x4_f000);
    g.gate(vector::PF, sel::CODE, HANDLERS + 14 * 16, INTERRUPT_GATE | 1);
    g.write64(TSS + 0x24, STACK);
    assert_eq!((g.fault().vector, g.state.cr2), (vector::PF, 0x5_0000 - 8));
}

#[test]
fn a_handler_returns_to_the_program_it_interrupted() {
    // Vol. 2, IRET.
    let mut g = Guest::long(code!(64, "mov ecx, 3", "int 0x40", "inc ecx", "int 0x41"))
        .user()
        .flags(rflags::IF | rflags::CF);
    g.on(0x40, code!(64, "shl ecx, 4", "iretq"));
    for vector in [0x40, 0x41] {
        let handler = if vector == 0x40 { 0xa_4000 } else { HANDLERS + 0x41 * 16 };
        g.gate(vector, sel::CODE, handler, INTERRUPT_GATE | DPL3);
    }
    let taken = g.fault();
    assert_eq!(
        (taken.vector, g.reg(r::CX), taken.cs, taken.ss),
        (0x41, 0x31, sel::USER_CODE, sel::USER_DATA)
    );
    assert_eq!(taken.rflags, rflags::IF | rflags::CF | 2);
    assert_eq!(taken.rsp, STACK);
}

/// An IRETQ to this frame, from level 0.
fn iretq(rip: u64, cs: u16, flags: u64, rsp: u64, ss: u16) -> Guest {
    let mut g = Guest::long(code!(64, "iretq")).with(r::SP, STACK - 40);
    g.write_words(STACK - 40, [rip, cs.into(), flags, rsp, ss.into()]);
    g
}

#[test]
fn a_return_with_iret_checks_where_it_goes() {
    // Vol. 2, IRET: #GP with the selector or 0; #NP and #SS for absent segments. Nothing has changed.
    let there = CODE + 0x100;
    let free = sel::FREE;
    type Case = (&'static str, u64, u16, u16, u64, u8, u16);
    let cases: [Case; 10] = [
        ("a null code selector", there, 0, sel::DATA, 0, vector::GP, 0),
        ("beyond the table", there, 0x800, sel::DATA, 0, vector::GP, 0x800),
        ("a data segment", there, sel::DATA, sel::DATA, 0, vector::GP, sel::DATA),
        ("a level that the segment has not", there, sel::CODE | 3, sel::USER_DATA, 0, vector::GP, sel::CODE),
        ("code that is not present", there, free, sel::DATA, 0x00af_1b00_0000_ffff, vector::NP, free),
        ("an address that is not canonical", 1 << 60, sel::CODE, sel::DATA, 0, vector::GP, 0),
        ("a null stack at level 3", there, sel::USER_CODE, 3, 0, vector::GP, 0),
        ("a stack of another level", there, sel::USER_CODE, sel::DATA, 0, vector::GP, sel::DATA),
        (
            "a stack that is not present",
            there,
            sel::USER_CODE,
            free | 3,
            0x00cf_7300_0000_ffff,
            vector::SS,
            free,
        ),
        ("beyond the limit of 32-bit code", 0x1_0000_0000, sel::CODE32, sel::DATA, 0, vector::GP, 0),
    ];
    for (what, rip, cs, ss, descriptor, vector, error) in cases {
        let mut g = iretq(rip, cs, 2, STACK, ss);
        g.descriptor(free, descriptor);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector, u64::from(error), 0), "{what}");
        assert_eq!((taken.cs, taken.rsp), (sel::CODE, STACK - 40), "{what}");
    }
}

#[test]
fn iret_to_the_inside_is_refused() {
    // Vol. 2, IRET: RPL below CPL is #GP(selector).
    let mut g = iretq(CODE, sel::CODE, 2, STACK, sel::DATA).user();
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error), (vector::GP, u64::from(sel::CODE)));
}

#[test]
fn iret_loads_the_flags_that_its_level_may_change() {
    // Vol. 2, IRET: IOPL at level 0, IF where CPL <= IOPL, never VM.
    let image =
        rflags::IOPL | rflags::IF | rflags::AC | rflags::NT | rflags::VIF | rflags::VIP | rflags::VM | 0xd5;
    for (user, iopl, changed) in [
        (false, 0, image & !rflags::VM),
        (true, 0, rflags::AC | rflags::NT | 0xd5),
        (true, rflags::IOPL, rflags::IOPL | rflags::IF | rflags::AC | rflags::NT | 0xd5),
    ] {
        let (cs, ss) = if user { (sel::USER_CODE, sel::USER_DATA) } else { (sel::CODE, sel::DATA) };
        let mut g = iretq(CODE + 0x100, cs, image, STACK, ss).flags(iopl);
        if user {
            g = g.user();
        }
        g.write(CODE + 0x100, &[0x0f, 0x0b]);
        let taken = g.fault();
        assert_eq!(taken.vector, vector::UD);
        assert_eq!(taken.rflags & !rflags::RF, changed | 2, "user {user}, IOPL {iopl:#x}");
    }
}

#[test]
fn iret_with_nt_in_long_mode_is_refused() {
    // Vol. 2, IRET: there are no task switches.
    let mut g = iretq(CODE, sel::CODE, 2, STACK, sel::DATA).flags(rflags::NT);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 0));
}

#[test]
fn iret_outwards_takes_privileged_segments_away() {
    // Vol. 3, 5.8.6 and vol. 2, IRET: a data segment of DPL below the new CPL becomes null; conforming code stays.
    let mut g = iretq(CODE + 0x100, sel::USER_CODE, 2, OTHER_STACK, sel::USER_DATA);
    g.write(CODE + 0x100, &[0x0f, 0x0b]);
    g.state.segments[seg::ES] = g.state.segments[seg::DS];
    g.state.segments[seg::ES].selector = sel::USER_DATA;
    g.state.segments[seg::ES].rights = 0xc0f3;
    g.state.segments[seg::FS].rights = 0xc09f;
    g.fault();
    let s = &g.state.segments;
    assert!(s[seg::DS].unusable && s[seg::DS].selector == 0 && s[seg::GS].unusable);
    assert!(!s[seg::ES].unusable && !s[seg::FS].unusable);
}

#[test]
fn iretq_to_32_bit_code_runs_it_and_cuts_the_stack_pointer() {
    // Vol. 2, IRET.
    let mut g = iretq(CODE + 0x100, sel::USER_CODE32, 2, 0xffff_0000_0000 | 0x4_0000, sel::USER_DATA);
    // DEC EAX in 32-bit code, a REX prefix in 64-bit code.
    g.write(CODE + 0x100, &[0x48, 0x0f, 0x0b]);
    let taken = g.fault();
    assert_eq!((taken.at, taken.cs, taken.rsp), (0x101, sel::USER_CODE32, 0x4_0000));
    assert_eq!(g.reg(r::AX), 0xffff_ffff);
}

#[test]
fn a_32_bit_gate_inwards_pushes_stack_and_flags_and_iret_undoes_it() {
    // Vol. 3, 6.12.1.
    let mut g = Guest::protected(code!(32, "int 0x40", "ud2")).user().with(r::SP, OTHER_STACK);
    g.on(0x40, code!(32, "mov ecx, [esp + 12]", "mov edx, [esp + 16]", "iretd"));
    g.gate(0x40, sel::CODE, 0xa_4000, INTERRUPT_GATE | DPL3);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at, taken.rsp, taken.ss), (vector::UD, 2, OTHER_STACK, sel::USER_DATA));
    assert_eq!((g.reg(r::CX), g.reg(r::DX)), (OTHER_STACK, u64::from(sel::USER_DATA)));
    assert_eq!(g.state.segments[seg::SS].selector, sel::DATA);
}

#[test]
fn the_inner_stack_of_protected_mode_is_checked_as_the_tasks() {
    // Vol. 2, INT n: #TS(SS) for a bad stack selector, #SS(SS) where it is absent or has no room.
    for (what, selector, descriptor, vector, error) in [
        ("null", 0, 0, vector::TS, 0),
        ("of another level", sel::USER_DATA, 0, vector::TS, sel::USER_DATA & !3),
        ("read-only", sel::FREE, 0x00cf_9100_0000_ffff, vector::TS, sel::FREE),
        ("not present", sel::FREE, 0x00cf_1300_0000_ffff, vector::SS, sel::FREE),
        ("too small", sel::FREE, 0x0040_9300_0000_0fffu64, vector::SS, sel::FREE),
    ] {
        let mut g = Guest::protected(code!(32, "int 0x40")).user();
        g.descriptor(sel::FREE, descriptor);
        g.write64(TSS + 4, STACK | u64::from(selector) << 32);
        g.gate(0x40, sel::CODE, HANDLER, INTERRUPT_GATE | DPL3);
        // What goes wrong is handled at the program's own level, without a switch.
        g.descriptor(sel::FREE + 8, 0x00cf_fb00_0000_ffff);
        g.gate(vector, sel::FREE + 8, CODE + 0x100, INTERRUPT_GATE);
        g.write(CODE + 0x100, &[0x0f, 0x0b]);
        g.gate(vector::UD, sel::FREE + 8, CODE + 0x200, INTERRUPT_GATE);
        g.write(CODE + 0x200, &[0xeb, 0xfe]);
        g.begin();
        assert_eq!(g.go(), None, "{what}");
        // Above the #UD's three words lies the first fault's frame.
        let frame = g.reg(r::SP) + 12;
        assert_eq!((g.read32(frame), g.read32(frame + 4)), (u32::from(error), CODE as u32), "{what}");
    }
}

#[test]
fn an_interrupt_table_that_is_not_there_ends_the_machine() {
    // Vol. 3, 6.15, interrupt 8: nothing can be delivered.
    let mut g = Guest::long(int_0x40());
    g.unmap(IDT);
    g.shut_down();
    let mut g = Guest::long(int_0x40());
    g.unmap(GDT);
    g.shut_down();
}
