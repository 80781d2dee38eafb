//! What integer, stack, string and branch instructions must do where one instruction against the host's cannot tell:
//! in runs of several, in other modes than 64-bit, and when they fault half-way.

mod arithmetic;
mod control;
mod guest;
mod stack;
mod strings;

/// Register numbers.
mod r {
    pub const AX: usize = 0;
    pub const CX: usize = 1;
    pub const DX: usize = 2;
    pub const BX: usize = 3;
    pub const SP: usize = 4;
    pub const BP: usize = 5;
    pub const SI: usize = 6;
    pub const DI: usize = 7;
}

/// Exception vectors.
mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
}
