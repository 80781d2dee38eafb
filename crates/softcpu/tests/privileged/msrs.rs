//! Model-specific registers (Intel SDM vol. 4).

use crate::guest::{DATA, Guest, code, leaf};
use crate::{r, seg, vector};

/// Reads a register; `None` for #GP(0).
fn read(msr: u32) -> Option<u64> {
    let mut g = Guest::long(code!(64, "rdmsr")).with(r::CX, msr.into()).with(r::AX, !0).with(r::DX, !0);
    finish(&mut g).then(|| g.reg(r::AX) | g.reg(r::DX) << 32)
}

/// Writes a register; the state after that, or `None` for #GP(0).
fn write(msr: u32, value: u64) -> Option<softcpu::CpuState> {
    write_on(Guest::long(code!(64, "wrmsr")), msr, value)
}

fn write_on(g: Guest, msr: u32, value: u64) -> Option<softcpu::CpuState> {
    let mut g = g.with(r::CX, msr.into()).with(r::AX, value & 0xffff_ffff).with(r::DX, value >> 32);
    finish(&mut g).then(|| g.state.clone())
}

fn finish(g: &mut Guest) -> bool {
    g.begin();
    match g.go_to_halt() {
        None => true,
        Some(taken) => {
            assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 0));
            false
        }
    }
}

#[test]
fn a_register_that_does_not_exist_is_a_general_protection_fault() {
    // Vol. 2, RDMSR, WRMSR.
    for msr in [0x2, 0x3a1, 0x480, 0x1000, 0x4000_0000, 0xc000_0084 + 0x20, 0xffff_ffff] {
        assert_eq!(read(msr), None, "{msr:#x}");
        assert!(write(msr, 0).is_none(), "{msr:#x}");
    }
    assert!(write(0xfe, 0).is_none(), "MTRRcap is read-only");
}

#[test]
fn efer_takes_its_bits_and_lme_only_while_paging_is_off() {
    // Vol. 3, 2.2.1.
    assert_eq!(read(0xc000_0080), Some(0xd01));
    assert_eq!(write(0xc000_0080, 0xd00).map(|s| s.efer), Some(0xd00));
    assert_eq!(write(0xc000_0080, 0x901).map(|s| s.efer), Some(0xd01), "LMA is the processor's");
    assert!(write(0xc000_0080, 0xc01).is_none(), "LME with paging on");
    for bit in (1..64).filter(|b| ![8, 10, 11].contains(b)) {
        assert!(write(0xc000_0080, 0xd01 | 1 << bit).is_none(), "bit {bit}");
    }
}

#[test]
fn addresses_in_registers_must_be_canonical() {
    // Vol. 2, WRMSR.
    type Field = fn(&softcpu::CpuState) -> u64;
    let fields: [(u32, Field); 8] = [
        (0xc000_0082, |s| s.msrs.lstar),
        (0xc000_0083, |s| s.msrs.cstar),
        (0xc000_0100, |s| s.segments[seg::FS].base),
        (0xc000_0101, |s| s.segments[seg::GS].base),
        (0xc000_0102, |s| s.msrs.kernel_gs_base),
        (0x175, |s| s.msrs.sysenter_esp),
        (0x176, |s| s.msrs.sysenter_eip),
        (0xc000_0081, |s| s.msrs.star),
    ];
    for (msr, field) in fields {
        let good = 0xffff_8000_1234_5678;
        assert_eq!(write(msr, good).as_ref().map(field), Some(good), "{msr:#x}");
        let refused = write(msr, 0x8000_0000_0000).is_none();
        assert_eq!(refused, msr != 0xc000_0081, "{msr:#x}");
    }
    assert_eq!(write(0xc000_0084, !0).map(|s| s.msrs.sfmask), Some(0xffff_ffff));
}

