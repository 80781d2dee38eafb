//! States with the numbers that matter: zeroes, denormals, the largest, infinities, NaNs, and others.

use super::OPERAND_LEN;
use super::state::State;

/// Xorshift: the same values in every run.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn single(&mut self) -> u32 {
        const EXPONENTS: [u32; 8] = [0, 1, 126, 127, 128, 150, 254, 255];
        match self.below(4) {
            0 => self.next() as u32,
            1 => (self.below(2001) as f32 - 1000.0).to_bits(),
            _ => {
                let mantissa = self.next() as u32 >> 9;
                let mantissa = self.pick(&[0, 1, 0x40_0000, 0x7f_ffff, mantissa]);
                self.pick(&EXPONENTS) << 23 | mantissa | (self.below(2) as u32) << 31
            }
        }
    }

    fn double(&mut self) -> u64 {
        const EXPONENTS: [u64; 9] = [0, 1, 1022, 1023, 1024, 1060, 1100, 2046, 2047];
        match self.below(4) {
            0 => self.next(),
            1 => (self.below(2001) as f64 - 1000.0).to_bits(),
            _ => {
                let mantissa = self.next() >> 12;
                let mantissa = self.pick(&[0, 1, 1 << 51, (1 << 52) - 1, mantissa]);
                self.pick(&EXPONENTS) << 52 | mantissa | self.below(2) << 63
            }
        }
    }

    fn extended(&mut self) -> [u8; 10] {
        const EXPONENTS: [u16; 11] =
            [0, 1, 0x3ffe, 0x3fff, 0x3fff, 0x4000, 0x403e, 0x4043, 0x3c00, 0x7ffe, 0x7fff];
        let mantissa = self.next();
        let mantissa = self.pick(&[0, 1 << 63, 3 << 62, mantissa, mantissa | 1 << 63, mantissa | 1 << 63]);
        let random = self.next() as u16;
        let exponent = self.pick(&EXPONENTS);
        let exponent = if self.below(6) == 0 { random & 0x7fff } else { exponent };
        let exponent = exponent | (self.below(2) as u16) << 15;
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
        bytes[8..].copy_from_slice(&exponent.to_le_bytes());
        bytes
    }

    fn lanes(&mut self) -> u128 {
        if self.below(2) == 0 {
            u128::from(self.double()) | u128::from(self.double()) << 64
        } else {
            (0..4).fold(0, |v, _| v << 32 | u128::from(self.single()))
        }
    }

    pub(super) fn state(&mut self) -> State {
        let mut s = State {
            fx: [0; 512],
            rax: self.next(),
            rcx: self.next(),
            rdx: self.double(),
            rflags: self.next() & 0x8d5 | 2,
            memory: [0; OPERAND_LEN],
        };
        let random = self.next() as u16;
        let control = self.pick(&[0x37f, 0x37f, 0x37f, 0x27f, random & 0xf00 | 0x7f, random & 0xf3f | 0x40]);
        // No exception is pending.
        let flags = self.next() as u16 & control & 0x3f;
        let flags = if self.below(2) == 0 { 0 } else { flags };
        let status = self.next() as u16 & 0x7f00 | flags;
        let tags = self.next() as u8;
        s.fx[0..2].copy_from_slice(&control.to_le_bytes());
        s.fx[2..4].copy_from_slice(&status.to_le_bytes());
        s.fx[4] = self.pick(&[0xff, 0, tags, tags]);
        let mxcsr = self.next() as u32;
        let mxcsr = self.pick(&[0, mxcsr & 0x3f, mxcsr & 0xe07f]) | 0x1f80;
        s.fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        for i in 0..8 {
            s.fx[32 + 16 * i..][..10].copy_from_slice(&self.extended());
        }
        for i in 0..16 {
            s.fx[160 + 16 * i..][..16].copy_from_slice(&self.lanes().to_le_bytes());
        }
        for chunk in s.memory.as_chunks_mut::<16>().0 {
            *chunk = self.lanes().to_le_bytes();
        }
        if self.below(2) == 0 {
            s.memory[..10].copy_from_slice(&self.extended());
        }
        s
    }
}
