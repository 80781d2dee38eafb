//! What came before 64 bits: virtual-8086 mode, hardware tasks, gates of 16 bits (Intel SDM vol. 3, chapters 8, 21, 22).

use softcpu::rflags;

use crate::guest::{CODE, DATA, GDT, Guest, HANDLERS, OTHER_STACK, STACK, TSS, code, gate};
use crate::{r, seg, sel, vector};

const BUSY: u64 = 2 << 40;
const NEW: u64 = DATA;
const NEW_TSS: u64 = 0x0000_8900_0000_0067 | NEW << 16;
const DPL3: u16 = 0x6000;

/// A guest that goes on in virtual-8086 mode with `code` at 1000:0100 and the stack at 4000:1000; its data segments are
/// 8000h, 8001h, …
fn virtual_8086(code: &[u8], flags: u64) -> Guest {
    let mut g = Guest::protected(code!(32, "iretd")).with(r::SP, STACK - 36);
    let frame = [0x100, 0x1000, 2 | rflags::VM | flags, 0x1000, 0x4000, 0x8000, 0x8001, 0x8002, 0x8003];
    for (i, word) in frame.into_iter().enumerate() {
        g.write32(STACK - 36 + i as u64 * 4, word as u32);
    }
    g.write(CODE + 0x100, code);
    g
}

/// The double words that a handler finds, up to GS.
fn frame(g: &Guest, error: bool) -> [u32; 9] {
    let from = g.reg(r::SP) + if error { 4 } else { 0 };
    std::array::from_fn(|i| g.read32(from + i as u64 * 4))
}

#[test]
fn an_exception_in_virtual_8086_mode_saves_the_data_segments_and_leaves_them_null() {
    // Vol. 3, 21.3.1.1.
    let mut g = virtual_8086(code!(16, "mov ax, ds", ".byte 0x0f, 0x0b"), 0);
    assert_eq!(g.fault().vector, vector::UD);
    let flags = (2 | rflags::VM | rflags::RF) as u32;
    assert_eq!(frame(&g, false), [0x102, 0x1000, flags, 0x1000, 0x4000, 0x8000, 0x8001, 0x8002, 0x8003]);
    assert_eq!(g.reg(r::AX), 0x8001);
    assert_eq!((g.state.rflags & rflags::VM, g.state.segments[seg::SS].selector), (0, sel::DATA));
    for s in [seg::ES, seg::DS, seg::FS, seg::GS] {
        assert!(g.state.segments[s].unusable && g.state.segments[s].selector == 0);
    }
}

#[test]
fn iopl_decides_over_flags_and_interrupts_in_virtual_8086_mode() {
    // Vol. 3, 21.2.7 and 22.2 (without VME): #GP(0) below 3.
    for code in [
        code!(16, "cli"),
        code!(16, "sti"),
        code!(16, "pushf"),
        code!(16, "popf"),
        code!(16, "int 0x40"),
        code!(16, "iret"),
    ] {
        let mut g = virtual_8086(code, rflags::IOPL & 0x2000);
        assert_eq!(g.fault().vector, vector::GP, "{code:x?}");
        assert_eq!((g.read32(g.reg(r::SP)), frame(&g, true)[0]), (0, 0x100), "{code:x?}");
    }
    let mut g =
        virtual_8086(code!(16, "sti", "pushf", "pop ax", "cli", "popf", ".byte 0x0f, 0x0b"), rflags::IOPL);
    assert_eq!(g.fault().vector, vector::UD);
    assert_eq!(g.reg(r::AX), 0x3202);
    // INT3 does not ask.
    let mut g = virtual_8086(code!(16, "int3"), 0);
    g.gate(vector::BP, sel::CODE, HANDLERS + 3 * 16, 0x8e00 | DPL3);
    assert_eq!((g.fault().vector, frame(&g, false)[0]), (vector::BP, 0x101));
}

#[test]
fn a_handler_of_virtual_8086_mode_must_be_at_level_0() {
    // Vol. 3, 21.3.1: else #GP with the code selector.
    let mut g = virtual_8086(code!(16, "int 0x40"), rflags::IOPL);
    g.descriptor(sel::FREE, 0x00cf_9f00_0000_ffff);
    g.gate(0x40, sel::FREE, HANDLERS, 0x8e00 | DPL3);
    assert_eq!(g.fault().vector, vector::GP);
    assert_eq!(g.read32(g.reg(r::SP)), u32::from(sel::FREE));
    let mut g = virtual_8086(code!(16, "int 0x40"), rflags::IOPL);
    g.gate(0x40, sel::CODE, HANDLERS + 0x40 * 16, 0x8e00 | DPL3);
    assert_eq!((g.fault().vector, frame(&g, false)[0]), (0x40, 0x102));
}

