//! Far jumps, calls and returns, call gates, and the fast calls SYSCALL and SYSENTER (Intel SDM vol. 3, 5.8).

use softcpu::rflags;

use crate::guest::{CODE, DATA, GDT, Guest, OTHER_STACK, STACK, TSS, code, gate, leaf};
use crate::{r, seg, sel, vector};

const THERE: u64 = CODE + 0x100;
const CALL_GATE: u16 = 0x8c00;
const DPL3: u16 = 0x6000;

/// A 64-bit guest with a far pointer of 32 bits offset at [`DATA`], in RBX.
fn far(code: &[u8], offset: u64, selector: u16) -> Guest {
    let mut g = Guest::long(code).with(r::BX, DATA);
    g.write64(DATA, offset & 0xffff_ffff | u64::from(selector) << 32);
    g.write(THERE, &[0xf4]);
    g
}

fn call_gate(g: &mut Guest, selector: u16, offset: u64, kind: u16) {
    g.descriptor(sel::FREE, gate(selector, offset, kind));
    g.write64(GDT + u64::from(sel::FREE) + 8, offset >> 32);
}

#[test]
fn a_far_transfer_checks_the_segment_it_goes_to() {
    // Vol. 2, JMP and CALL: #GP(selector) for type and privilege, #NP(selector), #GP(0) for the address.
    let free = sel::FREE;
    let cases = [
        ("null", 3, 0, vector::GP, 0),
        ("beyond the table", 0x800, 0, vector::GP, 0x800),
        ("data", sel::DATA, 0, vector::GP, sel::DATA),
        ("an outer level", sel::USER_CODE, 0, vector::GP, sel::USER_CODE & !3),
        ("RPL of an outer level", sel::CODE | 3, 0, vector::GP, sel::CODE),
        ("conforming code of an outer level", free, 0x00af_fe00_0000_ffff, vector::GP, free),
        ("L and D", free, 0x00ef_9b00_0000_ffff, vector::GP, free),
        ("not present", free, 0x00af_1b00_0000_ffff, vector::NP, free),
        ("a TSS in long mode", free, 0x0000_8900_0000_0067, vector::GP, free),
        ("a task gate in long mode", free, 0x0000_8500_0000_0000 | (sel::TSS as u64) << 16, vector::GP, free),
        ("a 16-bit call gate in long mode", free, 0x0000_8400_0000_0000, vector::GP, free),
        ("beyond the limit", free, 0x0040_9b00_0000_00ff, vector::GP, 0),
        ("good", sel::CODE, 0, 0, 0),
        ("conforming code of this level", free, 0x00af_9e00_0000_ffff, 0, 0),
    ];
    for (what, selector, descriptor, vector, error) in cases {
        for code in [code!(64, "jmp fword ptr [rbx]"), code!(64, "call fword ptr [rbx]")] {
            let mut g = far(code, THERE, selector);
            g.descriptor(free, descriptor);
            if vector == 0 {
                g.run();
                assert_eq!(
                    (g.state.rip, g.state.segments[seg::CS].selector),
                    (THERE + 1, selector),
                    "{what}"
                );
            } else {
                let taken = g.fault();
                assert_eq!((taken.vector, taken.error), (vector, u64::from(error)), "{what}");
                assert_eq!((taken.at, taken.rsp), (0, STACK), "{what}");
            }
        }
    }
}

#[test]
fn a_far_call_pushes_in_its_operand_size_and_a_far_return_pops_it() {
    // Vol. 2, CALL, RET.
    let mut g = far(code!(64, "call fword ptr [rbx]", "inc rcx"), THERE, sel::CODE);
    g.write(THERE, code!(64, "mov rdx, [rsp]", "mov rsi, rsp", "retf"));
    g.run();
    assert_eq!((g.reg(r::DX) as u32, g.reg(r::DX) >> 32), (CODE as u32 + 2, sel::CODE.into()));
    assert_eq!((g.reg(r::SI), g.reg(r::SP), g.reg(r::CX)), (STACK - 8, STACK, 1));
    let mut g = far(code!(64, "rex64 call fword ptr [rbx]", "inc rcx"), THERE, 0);
    g.write64(DATA, THERE);
    g.write64(DATA + 8, sel::CODE.into());
    g.write(THERE, code!(64, "mov rsi, rsp", "retfq 16"));
    g.run();
    assert_eq!((g.reg(r::SI), g.reg(r::SP), g.reg(r::CX)), (STACK - 16, STACK + 16, 1));
}

