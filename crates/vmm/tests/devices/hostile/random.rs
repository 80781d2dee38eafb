//! What a guest does that tries everything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::operations;
use super::world::{World, panicked, watch_for_panics};

/// How long one case may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a case: some 300 operations.
const LENGTH: usize = 2000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..LENGTH + 64).map(|_| next()).skip(64).collect()
}

/// TESSERA_FUZZ_SEED chooses the first case, TESSERA_FUZZ_CASES how many there are.
#[test]
fn nothing_a_guest_does_to_its_machine_makes_it_panic_or_hang() {
    watch_for_panics();
    let cases = number("TESSERA_FUZZ_CASES").unwrap_or(400);
    let first = number("TESSERA_FUZZ_SEED").unwrap_or(1);
    let (current, finished) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut since = (0, Instant::now());
            while finished.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(10));
                let now = current.load(Ordering::SeqCst);
                if now != since.0 {
                    since = (now, Instant::now());
                } else if since.1.elapsed() > PATIENCE {
                    eprintln!("hangs: TESSERA_FUZZ_SEED={now} TESSERA_FUZZ_CASES=1");
                    std::process::abort();
                }
            }
        });
        let (mut count, start) = (0, Instant::now());
        for seed in first..first + cases {
            current.store(seed, Ordering::SeqCst);
            let result = std::panic::catch_unwind(|| {
                let world = World::new();
                let count = operations::run(&world, &bytes(seed));
                world.is_sound();
                count
            });
            count += result.unwrap_or_else(|panic| {
                finished.store(1, Ordering::SeqCst);
                eprintln!("panics: TESSERA_FUZZ_SEED={seed} TESSERA_FUZZ_CASES=1");
                std::panic::resume_unwind(panic)
            });
        }
        finished.store(1, Ordering::SeqCst);
        println!("{count} operations of {cases} cases from seed {first} in {:?}", start.elapsed());
    });
    panicked();
}

/// Where two trees differ, and how.
fn differences(one: &Value, other: &Value, at: &str) -> Vec<String> {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            a.iter().flat_map(|(key, one)| differences(one, &b[key], &format!("{at}/{key}"))).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            (0..a.len()).flat_map(|n| differences(&a[n], &b[n], &format!("{at}/{n}"))).collect()
        }
        _ if one == other => Vec::new(),
        // What has been used of a limit comes back as time passes.
        (Value::Number(_), Value::Number(_)) if at.contains("/limits/lanes/") => Vec::new(),
        _ => vec![format!("{at}: {one} is {other}")],
    }
}

/// Whatever a guest has done to its machine: saved, it goes on elsewhere as what it was.
#[test]
fn what_is_saved_is_what_is_saved_again_where_it_goes_on() {
    watch_for_panics();
    let cases = number("TESSERA_FUZZ_CASES").unwrap_or(150);
    let first = number("TESSERA_FUZZ_SEED").unwrap_or(1);
    for seed in first..first + cases {
        let world = World::new();
        operations::run(&world, &bytes(seed));
        world.rig.machine.pause();
        let saved = world.rig.saved();
        let before = saved.state.to_json().unwrap();
        let other = World::restored(saved);
        let after = other.rig.machine.save().unwrap().to_json().unwrap();
        let same = differences(&before, &after, "");
        assert_eq!(same, [""; 0], "TESSERA_FUZZ_SEED={seed} TESSERA_FUZZ_CASES=1");
        other.rig.machine.resume();
        other.is_sound();
    }
    panicked();
}
