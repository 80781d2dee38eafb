//! What both processors see: where code and data lie, and the state that goes in and comes out.

/// Bytes in a page.
pub const PAGE: usize = 4096;
/// Where the data arena lies: two writable pages, a read-only one, nothing before and nothing after.
pub const ARENA: u64 = 0x10_0000_0000;
/// The same pages again below 4 GiB, for 32-bit addresses.
pub const LOW_ARENA: u64 = 0x2000_0000;
/// Bytes that may be written.
pub const WRITABLE: usize = 2 * PAGE;
/// Bytes that may be read.
pub const READABLE: usize = 3 * PAGE;
/// Base of the GS segment.
pub const GS_BASE: u64 = ARENA + 0x800;
/// Where code lies: execute only for the purpose of the test, never written by it. The page after it is not mapped.
pub const CODE: u64 = ARENA + 0x100_0000;
/// Bytes of code.
pub const CODE_BYTES: usize = 6 * PAGE;
/// Bytes for one case. What a case does not use is INT3.
pub const SLOT: usize = CODE_BYTES / BATCH;
/// Where a case goes when it has run to its end.
pub const EXIT: u64 = CODE + 0x10_0000;
/// Cases executed between two synchronisations.
pub const BATCH: usize = 256;
/// [`State::vector`] of a case that ran to its end.
pub const NO_VECTOR: u64 = 0xff;

/// The state of user-mode code. The offsets are known to the assembly in `native.rs`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct State {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15.
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub rip: u64,
    /// The exception that ended the case, with its error code and, for #PF, its address.
    pub vector: u64,
    pub error: u64,
    pub cr2: u64,
    pub unused: [u64; 3],
    /// The FXSAVE64 image.
    pub fx: [u8; 512],
}

impl State {
    pub const EMPTY: Self = Self {
        gpr: [0; 16],
        rflags: 2,
        rip: 0,
        vector: NO_VECTOR,
        error: 0,
        cr2: 0,
        unused: [0; 3],
        fx: [0; 512],
    };
}

/// One case: a few instructions and the state they start from.
#[derive(Clone)]
pub struct Case {
    /// Where in the code the first byte lies.
    pub offset: usize,
    pub code: Vec<u8>,
    /// The instructions that `code` begins with.
    pub steps: Vec<Step>,
    pub input: State,
}

/// One instruction of a case.
#[derive(Clone, Copy)]
pub struct Step {
    /// Where in the case's code it ends.
    pub end: usize,
    /// RFLAGS bits that are undefined after it.
    pub undefined: u64,
}

impl Case {
    /// RFLAGS bits that are undefined after all of it.
    pub fn undefined(&self) -> u64 {
        self.steps.last().map_or(0, |s| s.undefined)
    }

    /// RFLAGS bits that may be undefined when the case ended at `rip`.
    pub fn undefined_at(&self, rip: u64) -> u64 {
        let at = rip.wrapping_sub(CODE + self.offset as u64) as usize;
        let last = self.steps.last().map_or(0, |s| s.end);
        match at {
            0 => 0,
            _ if at < last => self.steps.iter().rfind(|s| s.end <= at).map_or(0, |s| s.undefined),
            // Anywhere an instruction has branched to.
            _ => self.steps.iter().fold(0, |all, s| all | s.undefined),
        }
    }
}

/// [`BATCH`] cases with the code and the data they share.
pub struct Batch {
    pub cases: Vec<Case>,
    pub code: Vec<u8>,
    pub arena: Vec<u8>,
}