#[test]
fn bases_of_fs_and_gs_are_used_at_once() {
    // Vol. 3, 3.4.4.
    let mut g = Guest::long(code!(64, "wrmsr", "mov rsi, gs:[rbx]"))
        .with(r::CX, 0xc000_0101)
        .with(r::AX, DATA)
        .with(r::DX, 0)
        .with(r::BX, 8);
    g.write64(DATA + 8, 42);
    g.run();
    assert_eq!(g.reg(r::SI), 42);
}

#[test]
fn memory_types_are_checked() {
    // Vol. 3, 12.11.2 and 12.12.2: 2 and 3 do not exist, 7 in the PAT only.
    for (msr, valid) in [
        (0x277, 0x0007_0406_0501_0006),
        (0x250, 0x0606_0606_0504_0100),
        (0x2ff, 0xc06),
        (0x200, 6),
        (0x201, 0x800),
    ] {
        assert!(write(msr, valid).is_some(), "{msr:#x}");
    }
    for (msr, wrong) in [
        (0x277, 2),
        (0x277, 3),
        (0x277, 8),
        (0x250, 7),
        (0x2ff, 2),
        (0x2ff, 1 << 9),
        (0x200, 2),
        (0x201, 1),
        (0x201, 1 << 36),
    ] {
        assert!(write(msr, wrong).is_none(), "{wrong:#x} to {msr:#x}");
    }
}

#[test]
fn the_local_apic_moves_and_cpuid_follows_its_enable_bit() {
    // Vol. 3, 11.4.3 and 11.4.4.
    assert_eq!(read(0x1b), Some(0xfee0_0900));
    let mut g = Guest::long(code!(64, "wrmsr", "mov eax, 1", "cpuid"))
        .with(r::CX, 0x1b)
        .with(r::AX, 0xfee0_0100)
        .with(r::DX, 0);
    g.run();
    assert_eq!(g.reg(r::DX) & 1 << 9, 0);
    assert!(write(0x1b, 0xfee0_0900 | 1).is_none(), "a reserved bit");
    assert!(write(0x1b, 0xfee0_0900 | 1 << 36).is_none(), "more address than there is");
    assert!(write(0x1b, 0xfee0_0500).is_none(), "x2APIC without the APIC");
    assert!(write(0x802, 0).is_none() && read(0x802).is_none(), "registers of x2APIC mode outside it");
}

#[test]
fn registers_that_cpuid_hides_do_not_exist() {
    // Vol. 4, 2.1: their existence is enumerated.
    let offered = |t: &mut Vec<softcpu::CpuidEntry>| t[2] = leaf(7, [0, 1 << 1, 0, 1 << 26 | 1 << 29]);
    for (msr, value) in [(0x48, 1), (0x49, 1), (0x3b, 5)] {
        assert!(write(msr, value).is_none(), "{msr:#x}");
        assert!(write_on(Guest::long_on(code!(64, "wrmsr"), offered), msr, value).is_some(), "{msr:#x}");
    }
    assert!(write_on(Guest::long_on(code!(64, "wrmsr"), offered), 0x48, 8).is_none(), "a reserved bit");
    assert_eq!(read(0x10a), None);
}

#[test]
fn the_time_stamp_counter_can_be_set() {
    // Vol. 3, 18.17.
    let mut g = Guest::long(code!(64, "wrmsr", "rdtsc")).with(r::CX, 0x10).with(r::AX, 0).with(r::DX, 0x1000);
    g.run();
    assert!((0x1000..0x1010).contains(&g.reg(r::DX)));
}

#[test]
fn the_whole_of_a_register_is_edx_eax_and_the_upper_halves_are_cleared() {
    // Vol. 2, RDMSR.
    let mut g =
        Guest::long(code!(64, "rdmsr")).with(r::CX, 0xffff_ffff_c000_0082).with(r::AX, !0).with(r::DX, !0);
    g.state.msrs.lstar = 0xffff_8000_9000_0001;
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::DX)), (0x9000_0001, 0xffff_8000));
}
