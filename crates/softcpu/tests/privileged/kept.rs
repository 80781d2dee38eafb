//! What of its translated code a processor keeps.

use crate::guest::{Guest, code};
use crate::r;

#[test]
fn code_that_is_not_executed_is_forgotten_and_all_else_stays() {
    let mut g = Guest::long(code!(64, "mov ecx, 100000", "2: dec ecx", "jnz 2b", "3: inc rdx", "jmp 3b",));
    g.begin();
    let mut go_on = |instructions: u64| {
        assert!(g.cpu.run_for(instructions).is_none());
        let before = g.cpu.translated();
        g.cpu.forget_cold_code();
        (before, g.cpu.translated(), g.cpu.state().gpr[r::DX])
    };
    let (first, kept, _) = go_on(5000);
    assert_eq!(first, kept, "all of it was executed");
    let (both, kept, second) = go_on(1_000_000);
    assert!(both > first && kept == both && second > 0, "{first} {both} {kept}: of both was executed some");
    let (_, only_second, further) = go_on(5000);
    assert!(only_second < kept && further > second, "{only_second} {kept}");
    let (before, after, last) = go_on(5000);
    assert!((before, after) == (only_second, only_second) && last > further, "{before} {after}");
}

#[test]
fn what_is_executed_but_once_is_not_kept() {
    let mut g = Guest::long(code!(
        64,
        "xor edx, edx",
        "inc edx",
        "jmp 2f",
        "2: inc edx",
        "jmp 3f",
        "3: inc edx",
        "4: jmp 4b",
    ));
    g.begin();
    assert!(g.cpu.run_for(1000).is_none());
    assert_eq!((g.cpu.state().gpr[r::DX], g.cpu.translated()), (3, 1), "the loop");
}
