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

#[test]
fn whoever_runs_a_processor_for_a_time_gets_it_back_and_it_goes_on() {
    let mut g = Guest::long(code!(64, "2: inc rdx", "jmp 2b"));
    g.begin();
    let mut before = 0;
    for ms in [0, 1, 5] {
        let time = std::time::Duration::from_millis(ms);
        let begun = std::time::Instant::now();
        assert!(g.cpu.run_at_most(time).is_none());
        let counted = g.cpu.state().gpr[r::DX];
        assert!(begun.elapsed() >= time && counted > before, "{ms} ms: {before} {counted}");
        before = counted;
    }
}
