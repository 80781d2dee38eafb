//! Exceptions: what they are and how a handler raises one.

/// Exception vectors (Intel SDM vol. 3, table 6-1).
#[allow(missing_docs)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// The handler could not finish its instruction: [`crate::Cpu`]'s `pending` says why. Zero-sized, so that
/// `Result<u64, Trap>` travels in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Trap;

/// Why an instruction stopped short; the architectural state is as before the instruction, except for what the
/// architecture lets it keep (a string instruction's progress).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing is pending.
    None,
    /// A fault: delivered with RIP at the instruction.
    Fault(Fault),
    /// The instruction writes code of the block it is in: run it again as a block of its own.
    Alone,
    /// The instruction must be run again after the processor looked at its surroundings (a REP string instruction
    /// that has run long enough): RIP at the instruction, no exception.
    Again,
}

/// An exception with its error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Exception vector.
    pub vector: u8,
    /// Error code, for the vectors that have one.
    pub error: Option<u32>,
    /// For a page fault, the linear address for CR2; for #DB the bits to set in DR6; else unused.
    pub info: u64,
    /// The #GP comes from a non-canonical address: it becomes #SS where the operand's segment is SS.
    pub non_canonical: bool,
}

impl Fault {
    /// An exception without an error code.
    pub const fn plain(vector: u8) -> Self {
        Self { vector, error: None, info: 0, non_canonical: false }
    }

    /// An exception with an error code.
    pub const fn coded(vector: u8, error: u32) -> Self {
        Self { vector, error: Some(error), info: 0, non_canonical: false }
    }

    /// #GP(`selector`).
    pub const fn gp(error: u32) -> Self {
        Self::coded(vector::GP, error)
    }

    /// #PF at linear address `la` with error code `error`.
    pub const fn page(la: u64, error: u32) -> Self {
        Self { vector: vector::PF, error: Some(error), info: la, non_canonical: false }
    }
}