#[test]
fn virtual_8086_mode_has_no_system_instructions_and_segments_of_64_kib() {
    // Vol. 3, 21.2.
    for (code, expected) in [
        (code!(16, "hlt"), vector::GP),
        (code!(16, "mov eax, cr0"), vector::GP),
        (code!(16, "lgdt [bx]"), vector::GP),
        (code!(16, "clts"), vector::GP),
        (code!(16, "sldt ax"), vector::UD),
        (code!(16, "lar ax, bx"), vector::UD),
        (code!(16, "arpl ax, bx"), vector::UD),
        (code!(16, "mov ax, [0xffff]"), vector::GP),
        (code!(16, "mov bp, -1", "mov ax, [bp]"), vector::SS),
        (code!(16, "mov ax, 0x9000", "mov ds, ax", "mov al, [0]", ".byte 0x0f, 0x0b"), vector::UD),
    ] {
        let mut g = virtual_8086(code, rflags::IOPL);
        assert_eq!(g.fault().vector, expected, "{code:x?}");
    }
}

#[test]
fn ports_in_virtual_8086_mode_are_the_tasks_whatever_iopl_says() {
    // Vol. 1, 19.5.1.
    for (map, expected) in [(0u8, vector::UD), (1, vector::GP)] {
        let mut g = virtual_8086(code!(16, "in al, 0x60", ".byte 0x0f, 0x0b"), rflags::IOPL);
        g.state.tr.limit = 0x100;
        g.write(TSS + 0x66, &0x68u16.to_le_bytes());
        g.write(TSS + 0x68, &[map; 0x20]);
        assert_eq!(g.fault().vector, expected);
    }
}

#[test]
fn a_handler_returns_to_virtual_8086_mode() {
    // Vol. 2, IRET.
    let mut g =
        virtual_8086(code!(16, "int 0x40", "mov bx, ds", "mov cx, sp", ".byte 0x0f, 0x0b"), rflags::IOPL);
    g.on(0x40, code!(32, "mov eax, 0x10", "mov ds, eax", "iretd"));
    g.gate(0x40, sel::CODE, 0xa_4000, 0x8e00 | DPL3);
    assert_eq!(g.fault().vector, vector::UD);
    assert_eq!((g.reg(r::BX), g.reg(r::CX)), (0x8001, 0x1000));
}

#[test]
fn a_16_bit_gate_pushes_words_and_iretw_takes_them() {
    // Vol. 3, 6.12.1.
    let mut g = Guest::protected(code!(32, "int 0x40", "inc ecx")).flags(rflags::CF);
    let handler = 0x9800;
    g.write(handler, code!(32, "mov edx, esp", ".byte 0x66, 0xcf"));
    g.descriptor(sel::CODE32, 0x000f_9b00_0000_ffff | 1 << 54);
    g.gate(0x40, sel::CODE32, handler, 0x8600);
    // A word of IP can return to the first 64 KiB only.
    g.write(0x9500, code!(32, "int 0x40", "inc ecx"));
    g.state.rip = 0x9500;
    g.run();
    assert_eq!((g.reg(r::DX), g.reg(r::SP), g.reg(r::CX)), (STACK - 6, STACK, 1));
    assert_eq!((g.read16(STACK - 6), g.read16(STACK - 4), g.read16(STACK - 2) & 1), (0x9502, sel::CODE, 1));
}

/// A guest with a second task that begins at CODE + 100h.
fn tasks(code: &[u8]) -> Guest {
    let mut g = Guest::protected(code);
    g.descriptor(sel::FREE, NEW_TSS);
    g.write32(NEW + 0x1c, crate::guest::TABLES as u32);
    g.write32(NEW + 0x20, CODE as u32 + 0x100);
    g.write32(NEW + 0x24, 2);
    for (i, value) in [11u32, 12, 13, 14, OTHER_STACK as u32, 16, 17, 18].into_iter().enumerate() {
        g.write32(NEW + 0x28 + i as u64 * 4, value);
    }
    for (i, s) in [sel::DATA, sel::CODE, sel::DATA, sel::DATA, 0, sel::USER_DATA].into_iter().enumerate() {
        g.write32(NEW + 0x48 + i as u64 * 4, s.into());
    }
    g.write(CODE + 0x100, &[0xf4]);
    g
}

