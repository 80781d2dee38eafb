//! The software processor against the host's own: the same instructions from the same state must give the same state.
//!
//! A million cases, always the same ones: a change is judged by what it changed. `TESSERA_FUZZ_CASES` tries so many others, as
//! a search for what nobody has met yet; `TESSERA_FUZZ_SEED` sets where the random numbers begin (every report names the
//! seed that repeats it).

mod generate;
mod layout;
mod native;
#[path = "../ram/mod.rs"]
mod ram;
mod report;
mod soft;
mod values;

use generate::Generator;
use layout::BATCH;
use native::Native;
use report::Report;
use soft::Soft;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn user_mode_instructions_do_what_the_hosts_processor_does() {
    let asked = number("TESSERA_FUZZ_CASES");
    let cases = asked.unwrap_or(1_000_000);
    let seed = number("TESSERA_FUZZ_SEED").unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64 >> 10);
        if asked.is_some() { now } else { 0 }
    });
    println!("seed {seed}, {cases} cases");
    let mut native = Native::new().expect("the host lets a test map and run code");
    let mut soft = Soft::new();
    let mut report = Report::default();
    for batch_seed in (0..cases.div_ceil(BATCH as u64)).map(|n| seed.wrapping_add(n)) {
        let batch = Generator::new(batch_seed).batch();
        native.start(&batch).expect("a child");
        soft.load(&batch);
        let mut results = Vec::with_capacity(BATCH);
        for case in &batch.cases {
            let state = soft.run(case);
            let changed = soft.arena() != &batch.arena[..layout::WRITABLE];
            results.push((state, changed.then(|| soft.arena().to_vec())));
            if changed {
                soft.restore(&batch);
            }
        }
        native.finish().expect("a child");
        for (i, (case, (state, arena))) in batch.cases.iter().zip(&results).enumerate() {
            if native.lost.contains(&i) {
                report.lost(batch_seed, case);
            } else {
                let arena = arena.as_deref().unwrap_or(&batch.arena[..layout::WRITABLE]);
                report.compare(batch_seed, case, (native.output(i), native.arena(i)), (state, arena));
            }
        }
        if report.is_full() {
            break;
        }
    }
    report.finish();
}
