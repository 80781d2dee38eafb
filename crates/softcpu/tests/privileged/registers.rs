//! Control and table registers, the flags of privilege, and the instructions that only an operating system may use
//! (Intel SDM vol. 3, chapters 2 and 5).

use softcpu::rflags;

use crate::guest::{CODE, DATA, GDT, Guest, OTHER_STACK, STACK, TSS, code, gate};
use crate::{r, seg, sel, vector};

#[test]
fn privileged_instructions_are_refused_at_every_other_level() {
    // Vol. 3, 5.9.
    for code in [
        code!(64, "hlt"),
        code!(64, "mov rax, cr0"),
        code!(64, "mov cr0, rax"),
        code!(64, "mov rax, cr2"),
        code!(64, "mov cr3, rax"),
        code!(64, "mov rax, cr4"),
        code!(64, "mov cr8, rax"),
        code!(64, "mov rax, dr0"),
        code!(64, "mov dr7, rax"),
        code!(64, "lgdt [rbx]"),
        code!(64, "lidt [rbx]"),
        code!(64, "lldt ax"),
        code!(64, "ltr ax"),
        code!(64, "clts"),
        code!(64, "lmsw ax"),
        code!(64, "invd"),
        code!(64, "wbinvd"),
        code!(64, "invlpg [rbx]"),
        code!(64, "rdmsr"),
        code!(64, "wrmsr"),
        code!(64, "rdpmc"),
        code!(64, "cli"),
        code!(64, "sti"),
        code!(64, "in al, dx"),
        code!(64, "out 0x80, al"),
        code!(64, "insb"),
        code!(64, "outsb"),
    ] {
        for level in 1..=3u16 {
            let mut g = Guest::long(code).user().with(r::BX, DATA);
            for s in [seg::CS, seg::SS] {
                let segment = &mut g.state.segments[s];
                segment.rights = segment.rights & !0x60 | level << 5;
                segment.selector = segment.selector & !3 | level;
            }
            g.write64(TSS + 4, STACK);
            let taken = g.fault();
            assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 0), "{code:x?} at {level}");
        }
    }
}

#[test]
fn programs_may_ask_where_the_tables_are() {
    // Vol. 3, 2.8.1: without UMIP SGDT, SIDT, SLDT, STR and SMSW are for everyone.
    let mut g = Guest::long(code!(
        64,
        "sgdt [rbx]",
        "sidt [rbx + 16]",
        "sldt rcx",
        "str rdx",
        "str word ptr [rbx + 32]",
        "smsw rsi",
        "ud2"
    ))
    .user()
    .with(r::BX, DATA)
    .with(r::CX, !0)
    .with(r::DX, !0);
    g.state.ldtr.selector = 0x78;
    g.write64(DATA + 32, !0);
    assert_eq!(g.fault().vector, vector::UD);
    assert_eq!((g.read16(DATA), g.read64(DATA + 2)), (0x7ff, GDT));
    assert_eq!((g.read16(DATA + 16), g.read64(DATA + 18)), (0xfff, crate::guest::IDT));
    assert_eq!(
        (g.reg(r::CX), g.reg(r::DX), g.read64(DATA + 32)),
        (0x78, sel::TSS.into(), !0xffff | sel::TSS as u64)
    );
    assert_eq!(g.reg(r::SI), g.state.cr0);
}

#[test]
fn table_registers_load_what_the_mode_has_and_only_canonical_bases() {
    // Vol. 2, LGDT/LIDT: 24 bits of base with a 16-bit operand, 32, or 64.
    let mut g = Guest::real(code!(16, "lgdt [bx]", ".byte 0x66", "lidt [bx]")).with(r::BX, 0x8000);
    g.write64(CODE + 0x8000, 0x1234_5678_9abc);
    g.run();
    assert_eq!((g.state.gdtr.base, g.state.gdtr.limit), (0x34_5678, 0x9abc));
    assert_eq!(g.state.idtr.base, 0x1234_5678);
    let code = code!(64, "lidt [rbx]");
    let mut g = Guest::long(code).with(r::BX, DATA);
    g.write64(DATA + 2, 0xffff_8000_0000_0000);
    g.write(DATA, &[0x34, 0x12]);
    g.run();
    assert_eq!((g.state.idtr.base, g.state.idtr.limit), (0xffff_8000_0000_0000, 0x1234));
    let mut g = Guest::long(code).with(r::BX, DATA);
    g.write64(DATA + 2, 0x8000_0000_0000);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, g.state.idtr.base), (vector::GP, 0, crate::guest::IDT));
}