#[test]
fn a_call_gate_of_64_bits_leads_inwards_on_the_stack_of_the_task() {
    // Vol. 3, 5.8.3.1 and 5.8.5.1: nothing is copied, SS becomes null.
    let code = code!(64, "call fword ptr [rbx]", "ud2");
    let mut g = far(code, 0xdead, sel::FREE | 3).user().with(r::SP, OTHER_STACK);
    call_gate(&mut g, sel::CODE, THERE, CALL_GATE | DPL3);
    g.write64(TSS + 4, STACK - 4);
    g.run();
    let words: Vec<u64> = (0..4).map(|i| g.read64(STACK - 36 + i * 8)).collect();
    assert_eq!(words, [CODE + 2, sel::USER_CODE.into(), OTHER_STACK, sel::USER_DATA.into()]);
    assert_eq!((g.reg(r::SP), g.state.segments[seg::CS].selector), (STACK - 36, sel::CODE));
    assert!(g.state.segments[seg::SS].unusable);
    // And back outwards, with privileged segments taken away.
    let mut g = far(code, 0, sel::FREE | 3).user().with(r::SP, OTHER_STACK);
    call_gate(&mut g, sel::CODE, THERE, CALL_GATE | DPL3);
    g.write(THERE, code!(64, "mov ecx, 0x10", "mov ds, ecx", "retfq"));
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at, taken.cs), (vector::UD, 2, sel::USER_CODE));
    assert_eq!((taken.rsp, taken.ss), (OTHER_STACK, sel::USER_DATA));
    assert!(g.state.segments[seg::DS].unusable && !g.state.segments[seg::ES].unusable);
}

#[test]
fn a_call_gate_is_checked_before_what_it_leads_to() {
    // Vol. 3, 5.8.4.
    let free = sel::FREE;
    let open = CALL_GATE | DPL3;
    let cases = [
        ("DPL below CPL", free, sel::CODE, THERE, CALL_GATE, 0, vector::GP, free),
        ("DPL below RPL", free | 3, sel::CODE, THERE, CALL_GATE | 0x2000, 0, vector::GP, free),
        ("not present", free, sel::CODE, THERE, open & 0x7fff, 0, vector::NP, free),
        ("a type in its upper half", free, sel::CODE, THERE, open, 1 << 40, vector::GP, free),
        ("to null", free, 0, THERE, open, 0, vector::GP, 0),
        ("to data", free, sel::DATA, THERE, open, 0, vector::GP, sel::DATA),
        ("to 32-bit code", free, sel::CODE32, THERE, open, 0, vector::GP, sel::CODE32),
        ("to an address that is not canonical", free, sel::CODE, THERE, open, 1 << 20, vector::GP, 0),
    ];
    for (what, selector, target, offset, kind, upper, vector, error) in cases {
        let mut g = far(code!(64, "call fword ptr [rbx]"), 0, selector).user();
        call_gate(&mut g, target, offset, kind);
        g.write64(GDT + u64::from(free) + 8, upper);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error), (vector, u64::from(error)), "{what}");
        assert_eq!((taken.at, taken.rsp, taken.cs), (0, STACK, sel::USER_CODE), "{what}");
    }
    let mut g = far(code!(64, "jmp fword ptr [rbx]"), 0, free).user();
    call_gate(&mut g, sel::CODE, THERE, open);
    let taken = g.fault();
    assert_eq!(
        (taken.vector, taken.error),
        (vector::GP, u64::from(sel::CODE)),
        "a jump does not lead inwards"
    );
}

#[test]
fn a_call_gate_of_32_bits_copies_parameters_from_stack_to_stack() {
    // Vol. 3, 5.8.5.
    let mut g =
        Guest::protected(code!(32, "push 0x11", "push 0x22", ".byte 0x9a", ".long 0", ".word 0x83", "ud2"))
            .user()
            .with(r::SP, OTHER_STACK + 8);
    g.descriptor(sel::FREE, gate(sel::CODE, THERE, CALL_GATE | DPL3 | 2));
    g.write(THERE, code!(32, "mov esi, esp", "retf 8"));
    let taken = g.fault();
    assert_eq!(
        (taken.vector, taken.at, taken.rsp),
        (vector::UD, 11, OTHER_STACK + 8),
        "both stacks are cleaned"
    );
    let words: Vec<u32> = (0..6).map(|i| g.read32(g.reg(r::SI) + i * 4)).collect();
    let user = [u32::from(sel::USER_CODE), u32::from(sel::USER_DATA)];
    // The exception's own frame lies over the last of them by now.
    assert_eq!(g.reg(r::SI), STACK - 24);
    assert_eq!(&words[..1], [CODE as u32 + 11]);
    assert_eq!(user, [0x1b, 0x23]);
}

