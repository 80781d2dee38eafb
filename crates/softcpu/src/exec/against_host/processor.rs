//! A processor in 64-bit mode without paging that executes one instruction at a time.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use iced_x86::Instruction;

use super::{OPERAND, OPERAND_LEN};
use crate::bus::{Bus, Frame, GuestMemory, PAGE_SIZE};
use crate::clock::Clock;
use crate::cpu::Cpu;
use crate::fault::{Pending, Trap};
use crate::op::{self, Op, Stop};
use crate::state::Segment;
use crate::system::System;

struct Ram {
    bytes: NonNull<u8>,
    flags: [AtomicU8; 4],
}

// SAFETY: only the test's own thread touches it.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

// SAFETY: the pages are leaked and so always there.
unsafe impl GuestMemory for Ram {
    fn frame(&self, gpa: u64) -> Option<Frame> {
        let n = (gpa / PAGE_SIZE) as usize;
        let flags = NonNull::from(self.flags.get(n)?);
        // SAFETY: there are four pages, as there are flags.
        Some(Frame { host: unsafe { self.bytes.add(n * 4096) }, flags, writable: true })
    }
}

struct Nothing;

impl Bus for Nothing {
    fn port_read(&self, _: u16, _: &mut [u8]) {}
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: u64, _: &mut [u8]) {}
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn end_of_interrupt(&self, _: u8) {}
}

#[repr(C, align(4096))]
struct Pages([u8; 4 * 4096]);

/// A processor in 64-bit mode without paging, and its memory operand.
pub(super) fn processor() -> (Box<Cpu>, &'static mut [u8; OPERAND_LEN]) {
    let pages = NonNull::from(Box::leak(Box::new(Pages([0; 4 * 4096])))).cast::<u8>();
    let memory = Arc::new(Ram { bytes: pages, flags: Default::default() });
    let system = System::new(memory, Arc::new(Clock::new(1_000_000)), &[0]);
    let mut cpu = Box::new(Cpu::new(system, 0, Arc::new([]), Arc::new(Nothing)));
    (cpu.cr0, cpu.cr4, cpu.efer) = (1 | 1 << 5, 3 << 9, 1 << 8 | 1 << 10);
    cpu.segs = [Segment { rights: 0xa09b, limit: u32::MAX, ..Segment::default() }; 6];
    cpu.mode_changed();
    // SAFETY: the pages are leaked, and the operand is touched by nobody while this test looks at it.
    let operand = unsafe { &mut *pages.as_ptr().add(OPERAND as usize).cast() };
    (cpu, operand)
}

/// Executes one instruction by its handler.
pub(super) fn step(cpu: &mut Cpu, insn: &Instruction) -> Option<Result<(), Pending>> {
    fn end(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        Ok(cpu.next_rip(op))
    }
    let mut first = crate::decode::operands(insn);
    first.run = crate::exec::lower(insn, &mut first)?.run;
    let ops = [first, Op { run: op::leave(end), ..first }];
    cpu.enter_fp();
    // SAFETY: the last op of the two stops.
    let stop = unsafe { (ops[0].run)(cpu, ops.as_ptr()) };
    cpu.leave_fp();
    Some(if stop == Stop::Trap { Err(std::mem::replace(&mut cpu.pending, Pending::None)) } else { Ok(()) })
}
