//! Random numbers, and operands at which arithmetic has its corners.

use crate::layout::*;

/// A small generator of good quality (xoshiro256++), seeded by splitmix64.
pub struct Random([u64; 4]);

impl Random {
    pub fn new(mut seed: u64) -> Self {
        Self(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }))
    }

    pub fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// An integer operand.
pub fn integer(r: &mut Random) -> u64 {
    match r.below(8) {
        0 => r.pick(&[0, 1, 2, !0, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000]),
        1 => r.pick(&[0x7fff_ffff_ffff_ffff, 1 << 63, 0xffff_ffff, 1 << 32, !0 - 1, 0x0101_0101_0101_0101]),
        2 => (1u64 << r.below(64)).wrapping_sub(r.below(3)),
        3 => r.below(256),
        4 => (r.next() as i32) as i64 as u64,
        _ => r.next(),
    }
}

fn double(r: &mut Random) -> u64 {
    let sign = r.next() << 63;
    sign | match r.below(10) {
        0 => 0,
        1 => 0x7ff << 52,
        2 => 0x7ff << 52 | 1 << 51 | r.next() >> 13,
        3 => 0x7ff << 52 | r.next() >> 13 | 1,
        4 => r.next() >> 12,
        5 => r.pick(&[
            1,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x43e0 << 48,
            0x41e0 << 48,
        ]),
        6 | 7 => (r.below(1 << 20) as f64 / r.pick(&[1.0, 2.0, 3.0, 1024.0])).to_bits(),
        8 => (0x3c0 + r.below(0x80)) << 52 | r.next() >> 12,
        _ => r.next() >> 1,
    }
}

fn single(r: &mut Random) -> u32 {
    let sign = (r.next() as u32) << 31;
    sign | match r.below(10) {
        0 => 0,
        1 => 0xff << 23,
        2 => 0xff << 23 | 1 << 22 | r.next() as u32 >> 10,
        3 => 0xff << 23 | r.next() as u32 >> 10 | 1,
        4 => r.next() as u32 >> 9,
        5 => r.pick(&[1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x4f00_0000, 0x5f00_0000]),
        6 | 7 => (r.below(1 << 12) as f32 / r.pick(&[1.0, 2.0, 3.0, 1024.0])).to_bits(),
        8 => (0x70 + r.below(0x20) as u32) << 23 | r.next() as u32 >> 9,
        _ => r.next() as u32 >> 1,
    }
}

/// A 16-byte operand.
pub fn vector(r: &mut Random) -> u128 {
    match r.below(4) {
        0 => u128::from(double(r)) | u128::from(double(r)) << 64,
        1 => (0..4).fold(0, |v, _| v << 32 | u128::from(single(r))),
        _ => u128::from(integer(r)) | u128::from(integer(r)) << 64,
    }
}

/// An x87 register.
fn extended(r: &mut Random) -> [u8; 10] {
    let exponent: u16 = match r.below(8) {
        0 => 0,
        1 => 0x7fff,
        2 => 1,
        3 => 0x3ff0 + r.below(0x20) as u16,
        4..7 => 0x3fff - 40 + r.below(120) as u16,
        _ => r.next() as u16 & 0x7fff,
    };
    let mantissa = match r.below(8) {
        0 => 0,
        1 => 1 << 63,
        2 => 3 << 62,
        3 => r.next(),
        4 => 1 << 63 | r.below(1 << 20) << 43,
        _ => r.next() | 1 << 63,
    };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
    bytes[8..].copy_from_slice(&(exponent | (r.next() as u16) << 15).to_le_bytes());
    bytes
}

/// An FXSAVE image.
pub fn fx(r: &mut Random) -> [u8; 512] {
    let mut fx = [0u8; 512];
    let control: u16 = match r.below(4) {
        0 | 1 => 0x37f,
        2 => 0x7f | (r.below(16) as u16) << 8,
        _ => r.below(0x40) as u16 | 0x40 | (r.below(16) as u16) << 8,
    };
    let mut status = (r.next() as u16) & 0x4700 | (r.below(8) as u16) << 11;
    if r.one_in(4) {
        status |= r.next() as u16 & 0x7f;
    }
    if status & !control & 0x3f != 0 {
        // An exception that is not masked is pending: ES and B are set. Rarely, for then most instructions fault.
        if r.one_in(8) {
            status |= 0x8080;
        } else {
            status &= !0x3f | control;
        }
    }
    let tags = match r.below(4) {
        0 => 0,
        1 => 0xff,
        _ => r.next() as u8,
    };
    fx[..2].copy_from_slice(&control.to_le_bytes());
    fx[2..4].copy_from_slice(&status.to_le_bytes());
    fx[4] = tags;
    let mxcsr: u32 = match r.below(8) {
        0..4 => 0x1f80,
        4..6 => 0x1f80 | r.next() as u32 & 0xe07f,
        _ => r.next() as u32 & 0xffc0 | r.next() as u32 & 0x3f,
    };
    fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for i in 0..8 {
        fx[32 + i * 16..42 + i * 16].copy_from_slice(&extended(r));
    }
    for i in 0..16 {
        fx[160 + i * 16..176 + i * 16].copy_from_slice(&vector(r).to_le_bytes());
    }
    fx
}

/// The arena's bytes: operands of all kinds, with small numbers and zeroes in between.
pub fn arena(r: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(READABLE);
    while bytes.len() < READABLE {
        match r.below(8) {
            0 => bytes.extend([0; 16]),
            1 => bytes.extend(extended(r).into_iter().chain([0; 6])),
            2 => bytes.extend((u128::from(arena_address(r, ARENA))).to_le_bytes()),
            _ => bytes.extend(vector(r).to_le_bytes()),
        }
    }
    bytes
}

/// An address in or at the edges of the arena that begins at `base`.
pub fn arena_address(r: &mut Random, base: u64) -> u64 {
    let (page, readable) = (PAGE as u64, READABLE as u64);
    let around =
        |r: &mut Random, offset: u64| base.wrapping_add(offset).wrapping_sub(r.below(40)).wrapping_add(4);
    match r.below(32) {
        0..3 => around(r, page),
        3 => around(r, WRITABLE as u64),
        4 => around(r, readable),
        5 => around(r, 0),
        6 | 7 => base + WRITABLE as u64 + r.below(page - 64),
        8..14 => base + 64 + r.below(WRITABLE as u64 - 256),
        _ => base + 64 + r.below(WRITABLE as u64 / 16 - 16) * 16,
    }
}