#[test]
fn the_task_register_takes_an_available_tss_and_makes_it_busy() {
    // Vol. 2, LTR.
    let code = code!(64, "ltr ax");
    let load = |selector: u16, low: u64, high: u64| {
        let mut g = Guest::long(code).with(r::AX, selector.into());
        g.descriptor(sel::FREE, low);
        g.write64(GDT + u64::from(sel::FREE) + 8, high);
        g
    };
    let free = sel::FREE;
    let tss = 0x0000_8900_0000_0067 | DATA << 16;
    let mut g = load(free, tss, 0xffff_8000);
    g.run();
    assert_eq!((g.state.tr.selector, g.state.tr.base), (free, 0xffff_8000_0000_0000 | DATA));
    assert_eq!(g.read64(GDT + u64::from(free)), tss | 2 << 40);
    for (what, selector, low, high, vector, error) in [
        ("null", 0, tss, 0, vector::GP, 0),
        ("in the local table", free | 4, tss, 0, vector::GP, free | 4),
        ("beyond the table", 0x800, tss, 0, vector::GP, 0x800),
        ("busy", free, tss | 2 << 40, 0, vector::GP, free),
        ("of 16 bits", free, 0x0000_8100_0000_0067, 0, vector::GP, free),
        ("an LDT", free, 0x0000_8200_0000_0067, 0, vector::GP, free),
        ("code", free, 0x00af_9b00_0000_ffff, 0, vector::GP, free),
        ("not present", free, 0x0000_0900_0000_0067, 0, vector::NP, free),
        ("a type in its upper half", free, tss, 1 << 40, vector::GP, free),
        ("a base that is not canonical", free, tss, 1 << 20, vector::GP, free),
    ] {
        let mut g = load(selector, low, high);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector, u64::from(error), 0), "{what}");
        assert_eq!(g.state.tr.selector, sel::TSS, "{what}");
    }
}

#[test]
fn the_local_table_register_takes_a_local_table_or_null() {
    // Vol. 2, LLDT.
    for (what, selector, low, fault) in [
        ("null", 0, 0, None),
        ("good", sel::FREE, 0x0000_8200_0000_0067, None),
        ("in the local table", sel::FREE | 4, 0, Some((vector::GP, sel::FREE | 4))),
        ("a TSS", sel::FREE, 0x0000_8900_0000_0067, Some((vector::GP, sel::FREE))),
        ("not present", sel::FREE, 0x0000_0200_0000_0067, Some((vector::NP, sel::FREE))),
    ] {
        let mut g = Guest::long(code!(64, "lldt ax")).with(r::AX, selector.into());
        g.descriptor(sel::FREE, low);
        if let Some((vector, error)) = fault {
            let taken = g.fault();
            assert_eq!((taken.vector, taken.error), (vector, u64::from(error)), "{what}");
        } else {
            g.run();
            assert_eq!((g.state.ldtr.selector, g.state.ldtr.unusable), (selector, selector == 0), "{what}");
        }
    }
}