fn kind(g: &Guest, selector: u16) -> u64 {
    g.read64(GDT + u64::from(selector)) & 0xf << 40
}

fn jump() -> &'static [u8] {
    code!(32, ".byte 0xea", ".long 0", ".word 0x80", "inc eax")
}

fn call() -> &'static [u8] {
    code!(32, ".byte 0x9a", ".long 0", ".word 0x80", "inc eax")
}

#[test]
fn a_jump_to_a_task_saves_one_and_loads_the_other() {
    // Vol. 3, 8.3, table 8-2.
    let mut g = tasks(jump()).with(r::AX, 1).with(r::DI, 8).flags(rflags::CF);
    g.run();
    let regs: Vec<u64> = (0..8).map(|i| g.reg(i)).collect();
    assert_eq!(regs, [11, 12, 13, 14, OTHER_STACK, 16, 17, 18]);
    assert_eq!((g.state.rip, g.state.tr.selector, g.state.tr.base), (CODE + 0x101, sel::FREE, NEW));
    assert_eq!(
        (g.state.segments[seg::FS].unusable, g.state.segments[seg::GS].selector),
        (true, sel::USER_DATA)
    );
    assert_eq!(g.state.cr0 & 1 << 3, 1 << 3, "TS");
    assert_eq!((g.read32(TSS + 0x20), g.read32(TSS + 0x24)), (CODE as u32 + 7, 3));
    assert_eq!((g.read32(TSS + 0x28), g.read32(TSS + 0x44), g.read16(TSS + 0x4c)), (1, 8, sel::CODE));
    assert_eq!((kind(&g, sel::TSS), kind(&g, sel::FREE)), (9 << 40, 11 << 40));
    assert_eq!(g.state.rflags & rflags::NT, 0);
}

#[test]
fn a_call_links_the_tasks_and_iret_goes_back() {
    // Vol. 3, 8.4.
    let mut g = tasks(call()).with(r::AX, 1);
    g.run();
    assert_eq!((g.state.rflags & rflags::NT, g.read16(NEW)), (rflags::NT, sel::TSS));
    assert_eq!((kind(&g, sel::TSS), kind(&g, sel::FREE)), (11 << 40, 11 << 40));
    let mut g = tasks(call()).with(r::AX, 1);
    g.write(CODE + 0x100, code!(32, "iretd", "ud2"));
    g.run();
    assert_eq!((g.state.tr.selector, g.reg(r::AX), g.reg(r::CX)), (sel::TSS, 2, 0));
    assert_eq!((kind(&g, sel::TSS), kind(&g, sel::FREE)), (11 << 40, 9 << 40));
    assert_eq!((g.read32(NEW + 0x20), g.read32(NEW + 0x24) & rflags::NT as u32), (CODE as u32 + 0x101, 0));
}

#[test]
fn a_task_that_cannot_be_entered_is_refused_before_anything_changes() {
    // Vol. 3, 8.3, table 8-1, and vol. 2, JMP.
    let f = sel::FREE;
    for (what, descriptor, user, vector, error) in [
        ("busy", NEW_TSS | BUSY, false, vector::GP, f),
        ("not present", NEW_TSS & !(1 << 47), false, vector::NP, f),
        ("too short", NEW_TSS - 1, false, vector::TS, f),
        ("of another level", NEW_TSS, true, vector::GP, f),
        ("a local table", 0x0000_8200_0000_0067, false, vector::GP, f),
    ] {
        let g = tasks(jump());
        let mut g = if user { g.user() } else { g };
        g.descriptor(f, descriptor);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector, u64::from(error), 0), "{what}");
        assert_eq!((g.state.tr.selector, kind(&g, sel::TSS)), (sel::TSS, 11 << 40), "{what}");
    }
    let mut g = tasks(code!(32, "iretd")).flags(rflags::NT);
    g.write32(TSS, sel::FREE.into());
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error), (vector::TS, u64::from(f)), "the task to return to is not busy");
}

