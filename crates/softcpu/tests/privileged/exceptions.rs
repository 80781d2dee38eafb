//! When instructions fault: floating point that the system has not allowed, page faults half-way through an operand,
//! alignment, and instructions that are none (Intel SDM vol. 3, chapters 2, 4 and 6).

use softcpu::rflags;

use crate::guest::{CODE, DATA, Guest, STACK, code};
use crate::{r, vector};

const MP: u64 = 1 << 1;
const EM: u64 = 1 << 2;
const TS: u64 = 1 << 3;
const NE: u64 = 1 << 5;
const AM: u64 = 1 << 18;
const OSFXSR: u64 = 1 << 9;
const OSXMMEXCPT: u64 = 1 << 10;

/// The exception that `code` raises with these bits of CR0 and CR4, if any.
fn with_controls(code: &[u8], cr0: u64, cr4: u64) -> Option<u8> {
    let mut g = Guest::long(code).with(r::BX, DATA);
    g.state.cr0 = g.state.cr0 & !(MP | EM | TS) | cr0;
    g.state.cr4 = 0x20 | cr4;
    g.begin();
    g.go_to_halt().map(|t| t.vector)
}

#[test]
fn cr0_and_cr4_say_which_floating_point_instructions_exist() {
    // Vol. 3, 2.5, tables 2-2 and 14-1 (of CR0.EM, MP, TS and CR4.OSFXSR).
    let (x87, wait) = (code!(64, "fld1"), code!(64, "fwait"));
    let (mmx, sse, fxsave) =
        (code!(64, "pxor mm0, mm0"), code!(64, "pxor xmm0, xmm0"), code!(64, "fxsave [rbx]"));
    let nontemporal = code!(64, "movnti [rbx], eax");
    let (ud, nm, fine) = (Some(vector::UD), Some(vector::NM), None);
    for (cr0, cr4, expected) in [
        (0, OSFXSR, [fine, fine, fine, fine, fine, fine]),
        (0, 0, [fine, fine, fine, ud, fine, fine]),
        (MP, OSFXSR, [fine, fine, fine, fine, fine, fine]),
        (TS, OSFXSR, [nm, fine, nm, nm, nm, fine]),
        (TS | MP, OSFXSR, [nm, nm, nm, nm, nm, fine]),
        (TS, 0, [nm, fine, nm, ud, nm, fine]),
        (EM, OSFXSR, [nm, fine, ud, ud, nm, fine]),
        (EM | TS, OSFXSR, [nm, fine, ud, ud, nm, fine]),
        (EM | TS | MP, OSFXSR, [nm, nm, ud, ud, nm, fine]),
    ] {
        let got = [x87, wait, mmx, sse, fxsave, nontemporal].map(|code| with_controls(code, cr0, cr4));
        assert_eq!(got, expected, "CR0 {cr0:#x} CR4 {cr4:#x}");
    }
}

#[test]
fn a_pending_x87_exception_is_raised_by_the_next_instruction_that_waits() {
    // Vol. 1, 8.6; vol. 3, 6.15, interrupt 16: with CR0.NE.
    let divide = code!(64, "fldcw [rbx]", "fldz", "fld1", "fdivrp", "mov eax, 1", "fnstsw ax", "fwait");
    let mut g = Guest::long(divide).with(r::BX, DATA);
    g.write(DATA, &0x37bu16.to_le_bytes());
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at), (vector::MF, 15), "FNSTSW does not wait, FWAIT does");
    assert_eq!(g.reg(r::AX) & 0x8084, 0x8084);
    let mut g = Guest::long(divide).with(r::BX, DATA);
    g.state.cr0 &= !NE;
    g.write(DATA, &0x37bu16.to_le_bytes());
    g.run();
}