#[test]
fn questions_about_selectors_answer_in_zf() {
    // Vol. 2, LAR, LSL, VERR, VERW.
    let code = code!(
        64,
        "lar ebx, ax",
        "setz dl",
        "lsl ecx, ax",
        "setz dh",
        "verr ax",
        "setz sil",
        "verw ax",
        "setz dil",
        "ud2"
    );
    let f = sel::FREE;
    let call = gate(sel::CODE, CODE, 0x8c00);
    // Selector, descriptor, at level 3: LAR and LSL with their answers, VERR, VERW.
    type Case = (&'static str, u16, u64, bool, Option<u64>, Option<u64>, bool, bool);
    let cases: [Case; 15] = [
        ("null", 3, 0, false, None, None, false, false),
        ("beyond the table", 0x800, 0, false, None, None, false, false),
        ("data", f, 0x00cf_9200_0000_ffff, false, Some(0xcf_9200), Some(0xffff_ffff), true, true),
        ("read-only data", f, 0x0040_9000_0000_1234, false, Some(0x40_9000), Some(0x1234), true, false),
        ("code", f, 0x0040_9a00_0000_1234, false, Some(0x40_9a00), Some(0x1234), true, false),
        (
            "code that cannot be read",
            f,
            0x0040_9800_0000_1234,
            false,
            Some(0x40_9800),
            Some(0x1234),
            false,
            false,
        ),
        ("data of level 0 from level 3", f, 0x0040_9200_0000_1234, true, None, None, false, false),
        ("data of level 0 with RPL 3", f | 3, 0x0040_9200_0000_1234, false, None, None, false, false),
        (
            "conforming code of level 0 from level 3",
            f | 3,
            0x0040_9e00_0000_1234,
            true,
            Some(0x40_9e00),
            Some(0x1234),
            true,
            false,
        ),
        ("absent data", f, 0x0040_1200_0000_1234, false, Some(0x40_1200), Some(0x1234), true, true),
        ("a TSS", f, 0x0000_8900_0000_0067, false, Some(0x8900), Some(0x67), false, false),
        ("a TSS of 16 bits", f, 0x0000_8100_0000_0067, false, None, None, false, false),
        ("an LDT", f, 0x0000_8200_0000_0067, false, Some(0x8200), Some(0x67), false, false),
        ("a call gate", f, call, false, Some(call >> 32 & 0xff_ff00), None, false, false),
        ("an interrupt gate", f, gate(sel::CODE, CODE, 0x8e00), false, None, None, false, false),
    ];
    for (what, selector, descriptor, user, lar, lsl, verr, verw) in cases {
        let g = Guest::long(code).with(r::AX, selector.into()).with(r::BX, 1).with(r::CX, 2);
        let mut g = if user { g.user() } else { g };
        g.descriptor(f, descriptor);
        assert_eq!(g.fault().vector, vector::UD, "{what}");
        assert_eq!(
            (g.reg(r::BX), g.reg(r::DX) & 1),
            (lar.unwrap_or(1), lar.is_some().into()),
            "LAR of {what}"
        );
        assert_eq!(
            (g.reg(r::CX), g.reg(r::DX) >> 8 & 1),
            (lsl.unwrap_or(2), lsl.is_some().into()),
            "LSL of {what}"
        );
        assert_eq!((g.reg(r::SI) & 1, g.reg(r::DI) & 1), (verr.into(), verw.into()), "VERR, VERW of {what}");
    }
}

#[test]
fn arpl_raises_the_level_that_a_selector_asks_for() {
    // Vol. 2, ARPL.
    for (old, by, new) in [(0x10u64, 3u64, 0x13u64), (0x13, 1, 0x13), (0x12, 2, 0x12)] {
        let mut g = Guest::protected(code!(32, "arpl ax, cx", "setz dl", "arpl word ptr [ebx], cx"))
            .with(r::AX, old)
            .with(r::CX, by)
            .with(r::BX, DATA);
        g.write32(DATA, old as u32);
        g.run();
        assert_eq!((g.reg(r::AX), g.reg(r::DX), g.read16(DATA)), (new, (old != new).into(), new as u16));
    }
}

#[test]
fn cr0_refuses_what_no_processor_can_be_and_ignores_the_rest() {
    // Vol. 2, MOV CR; vol. 3, 2.5.
    let code = code!(64, "mov cr0, rax");
    let now = 0x8001_0031;
    for value in [now & !1, now | 1 << 29, now | 1 << 32, now | 1 << 63, now & !(1 << 31)] {
        let mut g = Guest::long(code).with(r::AX, value);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at, g.state.cr0), (vector::GP, 0, 0, now), "{value:#x}");
    }
    for (value, read) in
        [(now | 1 << 6 | 1 << 17 | 1 << 28, now), (now & !0x10, now), (now | 3 << 29, now | 3 << 29)]
    {
        let mut g = Guest::long(code).with(r::AX, value);
        g.run();
        assert_eq!(g.state.cr0, read, "{value:#x}");
    }
    let mut g = Guest::protected(code!(32, "mov cr0, eax")).with(r::AX, now & !1);
    assert_eq!(g.fault().vector, vector::GP, "paging without protection");
}

