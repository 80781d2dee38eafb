//! Page tables: rights, accessed and dirty bits, reserved bits, error codes, and when a translation is forgotten (Intel
//! SDM vol. 3, chapter 4).

use crate::guest::{DATA, Guest, TABLES, code, leaf};
use crate::{r, vector};

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;
const WP: u64 = 1 << 16;
const PGE: u64 = 1 << 7;

const PML4: u64 = TABLES;
const PDPT: u64 = TABLES + 0x1000;
const PD: u64 = TABLES + 0x2000;
/// An address in a part of the linear space that the tables leave open, by way of the second entry of `PD`.
const OPEN: u64 = 2 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Fetch,
}

/// A guest that accesses [`DATA`] once.
fn accessing(access: Access, at: u64) -> Guest {
    let code = match access {
        Access::Read => code!(64, "mov al, [rbx]", "ud2"),
        Access::Write => code!(64, "mov [rbx], al", "ud2"),
        Access::Fetch => code!(64, "jmp rbx"),
    };
    let mut g = Guest::long(code).with(r::BX, at);
    g.write(DATA, &[0x0f, 0x0b]);
    g
}

/// The error code of the access, `None` where it is allowed.
fn error(mut g: Guest) -> Option<u64> {
    let taken = g.fault();
    match taken.vector {
        vector::PF => {
            assert_eq!(g.state.cr2, g.reg(r::BX));
            Some(taken.error)
        }
        other => {
            assert_eq!(other, vector::UD);
            None
        }
    }
}

#[test]
fn rights_are_those_of_all_levels_together() {
    // Vol. 3, 4.6 and 4.7: bits of the error code P 0, W 1, U 2, RSVD 3, I 4.
    use Access::*;
    for (entry, access, user, wp, expected) in [
        (0, Read, false, true, Some(0)),
        (0, Write, false, true, Some(2)),
        (0, Read, true, true, Some(4)),
        (0, Write, true, true, Some(6)),
        (0, Fetch, true, true, Some(0x14)),
        (P | U, Read, true, true, None),
        (P | U, Write, true, true, Some(7)),
        (P | U, Write, true, false, Some(7)),
        (P | U, Write, false, true, Some(3)),
        (P | U, Write, false, false, None),
        (P | W, Read, true, true, Some(5)),
        (P | W, Write, true, true, Some(7)),
        (P | W, Fetch, true, true, Some(0x15)),
        (P | W, Read, false, true, None),
        (P | W | U | NX, Fetch, true, true, Some(0x15)),
        (P | W | U | NX, Fetch, false, true, Some(0x11)),
        (P | W | U | NX, Write, true, true, None),
        (P | W | U, Fetch, true, true, None),
    ] {
        // The right is missing in the last level, or in one above it by which OPEN and no other page is reached.
        for level in 0..4 {
            let at = DATA + if level == 0 { 0 } else { 1 << 39 };
            let g = accessing(access, at);
            let mut g = if user { g.user() } else { g };
            if !wp {
                g.state.cr0 &= !WP;
            }
            let rights = |n: usize| if level == n { entry } else { P | W | U };
            if level == 0 {
                g.map(DATA, if entry == 0 { 0 } else { DATA | entry });
            } else {
                let tables = [0x10_0000, 0x10_1000, 0x10_2000u64];
                g.write64(PML4 + 8, tables[0] | P | W | U);
                g.write64(tables[0], if rights(3) == 0 { 0 } else { tables[1] | rights(3) });
                g.write64(tables[1], if rights(2) == 0 { 0 } else { tables[2] | rights(2) });
                g.write64(tables[2] + (DATA >> 12) * 8, if rights(1) == 0 { 0 } else { DATA | rights(1) });
            }
            assert_eq!(error(g), expected, "{entry:#x} {access:?} user {user} WP {wp} level {level}");
        }
    }
}

