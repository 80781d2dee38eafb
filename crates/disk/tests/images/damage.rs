//! Bytes as damage done to an image, and as what is then done with it. Shared with the fuzz target.

use std::path::Path;

use disk::{Disk, Stack};

use crate::tools::{open, read, write};

/// Where numbers mean something: the header, and the tables behind it.
const PLACES: [usize; 6] = [0, 0, 1 << 16, 2 << 16, 3 << 16, 4 << 16];

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn below(&mut self, end: u64) -> Option<u64> {
        Some(u64::from(u32::from_le_bytes(self.bytes()?)) % end)
    }
}

/// Damages a copy of `good`, opens it and uses it as `input` says; true if it could be opened. Such an image may be refused,
/// or be read and written with errors, or as another image. It must not panic, hang or take the host's memory.
pub fn use_damaged(good: &[u8], input: &[u8], path: &Path) -> bool {
    let mut input = Input(input);
    let mut bad = good.to_vec();
    let _ = damage(&mut bad, &mut input);
    std::fs::write(path, &bad).unwrap();
    let Some([read_only]) = input.bytes() else { return false };
    let Ok(disk) = open(path, read_only % 4 == 0) else { return false };
    while operate(&disk, &mut input).is_some() {}
    true
}

fn damage(bytes: &mut [u8], input: &mut Input) -> Option<()> {
    for _ in 0..1 + input.below(4)? {
        let place = PLACES[input.below(PLACES.len() as u64)? as usize];
        let at = place + input.below(if place == 0 { 400 } else { 128 })? as usize;
        let (len, style, value) = (1 + input.below(8)? as usize, input.below(3)?, input.bytes::<8>()?);
        for (byte, value) in bytes.iter_mut().skip(at).take(len).zip(value) {
            *byte = match style {
                0 => value,
                1 => *byte ^ (1 << (value & 7)),
                _ => [0, 1, 0x80, 0xff][usize::from(value & 3)],
            };
        }
    }
    Some(())
}

fn operate(disk: &Stack, input: &mut Input) -> Option<()> {
    // An error is as good as any answer.
    let at = input.below((disk.len() / 512).min(1 << 20))? * 512;
    let len = (1 + input.below(64)?) * 512;
    let _ = match input.below(5)? {
        0 => write(disk, at, &vec![1; len as usize]),
        1 => disk.discard(at, len),
        2 => disk.write_zeroes(at, len, input.below(2)? == 0),
        3 => disk.flush(),
        _ => read(disk, at, len as usize).map(drop),
    };
    Some(())
}
