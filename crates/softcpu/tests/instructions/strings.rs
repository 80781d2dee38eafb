use crate::guest::{CODE, DATA, Guest, code};
use crate::{r, vector};

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 256) as u8).collect()
}

#[test]
fn a_copy_onto_what_it_reads_later_repeats_the_beginning() {
    let mut g =
        Guest::long(code!(64, "rep movsb")).with(r::CX, 10_000).with(r::SI, DATA).with(r::DI, DATA + 3);
    g.write(DATA, b"abc");
    g.run();
    assert!(g.read(DATA, 10_003).iter().zip(b"abc".iter().cycle()).all(|(a, b)| a == b));
    assert_eq!((g.reg(r::CX), g.reg(r::SI), g.reg(r::DI)), (0, DATA + 10_000, DATA + 10_003));
}

#[test]
fn copies_of_all_widths_cross_pages_at_any_offset() {
    for (code, width) in [
        (code!(64, "rep movsb"), 1),
        (code!(64, "rep movsw"), 2),
        (code!(64, "rep movsd"), 4),
        (code!(64, "rep movsq"), 8),
    ] {
        let bytes = pattern(9000 * width as usize);
        let mut g =
            Guest::long(code).with(r::CX, 9000).with(r::SI, DATA + 0xffd).with(r::DI, DATA + 0x2_0ff3);
        g.write(DATA + 0xffd, &bytes);
        g.run();
        assert_eq!(g.read(DATA + 0x2_0ff3, bytes.len()), bytes);
        assert_eq!(g.reg(r::DI), DATA + 0x2_0ff3 + 9000 * width);
    }
}

#[test]
fn a_copy_downwards_goes_from_the_last_to_the_first() {
    let bytes = pattern(6000);
    let mut g = Guest::long(code!(64, "std", "rep movsb", "cld"))
        .with(r::CX, 6000)
        .with(r::SI, DATA + 5999)
        .with(r::DI, DATA + 6099);
    g.write(DATA, &bytes);
    g.run();
    assert_eq!(g.read(DATA + 100, 6000), bytes);
    assert_eq!((g.reg(r::SI), g.reg(r::DI)), (DATA - 1, DATA + 99));
}

#[test]
fn more_than_one_turn_of_work_is_done_all_the_same() {
    let mut g = Guest::long(code!(64, "rep stosw", "inc rbx"))
        .with(r::AX, 0x1234)
        .with(r::CX, 0x2_8001)
        .with(r::DI, DATA + 1);
    g.run();
    assert!(g.read(DATA + 1, 0x5_0002).chunks(2).all(|c| c == [0x34, 0x12]));
    assert_eq!((g.read(DATA + 0x5_0003, 1), g.reg(r::CX), g.reg(r::BX)), (vec![0], 0, 1));
}

#[test]
fn a_fault_half_way_keeps_what_was_done() {
    let mut g = Guest::long(code!(64, "nop", "rep movsd"))
        .user()
        .with(r::CX, 5000)
        .with(r::SI, DATA)
        .with(r::DI, DATA + 0x1_0000 + 6);
    g.unmap(DATA + 0x1_2000);
    g.write(DATA, &pattern(0x2000));
    let taken = g.fault();
    let done = (0x2000 - 6) / 4;
    assert_eq!((taken.vector, taken.at, taken.error), (vector::PF, 1, 6));
    assert_eq!(g.state.cr2, DATA + 0x1_2000);
    assert_eq!(g.reg(r::CX), 5000 - done);
    assert_eq!((g.reg(r::SI), g.reg(r::DI)), (DATA + done * 4, DATA + 0x1_0006 + done * 4));
    assert_eq!(g.read(DATA + 0x1_0006, done as usize * 4), pattern(done as usize * 4));
}