#[test]
fn accessed_and_dirty_bits_are_set_by_what_sets_them() {
    // Vol. 3, 4.8.
    for (access, expected) in [(Access::Read, A), (Access::Fetch, A), (Access::Write, A | D)] {
        let mut g = accessing(access, DATA);
        g.map(DATA, DATA | P | W | U);
        assert_eq!(g.fault().vector, vector::UD);
        assert_eq!(g.read64(g.entry(DATA)), DATA | P | W | U | expected, "{access:?}");
        for table in [PML4, PDPT, PD] {
            assert_eq!(g.read64(table) & (A | D), A, "{access:?}");
        }
    }
    // A page that was read is marked dirty by the first write; a refused write marks nothing.
    let mut g = Guest::long(code!(64, "mov al, [rbx]", "mov rcx, [rdx]", "mov [rbx], al")).with(r::BX, DATA);
    g.state.gpr[r::DX] = g.entry(DATA);
    g.run();
    assert_eq!((g.reg(r::CX) & (A | D), g.read64(g.entry(DATA)) & (A | D)), (A, A | D));
    let mut g = accessing(Access::Write, DATA);
    g.map(DATA, DATA | P);
    assert_eq!(g.fault().error, 3);
    assert_eq!(g.read64(g.entry(DATA)) & D, 0);
    // A read-modify-write that writes nothing new is a write.
    let mut g = Guest::long(code!(64, "mov eax, 1", "cmpxchg [rbx], ecx")).with(r::BX, DATA);
    g.run();
    assert_eq!(g.read64(g.entry(DATA)) & D, D);
}

#[test]
fn large_pages_have_their_bits_where_they_are_mapped() {
    // Vol. 3, 4.5.4: a 2 MiB page; A and D in its PDE.
    let mut g = Guest::long(code!(64, "mov [rbx], rbx")).with(r::BX, OPEN + DATA);
    g.write64(PD + 8, P | W | PS);
    g.run();
    assert_eq!((g.read64(DATA), g.read64(PD + 8)), (OPEN + DATA, P | W | PS | A | D));
    let with_giants = |t: &mut Vec<softcpu::CpuidEntry>| t[3] = leaf(0x8000_0001, [0x6f1, 0, 1, 0x2c10_0800]);
    let code = code!(64, "mov [rbx], rbx");
    for giants in [true, false] {
        let g = if giants { Guest::long_on(code, with_giants) } else { Guest::long(code) };
        let mut g = g.with(r::BX, (1 << 30) + DATA);
        g.write64(PDPT + 8, P | W | PS);
        if giants {
            g.run();
            assert_eq!(g.read64(DATA), (1 << 30) + DATA);
        } else {
            assert_eq!(g.fault().error, 0xb, "1 GiB pages are for processors that have them");
        }
    }
}

#[test]
fn reserved_bits_are_a_fault_of_their_own() {
    // Vol. 3, 4.5.4 and 4.7: address bits that the processor lacks, bits in a large page's base, PS in a PML4E, and XD
    // without EFER.NXE. The processor has 36 address bits.
    let at = OPEN + 0x3000;
    let cases = [
        ("a PML4E's address", PML4 + 8, 1 << 36 | 0x10_0000 | P, (1 << 39) + 0x3000),
        ("a PML4E's PS", PML4 + 8, PS | 0x10_0000 | P, (1 << 39) + 0x3000),
        ("a PDPTE's address", PDPT + 8, 1 << 51 | 0x10_0000 | P, (1 << 30) + 0x3000),
        ("a PDE's address", PD + 8, 1 << 40 | 0x10_0000 | P, at),
        ("a large page's base", PD + 8, PS | 1 << 13 | P, at),
        ("a large page's base, last bit", PD + 8, PS | 1 << 20 | P, at),
        ("a large page's address", PD + 8, PS | 1 << 36 | P, at),
    ];
    for (what, entry, value, at) in cases {
        for (access, user, bits) in [
            (Access::Read, false, 9),
            (Access::Write, false, 0xb),
            (Access::Read, true, 0xd),
            (Access::Fetch, false, 0x19),
        ] {
            let g = accessing(access, at);
            let mut g = if user { g.user() } else { g };
            g.write64(entry, value);
            assert_eq!(error(g), Some(bits), "{what} {access:?}");
        }
    }
    let mut g = accessing(Access::Read, DATA);
    g.map(DATA, DATA | P | 1 << 37);
    assert_eq!(error(g), Some(9));
    let mut g = accessing(Access::Read, DATA);
    g.map(DATA, DATA | P | NX);
    g.state.efer &= !(1 << 11);
    assert_eq!(error(g), Some(9));
    let mut g = accessing(Access::Fetch, DATA);
    g.map(DATA, 0);
    g.state.efer &= !(1 << 11);
    assert_eq!(error(g), Some(0), "without NXE nobody tells of fetches");
    let mut g = accessing(Access::Read, DATA);
    g.map(DATA, DATA | P | 0x7ff << 52 | 7 << 9);
    assert_eq!(error(g), None, "what software may use");
}