#[test]
fn a_far_return_goes_outwards_only_and_to_a_good_stack() {
    // Vol. 2, RET.
    let free = sel::FREE;
    let cases = [
        ("inwards", true, sel::CODE, sel::DATA, 0, vector::GP, sel::CODE),
        ("to data", false, sel::DATA, sel::DATA, 0, vector::GP, sel::DATA),
        ("to a null stack at level 3", false, sel::USER_CODE, 3, 0, vector::GP, 0),
        ("to a stack of level 0", false, sel::USER_CODE, sel::DATA, 0, vector::GP, sel::DATA),
        (
            "to a stack that is not present",
            false,
            sel::USER_CODE,
            free | 3,
            0x00cf_7300_0000_ffff,
            vector::SS,
            free,
        ),
    ];
    for (what, user, cs, ss, descriptor, vector, error) in cases {
        let g = Guest::long(code!(64, "retfq")).with(r::SP, STACK - 0x100);
        let mut g = if user { g.user() } else { g };
        g.write_words(STACK - 0x100, [THERE, cs.into(), STACK, ss.into()]);
        g.descriptor(free, descriptor);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector, u64::from(error), 0), "{what}");
        assert_eq!(taken.rsp, STACK - 0x100, "{what}");
    }
}

/// A guest whose fast calls lead to `THERE`.
fn fast(code: &[u8]) -> Guest {
    let mut g = Guest::long(code).with(r::SP, OTHER_STACK);
    g.state.msrs.lstar = THERE;
    g.state.msrs.star = u64::from(sel::USER_CODE32) << 48 | u64::from(sel::CODE) << 32;
    g.state.msrs.sfmask = rflags::IF | rflags::DF;
    g.state.msrs.sysenter_cs = sel::CODE.into();
    (g.state.msrs.sysenter_eip, g.state.msrs.sysenter_esp) = (THERE, STACK);
    g.write(THERE, &[0xf4]);
    g
}

#[test]
fn syscall_saves_rip_and_flags_in_registers_and_clears_the_masked_flags() {
    // Vol. 2, SYSCALL.
    let mut g = fast(code!(64, "syscall")).user().flags(rflags::IF | rflags::DF | rflags::CF);
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(11)), (CODE + 2, 0x603 | 2));
    assert_eq!((g.state.rip, g.state.rflags, g.reg(r::SP)), (THERE + 1, 3, OTHER_STACK));
    let (cs, ss) = (g.state.segments[seg::CS], g.state.segments[seg::SS]);
    assert_eq!((cs.selector, cs.rights, cs.limit), (sel::CODE, 0xa09b, u32::MAX));
    assert_eq!((ss.selector, ss.rights, ss.unusable), (sel::DATA, 0xc093, false));
}

#[test]
fn fast_calls_exist_where_the_processor_says() {
    // Vol. 2: #UD without EFER.SCE; on Intel's SYSCALL in 64-bit mode only. APM vol. 3: AMD's has SYSCALL in
    // compatibility mode, at CSTAR, and no SYSENTER in long mode.
    let mut g = fast(code!(64, "syscall"));
    g.state.efer &= !1;
    assert_eq!(g.fault().vector, vector::UD);
    let mut g = fast(code!(64, "sysretq"));
    g.state.efer &= !1;
    assert_eq!(g.fault().vector, vector::UD);
    assert_eq!(Guest::compatibility(code!(32, "syscall")).fault().vector, vector::UD);
    assert_eq!(Guest::protected(code!(32, "syscall")).fault().vector, vector::UD);
    let amd = |code| {
        let mut g = Guest::long_on(code, |table| {
            table[0] = leaf(0, [7, u32::from_le_bytes(*b"Auth"), 0x444d_4163, 0x6974_6e65])
        });
        g.state.msrs.sysenter_cs = sel::CODE.into();
        (g.state.msrs.cstar, g.state.msrs.star) = (THERE, u64::from(sel::CODE) << 32);
        g.write(THERE, &[0xf4]);
        g
    };
    assert_eq!(amd(code!(64, "sysenter")).fault().vector, vector::UD);
    let mut g = amd(code!(32, "syscall"));
    g.state.segments[seg::CS].rights = 0xc09b;
    g.run();
    assert_eq!((g.state.rip, g.reg(r::CX)), (THERE + 1, CODE + 2));
}