#[test]
fn an_unmasked_simd_exception_is_xm_or_ud() {
    // Vol. 3, 6.15, interrupt 19: CR4.OSXMMEXCPT. Nothing is stored.
    let divide = code!(64, "ldmxcsr [rbx]", "divss xmm0, xmm1");
    for (cr4, expected) in [(OSFXSR | OSXMMEXCPT, vector::XM), (OSFXSR, vector::UD)] {
        let mut g = Guest::long(divide).with(r::BX, DATA);
        g.state.cr4 = 0x20 | cr4;
        g.write32(DATA, 0x1d80);
        g.state.xmm[0] = 0x3f80_0000;
        let taken = g.fault();
        assert_eq!((taken.vector, taken.at), (expected, 3));
        assert_eq!((g.state.xmm[0], g.state.mxcsr & 0x3f), (0x3f80_0000, 4));
    }
}

#[test]
fn an_operand_that_ends_in_a_page_that_is_not_there_is_not_touched() {
    // Vol. 3, 6.5: faults are precise. CR2 is where the second page begins.
    let cases = [
        (code!(64, "mov [rbx], rax"), 8, 2),
        (code!(64, "mov rax, [rbx]"), 8, 0),
        (code!(64, "add [rbx], eax"), 4, 2),
        (code!(64, "lock xadd [rbx], rax"), 8, 2),
        (code!(64, "xchg [rbx], ax"), 2, 2),
        (code!(64, "movups [rbx], xmm1"), 16, 2),
        (code!(64, "movups xmm0, [rbx]"), 16, 0),
        (code!(64, "fstp tbyte ptr [rbx]"), 10, 2),
        (code!(64, "fstp qword ptr [rbx]"), 8, 2),
        (code!(64, "cmpxchg8b [rbx]"), 8, 2),
        (code!(64, "sgdt [rbx]"), 10, 2),
        (code!(64, "fnstenv [rbx]"), 28, 2),
        (code!(64, "movsq"), 8, 2),
        (code!(64, "stosd"), 4, 2),
        (code!(64, "push [rbx]"), 8, 0),
        (code!(64, "pop [rbx]"), 8, 2),
    ];
    for (code, size, error) in cases {
        for inside in 1..size {
            let at = DATA + 0x1000 - inside;
            let mut g = Guest::long(code).with(r::BX, at).with(r::DI, at).with(r::SI, DATA).with(r::AX, !0);
            g.state.xmm[1] = u128::MAX;
            g.state.x87.tags = 0xff;
            g.state.x87.regs[0] = [0x55; 10];
            g.write(at, &vec![0xaa; inside as usize]);
            g.unmap(DATA + 0x1000);
            let before = g.state.clone();
            let taken = g.fault();
            assert_eq!((taken.vector, taken.error, taken.at), (vector::PF, error, 0), "{code:x?}");
            assert_eq!(g.state.cr2, DATA + 0x1000, "{code:x?}");
            assert_eq!(g.read(at, inside as usize), vec![0xaa; inside as usize], "{code:x?}");
            assert_eq!(taken.rsp, STACK, "{code:x?}");
            assert_eq!(g.state.gpr[..4], before.gpr[..4], "{code:x?}");
            assert_eq!(g.state.gpr[5..], before.gpr[5..], "{code:x?}");
            assert_eq!((g.state.xmm, g.state.x87), (before.xmm, before.x87), "{code:x?}");
        }
    }
}

#[test]
fn a_repeated_string_instruction_stops_at_the_page_that_is_not_there() {
    // Vol. 2, REP: the registers say how far it came, RIP is at it.
    let mut g =
        Guest::long(code!(64, "nop", "rep stosb")).with(r::CX, 100).with(r::DI, DATA + 0xff0).with(r::AX, 7);
    g.unmap(DATA + 0x1000);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::PF, 2, 1));
    assert_eq!((g.reg(r::CX), g.reg(r::DI), g.state.cr2), (84, DATA + 0x1000, DATA + 0x1000));
    assert_eq!(g.read(DATA + 0xff0, 16), [7; 16]);
    assert_eq!(taken.rflags & rflags::RF, rflags::RF);
}

#[test]
fn an_instruction_that_ends_in_a_page_that_is_not_there_faults_at_that_page() {
    // Vol. 3, 4.7: with execute-disable paging the error code says that it was a fetch.
    let mut g = Guest::long(&[]);
    g.state.rip = DATA + 0xffe;
    g.write(DATA + 0xffe, &[0x48, 0xb8]);
    g.unmap(DATA + 0x1000);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::PF, 0x10, DATA + 0xffe - CODE));
    assert_eq!(g.state.cr2, DATA + 0x1000);
}