/// Reads through a page, changes its entry to another page, does `flush`, reads again: whether the second read saw the change.
fn sees_change(flush: &[u8], entry: u64, prepare: impl FnOnce(&mut Guest)) -> bool {
    let code = [code!(64, "mov rcx, [rbx]", "mov [rsi], rdi"), flush, code!(64, "mov rdx, [rbx]")]
        .map(|c| &c[..c.len()]);
    let body = [&code[0][..code[0].len() - 1], &code[1][..code[1].len() - 1], code[2]].concat();
    let mut g = Guest::long(&body).with(r::BX, DATA).with(r::DI, (DATA + 0x1000) | entry);
    g.state.gpr[r::SI] = g.entry(DATA);
    g.map(DATA, DATA | entry);
    g.write64(DATA, 1);
    g.write64(DATA + 0x1000, 2);
    g.state.cr4 |= PGE;
    prepare(&mut g);
    g.run();
    assert_eq!(g.reg(r::CX), 1);
    g.reg(r::DX) == 2
}

#[test]
fn translations_are_forgotten_when_software_says_so() {
    // Vol. 3, 4.10.4.1.
    let global = P | W | U | G;
    let local = P | W | U;
    let cr3 = code!(64, "mov rax, cr3", "mov cr3, rax");
    let cr4 = code!(64, "mov rax, cr4", "btc rax, 7", "mov cr4, rax", "btc rax, 7", "mov cr4, rax");
    let cr0 = code!(64, "mov rax, cr0", "btc rax, 16", "mov cr0, rax", "btc rax, 16", "mov cr0, rax");
    assert!(sees_change(code!(64, "invlpg [rbx]"), local, |_| {}));
    assert!(sees_change(code!(64, "invlpg [rbx + 0xfff]"), global, |_| {}), "a global page too");
    assert!(sees_change(cr3, local, |_| {}));
    assert!(!sees_change(cr3, global, |_| {}), "global pages survive a load of CR3");
    assert!(sees_change(cr3, global, |g| g.state.cr4 &= !PGE), "but only with PGE");
    assert!(sees_change(cr4, global, |_| {}));
    assert!(sees_change(cr0, local, |_| {}));
}

#[test]
fn invlpg_forgets_the_whole_of_a_large_page() {
    // Vol. 3, 4.10.2.3 and 4.10.4.1: all translations of the page, however many entries it has.
    let mut g = Guest::long(code!(
        64,
        "mov rcx, [rbx]",
        "mov rdx, [rbx + 0x5000]",
        "mov [rsi], rdi",
        "invlpg [rbx + 0x1000]",
        "mov r8, [rbx]",
        "mov r9, [rbx + 0x5000]",
    ))
    .with(r::BX, OPEN)
    .with(r::SI, PD + 8)
    .with(r::DI, 0x10_0000 | P | W);
    g.write64(PD + 8, PS | P | W);
    // A page table whose every page is page 0x103 of memory.
    for n in 0..512 {
        g.write64(0x10_0000 + n * 8, 0x10_3000 | P | W);
    }
    g.write64(0, 11);
    g.write64(0x5000, 12);
    g.write64(0x10_3000, 77);
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(r::DX), g.reg(8), g.reg(9)), (11, 12, 77, 77));
}

#[test]
fn invlpg_of_a_small_page_leaves_its_neighbours() {
    // Not promised by the manual, but what makes it worth having; a page that is not there, and one that is not canonical, are none.
    let mut g =
        Guest::long(code!(64, "invlpg [rbx]", "invlpg [rcx]")).with(r::BX, 1 << 46).with(r::CX, 1 << 50);
    g.run();
}

#[test]
fn rights_that_were_given_are_used_without_a_flush_after_the_fault() {
    // Vol. 3, 4.10.4.3: a fault may be spurious, and the access then succeeds when it is tried again.
    let mut g = Guest::long(code!(64, "mov rcx, [rbx]", "mov [rbx], rdi")).with(r::BX, DATA).with(r::DI, 5);
    g.map(DATA, DATA | P);
    g.on(vector::PF, code!(64, "mov [rsi], rdx", "add rsp, 8", "iretq"));
    g.state.gpr[r::SI] = g.entry(DATA);
    g.state.gpr[r::DX] = DATA | P | W;
    g.run();
    assert_eq!(g.read64(DATA), 5);
}

/// A guest with 32-bit paging.
fn narrow(code: &[u8]) -> Guest {
    Guest::protected(code)
}

