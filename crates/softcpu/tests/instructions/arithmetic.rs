use crate::guest::{DATA, Guest, code};
use crate::{r, vector};

#[test]
fn flags_that_only_some_instructions_of_a_run_overwrite_stay() {
    // INC keeps ADD's carry although ADD's other flags are dead.
    let mut g =
        Guest::long(code!(64, "add rax, rax", "inc rbx", "dec rcx", "adc rdx, 0")).with(r::AX, 1 << 63);
    g.run();
    assert_eq!(g.reg(r::DX), 1);
    // A shift by zero keeps them all.
    let mut g = Guest::long(code!(64, "cmp rax, 1", "shl rbx, cl", "lea rdx, [rdx]", "sete dl", "setb dh"))
        .with(r::AX, 1);
    g.run();
    assert_eq!(g.reg(r::DX), 1);
}

#[test]
fn flags_are_there_for_whoever_faults_after_them() {
    let mut g = Guest::long(code!(64, "cmp rax, rbx", "mov rcx, [rdi]", "cmp rcx, rcx"))
        .with(r::BX, 1)
        .with(r::DI, 1 << 40);
    assert_eq!(g.fault().rflags & 0x8d5, 0x95);
}

#[test]
fn a_multi_word_sum_carries_through_memory() {
    let mut g = Guest::long(code!(
        64,
        "mov rax, [rsi]",
        "add [rdi], rax",
        "mov rax, [rsi + 8]",
        "adc [rdi + 8], rax",
        "lea rdi, [rdi]",
        "adc qword ptr [rdi + 16], 0",
    ))
    .with(r::SI, DATA)
    .with(r::DI, DATA + 0x100);
    g.write(DATA, &[0xff; 16]);
    g.write(DATA + 0x100, &[1]);
    g.run();
    assert_eq!((g.read64(DATA + 0x100), g.read64(DATA + 0x108), g.read64(DATA + 0x110)), (0, 0, 1));
}

#[test]
fn narrow_results_keep_or_clear_the_rest_of_the_register() {
    let mut g = Guest::long(code!(
        64,
        "mov al, 1",
        "mov bh, 2",
        "mov cx, 3",
        "mov edx, 4",
        "xor sil, sil",
        "xor edi, edi"
    ));
    g.state.gpr = [u64::MAX; 16];
    g.state.gpr[r::SP] = crate::guest::STACK;
    g.run();
    let max = u64::MAX;
    assert_eq!(g.state.gpr[..4], [max << 8 | 1, max << 16 | 3, 4, max << 16 | 0x2ff]);
    assert_eq!(g.state.gpr[6..8], [max << 8, 0]);
}

#[test]
fn division_faults_where_the_quotient_does_not_fit() {
    for code in [code!(64, "div rcx"), code!(64, "idiv rcx"), code!(64, "div cl"), code!(64, "idiv cx")] {
        let mut g = Guest::long(code).with(r::AX, 0x7777).with(r::DX, 5);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.at), (vector::DE, 0));
        assert_eq!((g.reg(r::AX), g.reg(r::DX)), (0x7777, 5));
    }
    let mut g = Guest::long(code!(64, "cqo", "idiv rcx")).with(r::AX, 1 << 63).with(r::CX, u64::MAX);
    assert_eq!(g.fault().vector, vector::DE);
    let mut g = Guest::long(code!(64, "cqo", "idiv rcx")).with(r::AX, 1 << 63).with(r::CX, 1);
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::DX)), (1 << 63, 0));
}

#[test]
fn a_bit_number_in_a_register_reaches_far_from_the_operand() {
    let mut g = Guest::long(code!(
        64,
        "bts [rdi], rax",
        "setb cl",
        "lock btr [rdi], rdx",
        "setb ch",
        "bt [rdi], eax",
        "setb bl"
    ))
    .with(r::DI, DATA)
    .with(r::AX, 8 * 5000 + 3)
    .with(r::DX, (-8i64) as u64);
    g.write(DATA - 1, &[0xff]);
    g.run();
    assert_eq!((g.read(DATA + 5000, 1), g.read(DATA - 1, 1)), (vec![8], vec![0xfe]));
    assert_eq!((g.reg(r::CX), g.reg(r::BX)), (0x100, 1));
}

