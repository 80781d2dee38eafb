//! The predecoded instruction: what a handler gets.
//!
//! A block is a run of [`Op`]s. Each begins with a pointer to the handler that executes it; a handler ends by calling
//! the next op's handler in tail position ([`next`]) or by returning a [`Stop`] to the dispatcher. Debug builds make no
//! tail calls, so the dispatcher hands out a bounded amount of fuel at a time and the stack stays bounded either way.

use crate::cpu::Cpu;
use crate::fault::Trap;

/// Executes one op and all that follow it.
///
/// # Safety
/// `op` must point into a block that ends in an op that stops.
pub(crate) type Handler = unsafe fn(cpu: &mut Cpu, op: *const Op) -> Stop;

/// Why the dispatcher has control again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Stop {
    /// `slots[RIP]` is the address of the instruction to go on with.
    Dispatch,
    /// The op in `cpu.stopped_at` did not finish; `cpu.pending` says why. `slots[RIP]` is still its block's address.
    Trap,
    /// As `Dispatch`, and `cpu.exit` asks to leave [`Cpu::run`].
    Exit,
}

/// Byte offsets into [`Cpu`]'s register slots: `register * 8`, `+ 1` for AH, CH, DH, BH.
pub(crate) mod slot {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 8;
    pub const RDX: u8 = 16;
    pub const RBX: u8 = 24;
    pub const RSP: u8 = 32;
    pub const RBP: u8 = 40;
    pub const RSI: u8 = 48;
    pub const RDI: u8 = 56;
    /// RIP of the current block's first instruction (an offset in CS).
    pub const RIP: u8 = 128;
    /// Always zero: stands for "no base" and "no index".
    pub const ZERO: u8 = 136;
}

/// Segment numbers as encoded in instructions.
pub(crate) mod seg {
    pub const ES: u8 = 0;
    pub const CS: u8 = 1;
    pub const SS: u8 = 2;
    pub const DS: u8 = 3;
    pub const FS: u8 = 4;
    pub const GS: u8 = 5;
}

/// Bits of [`Op::form`].
pub(crate) mod form {
    /// The memory operand is plain: 64-bit mode, 64-bit address, no segment base. [`Cpu::flat`](super::Cpu) computes it.
    pub const FLAT: u8 = 1 << 0;
    /// Address size 16.
    pub const ADDR16: u8 = 1 << 1;
    /// Address size 32.
    pub const ADDR32: u8 = 1 << 2;
    /// LOCK prefix, or XCHG with memory.
    pub const LOCK: u8 = 1 << 3;
    /// REP or REPE prefix.
    pub const REP: u8 = 1 << 4;
    /// REPNE prefix.
    pub const REPNE: u8 = 1 << 5;
    /// The instruction has a memory operand (else both operands are registers).
    pub const MEM: u8 = 1 << 6;
    /// The arithmetic flags this op writes are seen by nobody: a handler may leave them as they were.
    pub const DEAD_FLAGS: u8 = 1 << 7;
}

/// One predecoded instruction.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Op {
    pub run: Handler,
    /// Immediate, sign-extended to 64 bits as the instruction has it; for direct branches, the target as an offset from
    /// the block's first instruction (wrapping); for moffs, the address.
    pub imm: u64,
    /// Displacement; RIP-relative operands have base `slot::RIP` and the displacement from the block's first instruction.
    pub disp: i32,
    /// Base register slot or `slot::ZERO`.
    pub base: u8,
    /// Index register slot or `slot::ZERO`.
    pub index: u8,
    /// log2 of the index's scale.
    pub scale: u8,
    /// Effective segment of the memory operand.
    pub seg: u8,
    /// First operand: a slot for general registers, the number for xmm, mm, st, segment, control registers.
    pub dst: u8,
    /// Second operand, likewise (the register operand when the first is memory).
    pub src: u8,
    /// Length of the instruction in bytes.
    pub len: u8,
    /// See [`form`].
    pub form: u8,
    /// Offset of the next instruction from the block's first.
    pub next: u16,
    /// For the handler's own use (condition, third operand, operand size in bytes …).
    pub aux: u16,
}

/// What lowering an instruction gives.
pub(crate) struct Lowered {
    pub run: Handler,
    /// The block ends here.
    pub ends: bool,
}

impl Lowered {
    /// A handler that goes on with the next op.
    pub fn step(run: Handler) -> Option<Self> {
        Some(Self { run, ends: false })
    }

    /// A handler that always stops or jumps.
    pub fn end(run: Handler) -> Option<Self> {
        Some(Self { run, ends: true })
    }
}

