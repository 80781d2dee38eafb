//! A guest may execute any bytes in any mode: the processor neither panics nor hangs.

mod machine;
#[path = "../ram/mod.rs"]
mod ram;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long one case may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(30);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Bytes from a seed: some cases all random, some with a small alphabet, which makes short loops likely.
fn input(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..8 {
        next();
    }
    let len = [40, 200, 4113, 20_017][(next() % 4) as usize];
    let mask = if next() % 4 == 0 { 0x1f } else { 0xff };
    let prefix = next() % 4 == 0;
    (0..len)
        .map(|i| {
            let byte = next() as u8;
            if i > 17 && prefix && byte & 3 == 0 {
                0x0f
            } else if i > 17 {
                byte & mask | (next() as u8 & !mask)
            } else {
                byte
            }
        })
        .collect()
}

#[test]
fn no_bytes_in_any_mode_make_the_processor_panic_or_hang() {
    let cases = number("TESSERA_FUZZ_CASES").unwrap_or(6_000);
    let first = number("TESSERA_FUZZ_SEED")
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_secs()));
    println!("first seed {first}, {cases} cases");
    let current = AtomicU64::new(0);
    let finished = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut since = (0, Instant::now());
            while finished.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(50));
                let now = current.load(Ordering::SeqCst);
                if now != since.0 {
                    since = (now, Instant::now());
                } else if since.1.elapsed() > PATIENCE {
                    eprintln!("hangs: TESSERA_FUZZ_SEED={now} TESSERA_FUZZ_CASES=1");
                    std::process::abort();
                }
            }
        });
        for seed in first..first + cases {
            current.store(seed, Ordering::SeqCst);
            let result = std::panic::catch_unwind(|| machine::run(&input(seed), 4000));
            if let Err(panic) = result {
                finished.store(1, Ordering::SeqCst);
                eprintln!("panics: TESSERA_FUZZ_SEED={seed} TESSERA_FUZZ_CASES=1");
                std::panic::resume_unwind(panic);
            }
        }
        finished.store(1, Ordering::SeqCst);
    });
}
