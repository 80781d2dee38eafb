//! From mode to mode (Intel SDM vol. 3, chapter 10).

use softcpu::rflags;

use crate::guest::{CODE, DATA, Guest, STACK, code};
use crate::{r, seg, sel, vector};

const PE: u64 = 1 << 0;
const PG: u64 = 1 << 31;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;

#[test]
fn a_processor_goes_from_real_mode_to_64_bit_mode_and_all_the_way_back() {
    // Vol. 3, 10.8.5 and 10.9: PE, far jump; PAE, CR3, LME, PG, far jump; and each undone.
    let mut g = Guest::real(code!(
        16,
        "21:",
        "mov eax, cr0",
        "or al, 1",
        "mov cr0, eax",
        ".byte 0x66, 0xea",
        ".long 22f - 21b + 0x10000",
        ".word 0x38",
        ".code32",
        "22:",
        "mov eax, 0x10",
        "mov ds, eax",
        "mov ss, eax",
        "mov esp, 0x40000",
        "mov eax, 0x20",
        "mov cr4, eax",
        "mov eax, 0x1000",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x100",
        "wrmsr",
        "mov eax, cr0",
        "or eax, 0x80000000",
        "mov cr0, eax",
        "rdmsr",
        "mov esi, eax",
        ".byte 0xea",
        ".long 23f - 21b + 0x10000",
        ".word 0x50",
        ".code64",
        "23:",
        "mov rbx, 0x80000",
        "mov rax, 0x123456789abcdef0",
        "mov [rbx], rax",
        "lea rax, [rip + 24f]",
        "push 0x38",
        "push rax",
        "retfq",
        ".code32",
        "24:",
        "mov eax, cr0",
        "and eax, 0x7fffffff",
        "mov cr0, eax",
        "rdmsr",
        "mov edi, eax",
        ".byte 0xea",
        ".long 25f - 21b",
        ".word 0x40",
        ".code16",
        "25:",
        "mov ax, 0x48",
        "mov ds, ax",
        "mov ss, ax",
        "mov eax, cr0",
        "and al, 0xfe",
        "mov cr0, eax",
        ".byte 0xea",
        ".word 26f - 21b",
        ".word 0x1000",
        "26:",
        "mov ax, 0x8000",
        "mov ds, ax",
        "mov bx, [4]",
    ));
    g.run();
    assert_eq!((g.reg(r::SI) & (LME | LMA), g.reg(r::DI) & (LME | LMA)), (LME | LMA, LME));
    assert_eq!(g.read64(DATA), 0x1234_5678_9abc_def0);
    assert_eq!(g.reg(r::BX) & 0xffff, 0x5678);
    assert_eq!(g.state.cr0 & (PE | PG), 0);
    assert_eq!((g.state.segments[seg::CS].selector, g.state.segments[seg::CS].base), (0x1000, CODE));
}

#[test]
fn paging_is_neither_begun_nor_ended_where_the_mode_could_not_go_on() {
    // Vol. 3, 10.8.5: LME with paging needs PAE, and CS.L must be clear; 64-bit code cannot switch paging off.
    let switch_on = code!(32, "mov eax, cr0", "or eax, 0x80000000", "mov cr0, eax");
    let mut g = Guest::protected(switch_on);
    (g.state.cr0, g.state.efer) = (0x11, LME);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 8));
    assert_eq!(g.state.cr0 & PG, 0);

    let mut g = Guest::protected(switch_on);
    (g.state.cr0, g.state.cr4, g.state.efer) = (0x11, 0x620, LME);
    g.state.segments[seg::CS].rights |= 1 << 13;
    assert_eq!(g.fault().vector, vector::GP);

    let mut g = Guest::long(code!(64, "mov rax, cr0", "btr eax, 31", "mov cr0, rax"));
    assert_eq!((g.fault().vector, g.state.efer & LMA), (vector::GP, LMA));
}

#[test]
fn compatibility_code_uses_segments_and_32_bit_registers_under_the_same_page_tables() {
    // Vol. 3, 3.2.4: segmentation works as in legacy protected mode.
    let mut g = Guest::compatibility(code!(
        32,
        "mov eax, -1",
        "add eax, 2",
        "dec ecx",
        "mov ds, edx",
        "mov ebx, [ebx]"
    ))
    .with(r::CX, 1 << 32)
    .with(r::DX, u64::from(sel::DATA16))
    .with(r::BX, 0x2_0000);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.cs), (vector::GP, 0, sel::CODE32), "beyond its 64 KiB");
    assert_eq!((g.reg(r::AX), g.reg(r::CX)), (1, 0xffff_ffff));
    assert_eq!((taken.rsp, taken.ss), (STACK, sel::DATA), "the 64-bit frame has both");
}

#[test]
fn segments_loaded_in_protected_mode_keep_their_limit_in_real_mode() {
    // Vol. 3, 10.9.2: the hidden parts stay until they are loaded anew ("unreal mode").
    let mut g = Guest::real(code!(
        16,
        "mov eax, cr0",
        "or al, 1",
        "mov cr0, eax",
        "mov dx, 0x10",
        "mov es, dx",
        "and al, 0xfe",
        "mov cr0, eax",
        "mov ebx, 0x80000",
        "mov dword ptr es:[ebx], 0x11223344",
        "mov dword ptr [ebx], 1",
    ));
    let taken = g.fault();
    assert_eq!(g.read32(DATA), 0x1122_3344);
    assert_eq!(taken.vector, vector::GP, "DS still has 64 KiB");
}

#[test]
fn an_interrupt_in_real_mode_pushes_three_words_and_no_error_code() {
    // Vol. 3, 21.1.4.
    let mut g = Guest::real(code!(16, "sti", "int 0x21"));
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at, taken.cs, taken.rsp), (0x21, 3, 0x1000, 0xf000));
    assert_eq!(taken.rflags & rflags::IF, rflags::IF);
    assert_eq!(g.state.rflags & rflags::IF, 0);
    assert_eq!(g.reg(r::SP), 0xf000 - 6);
}

#[test]
fn a_vector_beyond_the_table_of_real_mode_is_a_fault_and_a_table_without_room_the_end() {
    // Vol. 3, 21.1.4: #GP; where that cannot be delivered either, #DF, then shutdown.
    let mut g = Guest::real(code!(16, "int 0x40"));
    g.state.idtr.limit = 0x40 * 4 - 1;
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at), (vector::GP, 0));
    let mut g = Guest::real(code!(16, "int 0x40"));
    g.state.idtr.limit = 8 * 4;
    g.shut_down();
}

#[test]
fn protected_mode_instructions_do_not_exist_in_real_mode() {
    // Vol. 2: #UD in real-address mode.
    for code in [
        code!(16, "lldt ax"),
        code!(16, "ltr ax"),
        code!(16, "sldt ax"),
        code!(16, "str ax"),
        code!(16, "verr ax"),
        code!(16, "verw ax"),
        code!(16, "lar ax, bx"),
        code!(16, "lsl ax, bx"),
        code!(16, "arpl ax, bx"),
    ] {
        assert_eq!(Guest::real(code).fault().vector, vector::UD, "{code:x?}");
    }
}