#[test]
fn an_instruction_of_more_than_15_bytes_is_a_general_protection_fault() {
    // Vol. 3, 6.15, interrupt 13: "exceeding the instruction length limit of 15 bytes".
    let mut just = vec![0x66; 14];
    just.extend([0x90, 0xf4]);
    Guest::long(&just).run();
    let mut long = vec![0x66; 15];
    long.extend([0x90, 0xf4]);
    for at in [CODE, DATA + 0x1000 - 15, DATA + 0x1000 - 3] {
        let mut g = Guest::long(&[]);
        g.write(at, &long);
        g.state.rip = at;
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, at - CODE));
    }
    // What would be too long is never fetched beyond its 15th byte.
    let mut g = Guest::long(&[]);
    g.write(DATA + 0x1000 - 15, &[0x66; 15]);
    g.state.rip = DATA + 0x1000 - 15;
    g.unmap(DATA + 0x1000);
    assert_eq!(g.fault().vector, vector::GP);
}

#[test]
fn what_is_no_instruction_in_just_15_bytes_is_undefined() {
    let lock_test = [0xf2, 0xf3, 0xf0, 0x46, 0xf7, 0x84, 0x16, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut sized = lock_test;
    sized[..4].copy_from_slice(&[0x67, 0xf3, 0xf0, 0xf0]);
    let mut ud2 = [0x66; 15];
    ud2[13..].copy_from_slice(&[0x0f, 0x0b]);
    let mut push_es = [0xf3; 15];
    push_es[14] = 0x06;
    for code in [lock_test, sized, ud2, push_es] {
        let taken = Guest::long(&code).fault();
        assert_eq!((taken.vector, taken.at), (vector::UD, 0), "{code:02x?}");
    }
    let mut longer = [0x2e; 18];
    longer[1..16].copy_from_slice(&lock_test);
    assert_eq!(Guest::long(&longer).fault().vector, vector::GP);
}

#[test]
fn addresses_that_are_not_canonical_are_faults_of_their_segment() {
    // Vol. 1, 3.3.7.1: #SS for accesses by way of the stack, else #GP, both with 0.
    for (code, expected) in [
        (code!(64, "mov eax, [rbx]"), vector::GP),
        (code!(64, "mov [rbx], eax"), vector::GP),
        (code!(64, "mov eax, [rbp]"), vector::SS),
        (code!(64, "mov rsp, rbx", "push rax"), vector::SS),
        (code!(64, "jmp rbx"), vector::GP),
        (code!(64, "call rbx"), vector::GP),
    ] {
        let mut g = Guest::long(code).with(r::BX, (1 << 47) + 0x100).with(r::BP, 1 << 47);
        g.gate(expected, crate::sel::CODE, crate::guest::HANDLERS + u64::from(expected) * 16, 0x8e01);
        g.write64(crate::guest::TSS + 0x24, STACK);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error), (expected, 0), "{code:x?}");
        assert_eq!(taken.at, if code[0] == 0x48 { 3 } else { 0 }, "{code:x?}");
    }
    // The last byte counts.
    let mut g = Guest::long(code!(64, "mov eax, [rbx]")).with(r::BX, (1 << 47) - 3);
    assert_eq!(g.fault().vector, vector::GP);
}

#[test]
fn misaligned_accesses_are_checked_at_level_3_only_and_with_both_am_and_ac() {
    // Vol. 3, 6.15, interrupt 17.
    let code = code!(64, "mov eax, [rbx]", "ud2");
    for (am, ac, user, expected) in [
        (AM, rflags::AC, true, vector::AC),
        (0, rflags::AC, true, vector::UD),
        (AM, 0, true, vector::UD),
        (AM, rflags::AC, false, vector::UD),
    ] {
        let g = Guest::long(code).with(r::BX, DATA + 1).flags(ac);
        let mut g = if user { g.user() } else { g };
        g.state.cr0 |= am;
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error), (expected, 0));
    }
    // The page comes first, and what the processor itself reads is not checked.
    let mut g = Guest::long(code!(64, "int 0x40", "ud2")).user().flags(rflags::AC);
    g.state.cr0 |= AM;
    g.state.tr.base += 1;
    g.write64(g.state.tr.base + 4, STACK);
    assert_eq!(g.fault().vector, vector::GP);
}