#[test]
fn what_is_wrong_with_the_new_tasks_segments_is_its_own_fault() {
    // Vol. 3, 8.3: the switch is complete, then #TS, #NP or #SS with the selector.
    for (what, at, selector, descriptor, vector, error) in [
        ("a null code segment", 0x4c, 0, 0u64, vector::TS, 0),
        ("data as code", 0x4c, sel::DATA, 0, vector::TS, sel::DATA),
        ("a stack of another level", 0x50, sel::USER_DATA, 0, vector::TS, sel::USER_DATA & !3),
        ("an absent stack", 0x50, sel::FREE + 8, 0x00cf_1300_0000_ffff, vector::SS, sel::FREE + 8),
        ("absent data", 0x54, sel::FREE + 8, 0x00cf_1300_0000_ffff, vector::NP, sel::FREE + 8),
        ("a local table that is none", 0x60, sel::DATA, 0, vector::TS, sel::DATA),
    ] {
        let mut g = tasks(jump());
        g.descriptor(sel::FREE + 8, descriptor);
        g.write32(NEW + at, u32::from(selector));
        // It is handled by a third task, whose segments are good.
        let third = DATA + 0x200;
        for i in (0..0x68).step_by(4) {
            let word = if i == at && at != 0x60 {
                u32::from(if i == 0x4c { sel::CODE } else { sel::DATA })
            } else if i == 0x60 {
                0
            } else {
                g.read32(NEW + i)
            };
            g.write32(third + i, word);
        }
        g.write32(third + 0x20, HANDLERS as u32 + u32::from(vector) * 16);
        g.descriptor(sel::FREE + 16, NEW_TSS + (0x200 << 16));
        g.gate(vector, sel::FREE + 16, 0, 0x8500);
        g.begin();
        let taken = g.go_to_halt().expect("an exception");
        assert_eq!(taken.vector, vector, "{what}");
        assert_eq!(g.read32(g.reg(r::SP)), u32::from(error), "{what}");
        assert_eq!((g.state.tr.selector, g.read16(third)), (sel::FREE + 16, sel::FREE), "{what}");
        assert_eq!(g.read32(NEW + 0x20), CODE as u32 + 0x100, "{what}");
    }
}

#[test]
fn a_task_gate_takes_interrupts_and_exceptions() {
    // Vol. 3, 6.12.2.
    let mut g = tasks(code!(32, "int 0x40", "inc eax")).with(r::AX, 1);
    g.gate(0x40, sel::FREE, 0, 0x8500);
    g.write(CODE + 0x100, code!(32, "iretd"));
    g.run();
    assert_eq!((g.reg(r::AX), g.state.tr.selector), (2, sel::TSS));
    let mut g = tasks(code!(32, "mov ds, ecx")).with(r::CX, 0x800);
    g.gate(vector::GP, sel::FREE, 0, 0x8500);
    g.run();
    assert_eq!(
        (g.reg(r::SP), g.read32(OTHER_STACK - 4)),
        (OTHER_STACK - 4, 0x800),
        "the error code is on the task's stack"
    );
    assert_eq!(g.read32(TSS + 0x20), CODE as u32);
}

#[test]
fn a_task_may_ask_for_a_debug_exception_when_it_begins() {
    // Vol. 3, 18.3.1.5: the T flag; DR6.BT.
    let mut g = tasks(jump());
    g.write32(NEW + 0x64, 1);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at, g.state.dr[6] & 0xe00f), (vector::DB, 0x100, 1 << 15));
}

#[test]
fn a_call_gate_of_16_bits_moves_words() {
    // Vol. 3, 5.8.5 and 5.8.6 (for 16-bit gates).
    let mut g = Guest::protected(code!(32, ".byte 0x9a", ".long 0", ".word 0x83", "ud2"))
        .user()
        .with(r::SP, OTHER_STACK + 0x800);
    g.descriptor(sel::FREE, gate(sel::CODE32, 0x9800, 0x8400 | DPL3));
    g.write(0x9800, &[0xf4]);
    g.run();
    let words: Vec<u16> = (0..4).map(|i| g.read16(STACK - 8 + i * 2)).collect();
    assert_eq!(words, [CODE as u16 + 7, sel::USER_CODE, 0x800, sel::USER_DATA]);
}