#[test]
fn compare_and_exchange_writes_what_was_there_into_the_accumulator() {
    let mut g = Guest::long(code!(
        64,
        "lock cmpxchg [rdi], rcx",
        "sete bl",
        "lock cmpxchg [rdi], rcx",
        "sete bh",
        "lock cmpxchg16b [rsi]",
    ))
    .with(r::DI, DATA)
    .with(r::SI, DATA + 0x10)
    .with(r::CX, 77);
    g.write(DATA, &[5]);
    g.write(DATA + 0x10, &[77]);
    g.run();
    assert_eq!((g.read64(DATA), g.reg(r::BX)), (77, 0x100));
    // The third: RDX:RAX was 0:5, there was 0:77, so it fails.
    assert_eq!((g.reg(r::AX), g.reg(r::DX), g.read64(DATA + 0x10)), (77, 0, 77));
    let mut g = Guest::long(code!(64, "cmpxchg16b [rsi]")).with(r::SI, DATA + 8);
    assert_eq!(g.fault().vector, vector::GP);
}

#[test]
fn decimal_adjustments_give_decimal_digits() {
    let cases: [(&[u8], u64, u64, bool); 8] = [
        (code!(32, "add al, 0x28", "daa", "setc bl"), 0x79, 0x07, true),
        (code!(32, "sub al, 0x28", "das", "setc bl"), 0x15, 0x87, true),
        (code!(32, "add al, 8", "aaa", "setc bl"), 0x0005, 0x0103, true),
        (code!(32, "sub al, 8", "aas", "setc bl"), 0x0205, 0x0107, true),
        (code!(32, "aam", "setz bl"), 57, 0x0507, false),
        (code!(32, "aad", "setz bl"), 0x0507, 57, false),
        (code!(32, "aam 16", "setz bl"), 0x40, 0x0400, true),
        (code!(32, "stc", ".byte 0xd6", "setc bl"), 0x1100, 0x11ff, true),
    ];
    for (code, before, after, flag) in cases {
        let mut g = Guest::protected(code).with(r::AX, before);
        g.run();
        assert_eq!((g.reg(r::AX), g.reg(r::BX) != 0), (after, flag), "{code:02x?} of {before:#x}");
    }
    assert_eq!(Guest::protected(code!(32, "aam 0")).fault().vector, vector::DE);
    assert_eq!(Guest::long(code!(64, ".byte 0x27")).fault().vector, vector::UD);
}

#[test]
fn an_index_out_of_bounds_is_told() {
    let guest = |index: i32| {
        let mut g = Guest::protected(code!(32, "bound eax, [edi]"))
            .with(r::AX, u64::from(index as u32))
            .with(r::DI, DATA);
        g.write(DATA, &(-2i32).to_le_bytes());
        g.write(DATA + 4, &3i32.to_le_bytes());
        g
    };
    guest(-2).run();
    guest(3).run();
    assert_eq!(guest(4).fault().vector, vector::BR);
    assert_eq!(guest(-3).fault().vector, vector::BR);
}

#[test]
fn addresses_wrap_in_their_own_size() {
    let mut g = Guest::real(code!(16, "mov ax, [bx + si]", "lea cx, [bx + si]", "lea edx, [bx + si]"))
        .with(r::BX, 0xffff)
        .with(r::SI, 0x9001);
    g.write(crate::guest::CODE + 0x9000, &[0x34, 0x12]);
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::CX), g.reg(r::DX) & 0xffff_ffff), (0x1234, 0x9000, 0x9000));
    let mut g =
        Guest::long(code!(64, "mov rax, [ebx + esi]", "xlatb")).with(r::BX, 0xff_ffff_0000_0000 | DATA);
    g.write(DATA, &[1, 42]);
    assert_eq!(g.fault().vector, vector::GP);
    assert_eq!(g.reg(r::AX), 0x2a01);
}

#[test]
fn hints_and_fences_do_nothing() {
    let mut g = Guest::long(code!(
        64,
        "endbr64",
        "nop dword ptr [rax + 1]",
        "prefetcht0 [rax]",
        "pause",
        "lfence",
        "mfence",
        "sfence",
        "clflush [rdi]",
        "rdsspq rbx",
        "rep nop",
        "data16 nop",
    ))
    .with(r::AX, 1 << 50)
    .with(r::BX, 9)
    .with(r::DI, DATA);
    g.run();
    assert_eq!(g.reg(r::BX), 9);
}