#[test]
fn comparisons_stop_behind_the_first_difference_and_searches_behind_the_match() {
    let mut g = Guest::long(code!(64, "repe cmpsb", "setb bl"))
        .with(r::CX, 9000)
        .with(r::SI, DATA)
        .with(r::DI, DATA + 0x4000);
    g.write(DATA, &pattern(9000));
    g.write(DATA + 0x4000, &pattern(9000));
    g.write(DATA + 0x4000 + 5000, &[0xff]);
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(r::SI), g.reg(r::BX) & 1), (3999, DATA + 5001, 1));

    let mut g = Guest::long(code!(64, "repne scasd", "sete bl"))
        .with(r::CX, u64::MAX)
        .with(r::AX, 0x5566_7788)
        .with(r::DI, DATA + 2);
    g.write(DATA + 2 + 4 * 3000, &0x5566_7788u32.to_le_bytes());
    g.run();
    assert_eq!((g.reg(r::DI), g.reg(r::BX) & 1), (DATA + 2 + 4 * 3001, 1));
    assert_eq!(g.reg(r::CX), u64::MAX - 3001);
}

#[test]
fn a_count_of_zero_touches_neither_memory_nor_flags() {
    let mut g =
        Guest::long(code!(64, "stc", "repe cmpsb", "rep movsq", "rep lodsb", "setc bl")).with(r::AX, 0x42);
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::BX) & 1), (0x42, 1));
}

#[test]
fn rep_lods_ends_with_the_last_element() {
    let mut g =
        Guest::long(code!(64, "rep lodsw")).with(r::CX, 3000).with(r::SI, DATA + 1).with(r::AX, u64::MAX);
    g.write(DATA + 1 + 2999 * 2, &[0xcd, 0xab]);
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::SI)), (u64::MAX << 16 | 0xabcd, DATA + 6001));
}

#[test]
fn short_index_registers_wrap_by_themselves() {
    let mut g = Guest::real(code!(16, "rep movsb")).with(r::CX, 0x20).with(r::SI, 0xfff0).with(r::DI, 0x8000);
    g.write(CODE + 0xfff0, &pattern(16));
    let mut expected = pattern(16);
    expected.extend(g.read(CODE, 16));
    g.run();
    assert_eq!(g.read(CODE + 0x8000, 32), expected);
    assert_eq!((g.reg(r::SI), g.reg(r::DI)), (0x10, 0x8020));
}

#[test]
fn the_segment_limit_ends_a_copy_at_the_element_that_crosses_it() {
    let mut g = Guest::protected(code!(32, "rep stosd")).with(r::CX, 0x1000).with(r::DI, DATA).with(r::AX, 1);
    g.state.segments[0].limit = DATA as u32 + 0x1001;
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at), (vector::GP, 0));
    assert_eq!((g.reg(r::DI), g.reg(r::CX)), (DATA + 0x1000, 0x1000 - 0x400));
}

#[test]
fn single_stepping_traps_after_each_element() {
    let mut g = Guest::long(code!(64, "push 0x102", "popfq", "rep stosb", "inc rbx"))
        .with(r::CX, 3)
        .with(r::DI, DATA);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.at), (vector::DB, 6));
    assert_eq!((g.reg(r::CX), g.reg(r::DI)), (2, DATA + 1));
}

#[test]
fn strings_come_from_ports_and_go_to_them() {
    let mut g =
        Guest::long(code!(64, "mov edx, 0x10", "rep insw", "mov rsi, rbx", "mov ecx, 3", "rep outsb"))
            .with(r::CX, 4)
            .with(r::DI, DATA)
            .with(r::BX, DATA + 2);
    g.run();
    assert_eq!(g.read(DATA, 9), [0, 1, 2, 3, 4, 5, 6, 7, 0]);
    assert_eq!(g.ports(), [2, 3, 4]);
}

#[test]
fn a_string_from_a_port_is_not_read_where_it_cannot_be_kept() {
    let mut g = Guest::long(code!(64, "insb", "ud2")).with(r::DI, DATA).with(r::DX, 0x10);
    g.unmap(DATA);
    assert_eq!(g.fault().vector, vector::PF);
    let mut user = Guest::long(code!(64, "insb")).user().with(r::DI, DATA);
    assert_eq!(user.fault().vector, vector::GP);
}

#[test]
fn a_copy_over_its_own_code_executes_what_it_wrote() {
    // 48 ff c3 = inc rbx; 48 ff cb = dec rbx
    let mut g = Guest::long(code!(64, "rep movsb", "inc rbx", "inc rbx"))
        .with(r::CX, 3)
        .with(r::SI, DATA)
        .with(r::DI, CODE + 2);
    g.write(DATA, &[0x48, 0xff, 0xcb]);
    g.run();
    assert_eq!(g.reg(r::BX), 0);
}
