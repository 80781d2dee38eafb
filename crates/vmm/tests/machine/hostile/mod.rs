//! Kernels and messages that were not made by who should: at worst they are refused.

mod client;
mod kernel;

use crate::guest::elf;

/// TESSERA_FUZZ_SEED chooses the first case, TESSERA_FUZZ_CASES how many there are.
fn cases(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let first = number("TESSERA_FUZZ_SEED").unwrap_or(1);
    first..first + number("TESSERA_FUZZ_CASES").unwrap_or(usual)
}

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// Changes a few bytes within the first `within`, or takes the end away.
    fn damage(&mut self, bytes: &mut Vec<u8>, within: usize) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(within.min(bytes.len()).max(1));
            let value = match self.below(4) {
                0 => u64::MAX,
                1 => 0,
                2 => 1 << self.below(64),
                _ => self.next(),
            };
            let len = [1, 1, 2, 4, 8][self.below(5)];
            let bytes = bytes.iter_mut().skip(at).take(len);
            bytes.zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        if self.below(8) == 0 {
            let len = self.below(bytes.len());
            bytes.truncate(len);
        }
    }
}

/// Does `one` for each case; says which one it was if it fails.
fn each(cases: std::ops::Range<u64>, one: impl Fn(&mut Random) -> bool + std::panic::RefUnwindSafe) -> usize {
    let mut good = 0;
    for seed in cases {
        let result = std::panic::catch_unwind(|| one(&mut Random::new(seed)));
        good += usize::from(result.unwrap_or_else(|panic| {
            eprintln!("panics: TESSERA_FUZZ_SEED={seed} TESSERA_FUZZ_CASES=1");
            std::panic::resume_unwind(panic)
        }));
    }
    good
}

/// The least that passes for a bzImage (Linux, Documentation/arch/x86/boot.rst).
fn bz_image() -> Vec<u8> {
    let mut image = vec![0; 8192];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x236, &1u16.to_le_bytes());
    put(0x258, &0x20_0000u64.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    image
}

#[test]
fn a_damaged_kernel_starts_or_is_refused() {
    let elf = elf(&[0xeb, 0xfe, 0x90, 0x90]);
    assert!(kernel::load(&elf) && kernel::load(&bz_image()));
    let good = each(cases(3000), |random| {
        let (mut image, within) = match random.below(2) {
            0 => (elf.clone(), elf.len()),
            _ => (bz_image(), 0x270),
        };
        random.damage(&mut image, within);
        kernel::load(&image)
    });
    assert!(good > 10 || cases(3000).count() < 3000, "only {good} kernels were loaded");
}

/// What is said on a control socket, as it should be.
const TALK: &str = r#"{"jsonrpc":"2.0","id":1,"method":"create","params":{"memory":16777216,"kernel":0,"engine":"soft","processors":2,"console":2,"disks":[{"file":1,"format":"raw","serial":"s"}],"on_reset":"end","on_panic":"go_on"}}
{"jsonrpc":"2.0","id":2,"method":"resume"}
{"jsonrpc":"2.0","id":"three","method":"stats"}
{"jsonrpc":"2.0","id":4,"method":"pause","params":{}}
{"jsonrpc":"2.0","id":5,"method":"power_button"}
{"jsonrpc":"2.0","method":"reset"}
{"jsonrpc":"2.0","id":null,"method":"state"}
"#;

/// What may stand where another thing should.
const WORDS: [&str; 14] = [
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "18446744073709551616",
    "[]",
    "{}",
    "\"\"",
    "\"\\ud800\"",
    "[[[[[[[[",
    "\"create\"",
    "\"soft\"",
    "\u{0}",
];

#[test]
fn damaged_messages_are_refused_one_by_one() {
    client::say(TALK.as_bytes());
    each(cases(150), |random| {
        let mut lines: Vec<String> = TALK.lines().map(str::to_owned).collect();
        for _ in 0..1 + random.below(3) {
            let (from, to) = (random.below(lines.len()), random.below(lines.len()));
            lines.swap(from, to);
            // A word in the place of another.
            let ends: Vec<usize> =
                lines[to].match_indices([':', ',', '}', '[', ']']).map(|(at, _)| at).collect();
            let Some(at) = ends.get(random.below(ends.len().max(1)).saturating_sub(1)) else { continue };
            let end = ends.iter().find(|end| *end > at).copied().unwrap_or(lines[to].len());
            if random.below(2) == 0 {
                lines[to].replace_range(at + 1..end.max(at + 1), WORDS[random.below(WORDS.len())]);
            }
        }
        let mut bytes = lines.join("\n").into_bytes();
        bytes.push(b'\n');
        if random.below(3) == 0 {
            let len = bytes.len();
            random.damage(&mut bytes, len);
        }
        client::say(&bytes);
        true
    });
}
