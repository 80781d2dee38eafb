use crate::guest::{CODE, DATA, Guest, STACK, code};
use crate::{r, vector};

#[test]
fn calls_and_returns_nest_and_release_arguments() {
    let mut g = Guest::long(code!(
        64,
        "push 5",
        "call 22f",
        "mov rcx, rsp",
        "jmp 33f",
        "22:",
        "mov rax, [rsp + 8]",
        "lea rbx, [rip + 44f]",
        "call rbx",
        "ret 8",
        "44:",
        "add rax, 1",
        "ret",
        "33:",
    ));
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::CX)), (6, STACK));
}

#[test]
fn loops_count_in_the_address_size() {
    let mut g = Guest::long(code!(
        64,
        "22:",
        "inc rbx",
        "loop 22b",
        "mov ecx, 3",
        "33:",
        "inc rax",
        "addr32 loop 33b"
    ))
    .with(r::CX, 1000);
    g.run();
    assert_eq!((g.reg(r::BX), g.reg(r::AX), g.reg(r::CX)), (1000, 3, 0));
    let mut g =
        Guest::long(code!(64, "addr32 loop 22f", "22:", "jrcxz 33f", "inc rbx", "33:")).with(r::CX, 1 << 32);
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(r::BX)), (0xffff_ffff, 1));
}

#[test]
fn loope_and_loopne_look_at_zf_and_leave_the_flags() {
    let mut g = Guest::long(code!(
        64,
        "22:",
        "inc rbx",
        "cmp rbx, 5",
        "loopne 22b",
        "sete al",
        "33:",
        "cmp rbx, rbx",
        "dec rbx",
        "loope 33b"
    ))
    .with(r::CX, 100);
    g.run();
    assert_eq!((g.reg(r::AX) & 1, g.reg(r::BX), g.reg(r::CX)), (1, 4, 94));
}

#[test]
fn every_condition_is_what_its_flags_say() {
    // The flags in turn through all of CF, PF, ZF, SF, OF; SETcc, CMOVcc and Jcc must agree.
    type Condition = fn(bool, bool, bool, bool, bool) -> bool;
    let conditions: [Condition; 8] = [
        |_, _, _, _, o| o,
        |c, _, _, _, _| c,
        |_, _, z, _, _| z,
        |c, _, z, _, _| c || z,
        |_, _, _, s, _| s,
        |_, p, _, _, _| p,
        |_, _, _, s, o| s != o,
        |_, _, z, s, o| z || s != o,
    ];
    for cc in 0..16u8 {
        let code = [
            &[0x0f, 0x90 | cc, 0xc3][..],      // setcc bl
            &[0x48, 0x0f, 0x40 | cc, 0xca],    // cmovcc rcx, rdx
            &[0x70 | cc, 3, 0x48, 0xff, 0xc0], // jcc over inc rax
            &[0xf4],
        ]
        .concat();
        for bits in 0..32u64 {
            let flag = |n: u32| bits >> n & 1 != 0;
            let rflags = bits & 1 | (bits & 2) << 1 | (bits & 4) << 4 | (bits & 8) << 4 | (bits & 16) << 7;
            let expected = conditions[usize::from(cc >> 1)](flag(0), flag(1), flag(2), flag(3), flag(4))
                != (cc & 1 != 0);
            let mut g = Guest::long(&code).with(r::DX, 1);
            g.state.rflags = rflags | 2;
            g.run();
            let seen = (g.reg(r::BX) & 1 != 0, g.reg(r::CX) != 0, g.reg(r::AX) == 0);
            assert_eq!(seen, (expected, expected, expected), "condition {cc}, flags {rflags:#x}");
        }
    }
}

#[test]
fn a_branch_to_no_canonical_address_faults_where_it_is() {
    for code in [code!(64, "nop", "jmp rax"), code!(64, "nop", "call rax"), code!(64, "push rax", "ret")] {
        let mut g = Guest::long(code).user().with(r::AX, 0x8000_0000_0000).with(r::SP, DATA);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.at, taken.error), (vector::GP, 1, 0));
    }
}

#[test]
fn a_branch_beyond_the_code_segment_faults_where_it_is() {
    for code in [
        code!(32, "nop", ".byte 0xe9, 0, 0, 2, 0"),
        code!(32, "nop", "call eax"),
        code!(32, "push eax", "ret"),
    ] {
        let mut g = Guest::protected(code).with(r::AX, CODE + 0x2_0000).with(r::SP, DATA);
        g.state.segments[1].limit = CODE as u32 + 0x1_0000;
        let taken = g.fault();
        assert_eq!((taken.vector, taken.at), (vector::GP, 1));
    }
}