#[test]
fn paging_of_32_bits_has_two_levels_and_pages_of_4_mib() {
    // Vol. 3, 4.3.
    let mut g = narrow(code!(32, "mov [ebx], ebx")).with(r::BX, 0x40_0000 + DATA);
    g.state.cr4 |= 1 << 4;
    g.write32(TABLES + 4, (P | W | PS) as u32);
    g.run();
    assert_eq!(
        (g.read32(DATA), g.read32(TABLES + 4)),
        ((0x40_0000 + DATA) as u32, (P | W | PS | A | D) as u32)
    );
    let mut g = narrow(code!(32, "mov [ebx], ebx")).with(r::BX, 0x40_0000);
    g.state.cr4 |= 1 << 4;
    g.write32(TABLES + 4, (P | W | PS | 1 << 21) as u32);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, g.state.cr2), (vector::PF, 0xb, 0x40_0000));
    for (entry, user, expected) in [(0u64, false, 2), (P, false, 3), (P | U, true, 7), (P | W, true, 7)] {
        let g = narrow(code!(32, "mov [ebx], ebx")).with(r::BX, DATA);
        let mut g = if user { g.user() } else { g };
        g.map(DATA, if entry == 0 { 0 } else { DATA | entry });
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, g.state.cr2), (vector::PF, expected, DATA));
    }
    let mut g = narrow(code!(32, "jmp ebx")).with(r::BX, DATA);
    g.map(DATA, 0);
    assert_eq!(g.fault().error, 0, "no execute-disable, no I bit");
}

/// A guest with PAE paging of 2 MiB pages from 0, whose page-directory pointers are at 0x5000 and whose first page
/// directory is at 0x2000.
fn pae(code: &[u8]) -> Guest {
    let mut g = Guest::protected(code);
    g.state.cr4 |= 1 << 5;
    g.state.cr3 = 0x5000;
    g.state.efer = 1 << 11;
    g.write64(0x5000, 0x2000 | P);
    g.write64(0x2000, PS | P | W | U);
    g
}

#[test]
fn pae_paging_maps_through_four_pointers() {
    // Vol. 3, 4.4.
    let mut g = pae(code!(32, "mov [ebx], ebx")).with(r::BX, 0xc000_0000 + DATA);
    g.write64(0x5018, 0x3000 | P);
    g.write64(0x3000, PS | P | W);
    g.run();
    assert_eq!(g.read32(DATA), (0xc000_0000 + DATA) as u32);
    for (what, pdpte, pde, error) in [
        ("no pointer", 0, 0, 2),
        ("no directory entry", 0x3000 | P, 0, 2),
        ("a read-only page", 0x3000 | P, PS | P, 3),
        ("an address that is not there", 0x3000 | P, PS | P | W | 1 << 36, 0xb),
        ("bits that only long mode ignores", 0x3000 | P, PS | P | W | 1 << 52, 0xb),
        ("the last of them", 0x3000 | P, PS | P | W | 1 << 62, 0xb),
    ] {
        let mut g = pae(code!(32, "mov [ebx], ebx")).with(r::BX, 0xc000_0000 + DATA);
        g.write64(0x5018, pdpte);
        g.write64(0x3000, pde);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error), (vector::PF, error), "{what}");
    }
    let mut g = pae(code!(32, "jmp ebx")).with(r::BX, 0xc000_0000);
    g.write64(0x5018, 0x3000 | P);
    g.write64(0x3000, PS | P | W | NX);
    assert_eq!(g.fault().error, 0x11);
}

#[test]
fn reserved_bits_in_a_pointer_are_found_when_cr3_is_loaded() {
    // Vol. 3, 4.4.1: MOV CR3 loads the four pointers; a present one with a reserved bit is #GP(0).
    for (pointer, good) in [
        (0x3000 | P, true),
        (0x3000 | P | W, false),
        (0x3000 | P | 1 << 8, false),
        (0x3000 | P | 1 << 36, false),
        (0x3000 | P | NX, false),
        (W | 1 << 36, true),
    ] {
        for mut g in [
            pae(code!(32, "mov cr3, eax")).with(r::AX, 0x5000),
            pae(code!(32, "mov cr4, ecx")).with(r::CX, 0x6a0),
        ] {
            g.write64(0x5008, pointer);
            if good {
                g.run();
            } else {
                let taken = g.fault();
                assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 0), "{pointer:#x}");
                assert_eq!(g.state.cr4 & PGE, 0);
            }
        }
    }
}