#[test]
fn instructions_that_cpuid_does_not_offer_do_not_exist() {
    // Vol. 2: #UD if the CPUID feature flag is clear.
    use crate::guest::leaf;
    let edx = 0x078b_fbff;
    let cases: [(&str, u32, &[u8]); 7] = [
        ("SSE3", 1 << 0, code!(64, "lddqu xmm0, [rbx]")),
        ("SSE3", 1 << 0, code!(64, "haddps xmm0, xmm1")),
        ("SSE3", 1 << 0, code!(64, "movddup xmm0, xmm1")),
        ("SSE3", 1 << 0, code!(64, "addsubpd xmm0, xmm1")),
        ("SSE3", 1 << 0, code!(64, "fisttp word ptr [rbx]")),
        ("CX16", 1 << 13, code!(64, "cmpxchg16b [rbx]")),
        ("POPCNT", 1 << 23, code!(64, "popcnt eax, ecx")),
    ];
    for (what, bit, code) in cases {
        let all = 0x01a0_2001u32;
        let mut with = Guest::long(code).with(r::BX, DATA);
        with.run();
        let mut without =
            Guest::long_on(code, |t| t[1] = leaf(1, [0x6f1, 0, all & !bit, edx])).with(r::BX, DATA);
        assert_eq!(without.fault().vector, vector::UD, "{what}");
        // Neighbours in the same block are not taken for it.
        let mut neighbour = Guest::long_on(code!(64, "addps xmm0, xmm1", "fistp word ptr [rbx]"), |t| {
            t[1] = leaf(1, [0x6f1, 0, all & !bit, edx])
        })
        .with(r::BX, DATA);
        neighbour.run();
    }
    let rdtscp = code!(64, "rdtscp");
    Guest::long(rdtscp).run();
    let mut without = Guest::long_on(rdtscp, |t| t[3] = leaf(0x8000_0001, [0x6f1, 0, 1, 0x2010_0800]));
    assert_eq!(without.fault().vector, vector::UD);
    for never in [
        code!(64, ".byte 0x66, 0x0f, 0x38, 0x00, 0xc1"), // PSHUFB
        code!(64, ".byte 0x0f, 0x01, 0xc8"),             // MONITOR
        code!(64, ".byte 0x0f, 0x01, 0xd0"),             // XGETBV
        code!(64, ".byte 0xc5, 0xf8, 0x77"),             // VZEROUPPER
        code!(64, ".byte 0x0f, 0xc7, 0xf0"),             // RDRAND
        code!(64, ".byte 0xf3, 0x0f, 0xae, 0xc0"),       // RDFSBASE
        code!(64, ".byte 0x66, 0x0f, 0x38, 0x82, 0x03"), // INVPCID
        code!(64, ".byte 0x0f, 0x01, 0xca"),             // CLAC
    ] {
        assert_eq!(Guest::long(never).with(r::BX, DATA).fault().vector, vector::UD, "{never:x?}");
    }
}

#[test]
fn the_x87_selectors_are_zero_as_cpuid_says_and_the_addresses_are_kept() {
    // Vol. 1, 8.1.8; CPUID.7:EBX[13].
    let code = code!(32, "fld dword ptr [ebx]", "fnstenv [esi]");
    let mut g = Guest::protected(code).with(r::BX, DATA).with(r::SI, DATA + 0x100);
    g.run();
    let word = |n: u64| g.read32(DATA + 0x100 + n * 4);
    assert_eq!((word(3), word(4), word(5), word(6)), (CODE as u32, 0x103 << 16, DATA as u32, 0xffff_0000));
    let mut g = Guest::long(code!(64, "fld dword ptr [rbx]", "fxsave [rsi]"))
        .with(r::BX, DATA)
        .with(r::SI, DATA + 0x100);
    g.run();
    assert_eq!((g.read64(DATA + 0x108), g.read64(DATA + 0x110)), (CODE, DATA));
}