#[test]
fn cr4_refuses_bits_that_the_processor_does_not_have() {
    // Vol. 2, MOV CR: reserved bits, and PAE in long mode.
    for bit in 0..64 {
        let mut g = Guest::long(code!(64, "mov cr4, rax")).with(r::AX, 0x620 | 1 << bit);
        if bit < 11 {
            g.run();
            assert_eq!(g.state.cr4, 0x620 | 1 << bit);
        } else {
            let taken = g.fault();
            assert_eq!((taken.vector, taken.error, g.state.cr4), (vector::GP, 0, 0x620), "bit {bit}");
        }
    }
    let mut g = Guest::long(code!(64, "mov cr4, rax")).with(r::AX, 0x600);
    assert_eq!(g.fault().vector, vector::GP);
}

#[test]
fn cr3_has_as_many_address_bits_as_the_processor_and_cr8_four() {
    // Vol. 2, MOV CR; vol. 3, 11.8.6.
    for value in [1 << 36, 1 << 52, 1 << 63] {
        let mut g = Guest::long(code!(64, "mov cr3, rax")).with(r::AX, crate::guest::TABLES | value);
        assert_eq!((g.fault().vector, g.state.cr3), (vector::GP, crate::guest::TABLES));
    }
    let mut g = Guest::long(code!(64, "mov cr8, rax", "mov rbx, cr8")).with(r::AX, 0xb);
    g.run();
    assert_eq!((g.reg(r::BX), g.state.apic.registers[8]), (0xb, 0xb0));
    let mut g = Guest::long(code!(64, "mov cr8, rax")).with(r::AX, 0x10);
    assert_eq!(g.fault().vector, vector::GP);
}

#[test]
fn control_registers_that_do_not_exist_are_undefined() {
    // Vol. 2, MOV CR: #UD, at any level.
    for number in [1u8, 5, 6, 7] {
        for opcode in [0x20, 0x22] {
            let code = [0x0f, opcode, 0xc0 | number << 3, 0xf4];
            assert_eq!(Guest::long(&code).fault().vector, vector::UD);
            assert_eq!(Guest::long(&code).user().fault().vector, vector::UD);
        }
    }
    assert_eq!(Guest::long(&[0x44, 0x0f, 0x20, 0xc8]).fault().vector, vector::UD, "CR9");
    assert_eq!(Guest::long(&[0xf0, 0x0f, 0x20, 0xc0]).fault().vector, vector::UD, "LOCK");
}

#[test]
fn lmsw_sets_protection_but_does_not_clear_it_and_clts_clears_ts() {
    // Vol. 2, LMSW, CLTS.
    let mut g = Guest::long(code!(64, "lmsw ax", "smsw ecx", "clts", "mov rdx, cr0")).with(r::AX, 0xfff8);
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(r::DX)), (0x8001_0039, 0x8001_0031));
    let mut g = Guest::real(code!(16, "mov ax, 1", "lmsw ax", "smsw cx"));
    g.run();
    assert_eq!(g.reg(r::CX) & 0xffff, 0x11);
}