#[test]
fn sysret_goes_to_level_3_and_refuses_an_address_that_is_not_canonical() {
    // Vol. 2, SYSRET: on Intel's processors #GP(0) at level 0, with the kernel's registers still in force.
    let mut g = fast(code!(64, "sysretq")).with(r::CX, THERE).with(11, 0x3_7fd7 | rflags::VM);
    g.write(THERE, &[0x0f, 0x0b]);
    g.state.segments[seg::SS].base = 55;
    // The trap flag of R11 counts at once.
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at, taken.cs, taken.ss), (vector::DB, 0x100, 0x6b, 0x63));
    assert_eq!(taken.rflags & (rflags::VM | rflags::RF), 0);
    assert_eq!(taken.rflags & rflags::IOPL, rflags::IOPL);

    let mut g = fast(code!(64, "sysret")).with(r::CX, 0xffff_0000_0000 | THERE).with(11, 2);
    g.write(THERE, &[0x0f, 0x0b]);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at, taken.cs, taken.ss), (vector::UD, 0x100, 0x5b, 0x63));

    let mut g = fast(code!(64, "sysretq")).with(r::CX, 1 << 47).with(11, 2);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 0));
    assert_eq!((taken.cs, taken.rsp), (sel::CODE, OTHER_STACK));
    let mut g = fast(code!(64, "sysretq")).with(r::CX, THERE).user();
    assert_eq!((g.fault().vector, g.reg(r::CX)), (vector::GP, THERE));
}

#[test]
fn sysenter_and_sysexit_change_stack_and_level_without_memory() {
    // Vol. 2, SYSENTER, SYSEXIT.
    let mut g = fast(code!(64, "sysenter")).user().flags(rflags::IF | rflags::CF);
    g.run();
    assert_eq!((g.state.rip, g.reg(r::SP), g.state.rflags), (THERE + 1, STACK, 3));
    assert_eq!(g.state.segments[seg::CS].selector, sel::CODE);
    assert_eq!(g.state.segments[seg::SS].selector, sel::CODE + 8);

    for (code, cs, ss) in [(code!(64, "sysexit"), 0x1b, 0x23), (code!(64, "rex64 sysexit"), 0x2b, 0x33)] {
        let mut g = fast(code).with(r::CX, OTHER_STACK).with(r::DX, THERE);
        g.write(THERE, &[0x0f, 0x0b]);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.at, taken.cs, taken.ss), (vector::UD, 0x100, cs, ss));
        assert_eq!(taken.rsp, OTHER_STACK);
    }

    let mut g = fast(code!(64, "sysenter"));
    g.state.msrs.sysenter_cs = 3;
    let taken = g.fault();
    assert_eq!((taken.vector, taken.error), (vector::GP, 0), "a null selector");
    for (register, value) in [(r::CX, 1 << 47), (r::DX, 1 << 47)] {
        let g = fast(code!(64, "rex64 sysexit")).with(r::CX, OTHER_STACK).with(r::DX, THERE);
        let taken = g.with(register, value).fault();
        assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 0));
    }
    assert_eq!(fast(code!(64, "sysexit")).user().fault().vector, vector::GP);
    assert_eq!(Guest::real(code!(16, "sysenter")).fault().vector, vector::GP);
}

#[test]
fn swapgs_is_for_level_0_of_64_bit_mode() {
    // Vol. 2, SWAPGS.
    let code = code!(64, "swapgs", "mov rax, gs:[rbx]");
    let mut g = Guest::long(code).with(r::BX, 8);
    g.state.msrs.kernel_gs_base = DATA;
    g.state.segments[seg::GS].base = 0x1234;
    g.write64(DATA + 8, 99);
    g.run();
    assert_eq!((g.reg(r::AX), g.state.msrs.kernel_gs_base), (99, 0x1234));
    let taken = Guest::long(code).user().fault();
    assert_eq!((taken.vector, taken.error, taken.at), (vector::GP, 0, 0));
    assert_eq!(Guest::compatibility(code!(32, ".byte 0x0f, 0x01, 0xf8")).fault().vector, vector::UD);
}