#[test]
fn short_branches_wrap_at_64_kib_in_16_bit_code() {
    let mut g = Guest::real(code!(16, "inc ax", "cmp ax, 2", "je 22f", ".byte 0xe9, 0, 0xff", "22:"));
    // A jump back from where the other leads to, over the end of the segment.
    g.write(CODE + 0xff09, &[0xe9, 0xf4, 0]);
    g.run();
    assert_eq!(g.reg(r::AX), 2);
}

#[test]
fn near_calls_of_both_sizes_work_in_32_bit_code() {
    let mut g = Guest::protected(code!(
        32,
        "call 22f",
        "mov ecx, esp",
        "jmp 33f",
        "22:",
        "mov edx, [esp]",
        "ret",
        "33:"
    ));
    g.run();
    assert_eq!((g.reg(r::DX), g.reg(r::CX)), (CODE + 5, STACK));
}

#[test]
fn code_that_jumps_between_pages_runs_to_its_end() {
    let mut g = Guest::long(code!(64, "22:", "jmp [rbx + rcx * 8]")).with(r::BX, DATA).with(r::CX, 99);
    // Each page: dec rcx; js to the end; jmp back.
    for n in 0..100u64 {
        let page = CODE + 0x1000 + n * 0x1000 % 0x2_0000;
        g.write(DATA + n * 8, &page.to_le_bytes());
        let back = (CODE as i64 - (page as i64 + 10)) as i32;
        let mut code = vec![0x48, 0xff, 0xc9, 0x78, 5, 0xe9];
        code.extend((back).to_le_bytes());
        code.push(0xf4);
        g.write(page, &code);
    }
    g.run();
    assert_eq!(g.reg(r::CX), u64::MAX);
}

#[test]
fn single_steps_see_every_branch() {
    // The handler counts and returns.
    let mut g = Guest::long(code!(
        64,
        "push 0x102",
        "popfq",
        "mov ecx, 5",
        "22:",
        "loop 22b",
        "call 33f",
        "pushfq",
        "and dword ptr [rsp], ~0x100",
        "popfq",
        "jmp 44f",
        "33:",
        "ret",
        "44:"
    ));
    g.write(0x8010, &[0x48, 0xff, 0xc3, 0x48, 0xcf]);
    g.run();
    // mov, 5 loops, call, ret, pushfq, and, popfq
    assert_eq!(g.reg(r::BX), 11);
}

#[test]
fn a_comparison_and_the_jump_behind_it_agree_with_what_others_see_of_the_flags() {
    const PAIRS: [(u64, u64); 6] = [(1, 1), (0, 5), (5, 0), (0x80, 0x7f), (0x7f, 0xff), (u64::MAX, 1)];
    // CMP and TEST of RAX or [RDI] with RBX or an immediate, in all widths.
    let comparisons: [(&[u8], usize); 14] = [
        (&[0x38, 0xd8], 0),
        (&[0x66, 0x39, 0xd8], 0),
        (&[0x39, 0xd8], 0),
        (&[0x48, 0x39, 0xd8], 0),
        (&[0x48, 0x85, 0xd8], 0),
        (&[0x3c], 1),
        (&[0x48, 0x83, 0xf8], 1),
        (&[0xa9], 4),
        (&[0x80, 0x3f], 1),
        (&[0x66, 0x83, 0x3f], 1),
        (&[0x83, 0x3f], 1),
        (&[0x48, 0x83, 0x3f], 1),
        (&[0xf6, 0x07], 1),
        (&[0x48, 0xf7, 0x07], 4),
    ];
    for ((comparison, immediate), cc) in comparisons.into_iter().flat_map(|c| (0..16).map(move |cc| (c, cc)))
    {
        for (a, b) in PAIRS {
            // Twice, for the first access to a page takes another way: compare; jcc over lea rcx, [rcx + 1]; setcc dl; add rsi, rdx.
            let mut code = comparison.to_vec();
            code.extend(&(b as u32).to_le_bytes()[..immediate]);
            code.extend([0x70 | cc, 4, 0x48, 0x8d, 0x49, 0x01, 0x0f, 0x90 | cc, 0xc2, 0x48, 0x01, 0xd6]);
            let mut code = code.repeat(2);
            code.push(0xf4);
            let mut g = Guest::long(&code).with(r::AX, a).with(r::BX, b).with(r::DI, DATA);
            g.write(DATA, &a.to_le_bytes());
            g.run();
            let (not_taken, set) = (g.reg(r::CX), g.reg(r::SI));
            assert_eq!(
                (not_taken + set, set % 2),
                (2, 0),
                "{comparison:02x?} {a:#x}, {b:#x}, condition {cc}"
            );
        }
    }
}