#[test]
fn popf_changes_what_its_level_may() {
    // Vol. 2, POPF: no fault; IOPL at level 0 only, IF where CPL <= IOPL, never VM, VIF, VIP; RF is cleared.
    let image =
        rflags::IOPL | rflags::IF | rflags::AC | rflags::NT | rflags::VM | rflags::VIF | rflags::RF | 0xd5;
    let common = rflags::AC | rflags::NT | 0xd5;
    for (user, iopl, expected) in [
        (false, 0, common | rflags::IOPL | rflags::IF),
        (true, 0, common),
        (true, 0x2000, common | 0x2000),
        (true, rflags::IOPL, common | rflags::IOPL | rflags::IF),
    ] {
        let g = Guest::long(code!(64, "popfq", "pushfq", "ud2")).with(r::SP, OTHER_STACK - 8).flags(iopl);
        let mut g = if user { g.user() } else { g };
        g.write64(OTHER_STACK - 8, image);
        assert_eq!(g.fault().vector, vector::UD);
        assert_eq!(g.read64(OTHER_STACK - 8), expected | 2, "user {user}, IOPL {iopl:#x}");
    }
}

#[test]
fn cli_and_sti_follow_iopl_and_ports_the_map_of_the_task() {
    // Vol. 1, 19.5.
    for (code, flags) in [(code!(64, "cli", "ud2"), 0), (code!(64, "sti", "ud2"), rflags::IF)] {
        for iopl in 0..4u64 {
            let mut g = Guest::long(code).user().flags(iopl << 12 | rflags::IF ^ flags);
            let taken = g.fault();
            if iopl == 3 {
                assert_eq!((taken.vector, taken.rflags & rflags::IF), (vector::UD, flags));
            } else {
                assert_eq!((taken.vector, taken.at), (vector::GP, 0));
            }
        }
    }
}

#[test]
fn the_map_of_the_task_opens_single_ports() {
    // Vol. 1, 19.5.2: every port of the access must be open, and the map and one byte more within the limit.
    let (byte, word) = (code!(64, "in al, dx", "ud2"), code!(64, "in ax, dx", "ud2"));
    for (what, code, port, map, limit, open) in [
        ("open", byte, 0x60, 0x68, 0x100, true),
        ("closed", byte, 0x61, 0x68, 0x100, false),
        ("half open", word, 0x60, 0x68, 0x100, false),
        ("over a byte of the map", word, 0x67, 0x68, 0x100, true),
        ("half open over a byte of the map", word, 0x6f, 0x68, 0x100, false),
        ("at the end of the map", byte, 0x60, 0x68, 0x68 + 0x0d, true),
        ("beyond it", byte, 0x60, 0x68, 0x68 + 0x0c, false),
        ("a task without a map", byte, 0x60, 0xffff, 0x100, false),
        ("a short task", byte, 0x60, 0x68, 0x65, false),
    ] {
        for guest in [Guest::long(code).user(), Guest::long(code).user().flags(rflags::IOPL)] {
            let iopl = guest.state.rflags & rflags::IOPL != 0;
            let mut g = guest.with(r::DX, port);
            g.write(TSS + 0x66, &u16::to_le_bytes(map));
            g.write(TSS + 0x68, &[0xff; 0x40]);
            // Ports 60h, 66h, 67h, 68h and 6fh.
            g.write(TSS + 0x68 + 0x0c, &[0b0011_1110, 0b0111_1110]);
            g.state.tr.limit = limit;
            let taken = g.fault();
            let expected = if open || iopl { (vector::UD, 0) } else { (vector::GP, 0) };
            assert_eq!((taken.vector, taken.error), expected, "{what}");
        }
    }
}

#[test]
fn time_stamps_are_private_where_tsd_says() {
    // Vol. 3, 2.5: CR4.TSD.
    for code in [code!(64, "rdtsc", "ud2"), code!(64, "rdtscp", "ud2")] {
        for (tsd, user, expected) in [(0, true, vector::UD), (4, true, vector::GP), (4, false, vector::UD)] {
            let g = Guest::long(code);
            let mut g = if user { g.user() } else { g };
            g.state.cr4 |= tsd;
            assert_eq!(g.fault().vector, expected);
        }
    }
}
