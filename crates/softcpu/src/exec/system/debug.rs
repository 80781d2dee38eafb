//! Debug registers and what they watch (Intel SDM vol. 3, 17.2).

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::{Fault, Trap, vector};
use crate::op::{Lowered, Op, leave, step};

const CR4_DE: u64 = 1 << 3;
/// DR6.BD: the exception comes from an access to a debug register while DR7.GD is set.
const DR6_BD: u64 = 1 << 13;
const DR7_GD: u64 = 1 << 13;
/// Bits that software may set, and bits that are always set.
const DR6_BITS: u64 = 0xe00f;
const DR6_FIXED: u64 = 0xffff_0ff0;
const DR7_BITS: u64 = 0xffff_23ff;
const DR7_FIXED: u64 = 0x400;

/// What a breakpoint watches: DR7.R/Wn.
mod watch {
    pub const WRITE: u64 = 1;
    pub const PORT: u64 = 2;
    pub const READ_WRITE: u64 = 3;
}

pub(super) fn lower(insn: &Instruction, _: &mut Op) -> Option<Lowered> {
    if insn.mnemonic() != Mnemonic::Mov {
        return None;
    }
    if insn.op0_register().is_dr() {
        Lowered::end(leave(write_debug))
    } else if insn.op1_register().is_dr() {
        Lowered::step(step(read_debug))
    } else {
        None
    }
}

/// The register meant by `number`: DR4 and DR5 are DR6 and DR7 unless CR4.DE is set. DR7.GD makes every access fault.
fn accessible(cpu: &mut Cpu, number: u8) -> Result<usize, Trap> {
    let number = match number {
        4 | 5 if cpu.cr4 & CR4_DE == 0 => usize::from(number) + 2,
        0..4 | 6 | 7 => usize::from(number),
        _ => return Err(cpu.ud()),
    };
    cpu.privileged()?;
    if cpu.dr[7] & DR7_GD != 0 {
        return Err(cpu.raise(Fault { info: DR6_BD, ..Fault::plain(vector::DB) }));
    }
    Ok(number)
}

fn write_debug(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let number = accessible(cpu, op.dst)?;
    let value = cpu.get_natural(op.src);
    if number >= 6 && value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    cpu.dr[number] = match number {
        6 => value & DR6_BITS | DR6_FIXED,
        7 => value & DR7_BITS | DR7_FIXED,
        _ => value,
    };
    cpu.mode_changed();
    Ok(cpu.next_rip(op))
}

fn read_debug(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let number = accessible(cpu, op.src)?;
    cpu.set_natural(op.dst, cpu.dr[number]);
    Ok(())
}

impl Cpu {
    /// Whether any of the four breakpoints is enabled.
    #[inline(always)]
    pub(crate) fn breakpoints_enabled(&self) -> bool {
        self.dr[7] & 0xff != 0
    }

    /// The DR6 bits of the enabled breakpoints for which `wanted` (given DR7.R/Wn) holds and whose range overlaps `size`
    /// bytes from `at`.
    fn breakpoints_at(&self, at: u64, size: u64, wanted: impl Fn(u64) -> bool) -> u64 {
        let mut hits = 0;
        for n in 0..4 {
            let control = self.dr[7] >> (16 + n * 4);
            let length = [1, 2, 8, 4][(control >> 2 & 3) as usize];
            let start = self.dr[n] & !(length - 1);
            let enabled = self.dr[7] >> (n * 2) & 3 != 0;
            // Either begins within the other.
            let overlaps = at.wrapping_sub(start) < length || start.wrapping_sub(at) < size;
            if enabled && overlaps && wanted(control & 3) {
                hits |= 1 << n;
            }
        }
        hits
    }

    /// Notes the data breakpoints that an access of `size` bytes at linear address `la` meets; the trap follows the
    /// instruction.
    pub(crate) fn watch_data(&mut self, la: u64, size: u64, write: bool) {
        self.watch_hits |=
            self.breakpoints_at(la, size, |kind| kind == watch::READ_WRITE || write && kind == watch::WRITE);
    }

    /// The same for a port.
    pub(crate) fn watch_port(&mut self, port: u16, size: u32) {
        if self.cr4 & CR4_DE != 0 {
            self.watch_hits |=
                self.breakpoints_at(u64::from(port), u64::from(size), |kind| kind == watch::PORT);
        }
    }
}