/// Executes the op after `op`.
///
/// # Safety
/// As [`Handler`]: `op` must not be the last of its block.
#[inline(always)]
pub(crate) unsafe fn next(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: the caller says another op follows in the same allocation, and its handler was put there for it.
    unsafe {
        let op = op.add(1);
        ((*op).run)(cpu, op)
    }
}

/// Leaves the block because `op` did not finish.
#[cold]
#[inline(never)]
pub(crate) fn trapped(cpu: &mut Cpu, op: *const Op) -> Stop {
    cpu.stopped_at = op;
    Stop::Trap
}

/// Makes a handler of a plain function that executes one instruction and goes on with the next. On `Err` nothing of the
/// instruction may have happened.
pub(crate) fn step<F>(_: F) -> Handler
where
    F: Fn(&mut Cpu, &Op) -> Result<(), Trap> + Copy + 'static,
{
    const { assert!(size_of::<F>() == 0, "a handler must be a function item") };
    unsafe fn run<F>(cpu: &mut Cpu, op: *const Op) -> Stop
    where
        F: Fn(&mut Cpu, &Op) -> Result<(), Trap> + Copy + 'static,
    {
        // SAFETY: F has no size (checked above), so any aligned pointer is a valid F; op is valid by the contract.
        let (f, insn) = unsafe { (std::ptr::NonNull::<F>::dangling().as_ref(), &*op) };
        match f(cpu, insn) {
            // SAFETY: a step is never a block's last op.
            Ok(()) => unsafe { next(cpu, op) },
            Err(Trap) => trapped(cpu, op),
        }
    }
    run::<F>
}

/// Makes a handler of `quick`, which executes the instruction or does nothing and gives `Err`, and `full`, which then
/// executes it as for [`step`]. The quick way needs no stack frame.
pub(crate) fn quick_step<Q, F>(_: Q, _: F) -> Handler
where
    Q: Fn(&mut Cpu, &Op) -> Result<(), NotQuick> + Copy + 'static,
    F: Fn(&mut Cpu, &Op) -> Result<(), Trap> + Copy + 'static,
{
    const { assert!(size_of::<(Q, F)>() == 0, "a handler must be a function item") };
    unsafe fn run<Q, F>(cpu: &mut Cpu, op: *const Op) -> Stop
    where
        Q: Fn(&mut Cpu, &Op) -> Result<(), NotQuick> + Copy + 'static,
        F: Fn(&mut Cpu, &Op) -> Result<(), Trap> + Copy + 'static,
    {
        // SAFETY: as in `step`.
        let (quick, insn) = unsafe { (std::ptr::NonNull::<Q>::dangling().as_ref(), &*op) };
        match quick(cpu, insn) {
            // SAFETY: a step is never a block's last op.
            Ok(()) => unsafe { next(cpu, op) },
            // SAFETY: as this function's contract.
            Err(NotQuick) => unsafe { in_full::<F>(cpu, op) },
        }
    }
    #[cold]
    #[inline(never)]
    unsafe fn in_full<F>(cpu: &mut Cpu, op: *const Op) -> Stop
    where
        F: Fn(&mut Cpu, &Op) -> Result<(), Trap> + Copy + 'static,
    {
        // SAFETY: as in `step`.
        let (full, insn) = unsafe { (std::ptr::NonNull::<F>::dangling().as_ref(), &*op) };
        match full(cpu, insn) {
            // SAFETY: a step is never a block's last op.
            Ok(()) => unsafe { next(cpu, op) },
            Err(Trap) => trapped(cpu, op),
        }
    }
    run::<Q, F>
}

/// The quick way is not open: the instruction has done nothing yet.
pub(crate) struct NotQuick;

/// Makes a handler of a function that executes one instruction and says where execution goes on: for everything that
/// branches or changes what later instructions mean. The block must end with it ([`Lowered::end`]).
pub(crate) fn leave<F>(_: F) -> Handler
where
    F: Fn(&mut Cpu, &Op) -> Result<u64, Trap> + Copy + 'static,
{
    const { assert!(size_of::<F>() == 0, "a handler must be a function item") };
    unsafe fn run<F>(cpu: &mut Cpu, op: *const Op) -> Stop
    where
        F: Fn(&mut Cpu, &Op) -> Result<u64, Trap> + Copy + 'static,
    {
        // SAFETY: as in `step`.
        let (f, insn) = unsafe { (std::ptr::NonNull::<F>::dangling().as_ref(), &*op) };
        match f(cpu, insn) {
            Ok(rip) => {
                cpu.set_rip(rip);
                if cpu.exit.is_some() { Stop::Exit } else { Stop::Dispatch }
            }
            Err(Trap) => trapped(cpu, op),
        }
    }
    run::<F>
}
