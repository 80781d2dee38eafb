use crate::guest::{CODE, DATA, Guest, STACK, code};
use crate::{r, vector};

#[test]
fn push_of_the_stack_pointer_pushes_the_old_one_and_pop_sets_it_last() {
    let mut g =
        Guest::long(code!(64, "push rsp", "mov rbx, [rsp]", "push 0x1234", "pop rsp", "mov rcx, rsp"));
    g.run();
    assert_eq!(g.reg(r::BX), STACK);
    assert_eq!(g.reg(r::CX), 0x1234);
}

#[test]
fn a_memory_operand_addressed_by_rsp_is_old_for_push_and_new_for_pop() {
    let mut g =
        Guest::long(code!(64, "push 7", "push 8", "push [rsp]", "pop [rsp + 8]", "pop rax", "pop rbx"));
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::BX)), (8, 8));
    assert_eq!(g.reg(r::SP), STACK);
}

#[test]
fn short_pushes_move_the_stack_by_two_and_immediates_are_sign_extended() {
    let mut g = Guest::long(code!(
        64,
        "mov ax, 0x1122",
        "push ax",
        ".byte 0x66, 0x68, 0x44, 0x33",
        "push -1",
        "mov rbx, rsp"
    ));
    g.run();
    assert_eq!(g.reg(r::BX), STACK - 12);
    assert_eq!(g.read(STACK - 12, 12), [255, 255, 255, 255, 255, 255, 255, 255, 0x44, 0x33, 0x22, 0x11]);
}

#[test]
fn a_push_that_faults_leaves_everything_as_it_was() {
    for register in [true, false] {
        let code = if register { code!(64, "push rax") } else { code!(64, "call rax") };
        let mut g = Guest::long(code).user().with(r::SP, DATA).with(r::AX, 0x77);
        g.unmap(DATA - 8);
        let taken = g.fault();
        assert_eq!((taken.vector, taken.at, taken.rsp), (vector::PF, 0, DATA));
        assert_eq!(g.state.cr2, DATA - 8);
    }
}

#[test]
fn a_pop_to_a_missing_page_leaves_the_stack_pointer() {
    let mut g = Guest::long(code!(64, "pop [rbx]")).user().with(r::SP, DATA).with(r::BX, DATA + 0x1000);
    g.unmap(DATA + 0x1000);
    let taken = g.fault();
    assert_eq!((taken.vector, taken.rsp), (vector::PF, DATA));
}

#[test]
fn a_stack_address_that_is_not_canonical_is_a_stack_fault() {
    let mut g = Guest::long(code!(64, "push [rbx]")).user().with(r::SP, 1 << 50).with(r::BX, DATA);
    assert_eq!(g.fault().vector, vector::SS);
    let mut g = Guest::long(code!(64, "push [rbx]")).user().with(r::SP, DATA).with(r::BX, 1 << 50);
    assert_eq!(g.fault().vector, vector::GP);
}

#[test]
fn enter_copies_the_frames_of_outer_levels_and_leave_undoes_it() {
    let mut g = Guest::long(code!(64, "enter 32, 3", "mov rbx, rsp", "mov rdx, rbp", "leave"))
        .with(r::BP, DATA + 0x100);
    g.write(DATA + 0xf8, &1u64.to_le_bytes());
    g.write(DATA + 0xf0, &2u64.to_le_bytes());
    g.run();
    assert_eq!(g.reg(r::DX), STACK - 8);
    assert_eq!(g.reg(r::BX), STACK - 8 - 24 - 32);
    assert_eq!((g.read64(STACK - 8), g.read64(STACK - 16)), (DATA + 0x100, 1));
    assert_eq!((g.read64(STACK - 24), g.read64(STACK - 32)), (2, STACK - 8));
    assert_eq!((g.reg(r::SP), g.reg(r::BP)), (STACK, DATA + 0x100));
}

#[test]
fn pusha_and_popa_keep_the_order_and_skip_the_stack_pointer() {
    let mut g = Guest::protected(code!(
        32,
        "pushad",
        "mov esi, [esp + 12]",
        "mov [0x80000], esi",
        "mov dword ptr [esp + 28], 99",
        "mov dword ptr [esp + 12], 5",
        "mov ebx, 0",
        "popad",
    ))
    .with(r::BX, 11);
    g.run();
    assert_eq!((g.reg(r::AX), g.reg(r::BX), g.reg(r::SP)), (99, 11, STACK));
    assert_eq!(g.read64(DATA), STACK);
}

#[test]
fn a_16_bit_stack_wraps_at_64_kib_and_leaves_the_upper_half_of_esp() {
    let mut g = Guest::real(code!(16, "mov sp, 2", "push ax", "push bx", "mov cx, sp"))
        .with(r::AX, 0x1111)
        .with(r::BX, 0x2222)
        .with(r::SP, 0xabcd_0000);
    g.run();
    assert_eq!((g.reg(r::CX), g.reg(r::SP)), (0xfffe, 0xabcd_fffe));
    assert_eq!((g.read(CODE + 0xfffe, 2), g.read(CODE, 2)), (vec![0x22, 0x22], vec![0x11, 0x11]));
}

#[test]
fn programs_change_neither_if_nor_iopl_with_popf() {
    let mut g = Guest::long(code!(64, "push 0x3ed7", "popfq", "pushfq", "pop rbx", "ud2")).user();
    assert_eq!(g.fault().vector, vector::UD);
    assert_eq!(g.reg(r::BX), 0xcd7);
}

#[test]
fn pushf_hides_rf_and_vm_and_popf_at_level_0_sets_the_rest() {
    let mut g = Guest::long(code!(64, "push 0x277ed7", "popfq", "pushfq", "pop rbx"));
    g.run();
    assert_eq!(g.reg(r::BX), 0x24_7ed7);
}

#[test]
fn a_popf_that_begins_single_stepping_traps_after_the_next_instruction() {
    let mut g = Guest::long(code!(64, "push 0x102", "popfq", "inc rbx", "inc rbx"));
    let taken = g.fault();
    assert_eq!((taken.vector, g.reg(r::BX)), (vector::DB, 1));
    assert_eq!(g.state.dr[6] & 1 << 14, 1 << 14);
}
