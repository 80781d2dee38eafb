//! String instructions: MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, alone and repeated.
//!
//! A repeated instruction runs piece by piece: as much as lies in one page of RAM at a time by the host's own instruction
//! of the same name, single elements otherwise. After each piece the registers say how far it came, so a fault finds them
//! as the architecture wants, and after a bounded amount of work the instruction is begun anew to let interrupts in.

mod host;
mod port;

use iced_x86::{Code, Instruction};

use super::integer::Native;
use crate::bus::PAGE_SIZE;
use crate::cpu::Cpu;
use crate::fault::{Fault, Pending, Trap, vector};
use crate::flags::{ZF, rflags};
use crate::mmu::offset_in_page;
use crate::op::{Lowered, Op, form, seg, slot, step};
use host::HostString;

/// Work a repeated instruction does before it lets interrupts in, in bytes.
const MOST: u64 = 64 * 1024;
/// What a single element counts for, in bytes.
const SINGLE: u64 = 16;
/// DR6.BS.
const DR6_BS: u64 = 1 << 14;

/// Lowers the string instructions.
pub(crate) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    match insn.code() {
        Code::Movsb_m8_m8 => any::<Movs, u8>(op),
        Code::Movsw_m16_m16 => any::<Movs, u16>(op),
        Code::Movsd_m32_m32 => any::<Movs, u32>(op),
        Code::Movsq_m64_m64 => any::<Movs, u64>(op),
        Code::Stosb_m8_AL => any::<Stos, u8>(op),
        Code::Stosw_m16_AX => any::<Stos, u16>(op),
        Code::Stosd_m32_EAX => any::<Stos, u32>(op),
        Code::Stosq_m64_RAX => any::<Stos, u64>(op),
        Code::Lodsb_AL_m8 => any::<Lods, u8>(op),
        Code::Lodsw_AX_m16 => any::<Lods, u16>(op),
        Code::Lodsd_EAX_m32 => any::<Lods, u32>(op),
        Code::Lodsq_RAX_m64 => any::<Lods, u64>(op),
        Code::Cmpsb_m8_m8 => any::<Cmps, u8>(op),
        Code::Cmpsw_m16_m16 => any::<Cmps, u16>(op),
        Code::Cmpsd_m32_m32 => any::<Cmps, u32>(op),
        Code::Cmpsq_m64_m64 => any::<Cmps, u64>(op),
        Code::Scasb_AL_m8 => any::<Scas, u8>(op),
        Code::Scasw_AX_m16 => any::<Scas, u16>(op),
        Code::Scasd_EAX_m32 => any::<Scas, u32>(op),
        Code::Scasq_RAX_m64 => any::<Scas, u64>(op),
        Code::Insb_m8_DX => any::<port::Ins, u8>(op),
        Code::Insw_m16_DX => any::<port::Ins, u16>(op),
        Code::Insd_m32_DX => any::<port::Ins, u32>(op),
        Code::Outsb_DX_m8 => any::<port::Outs, u8>(op),
        Code::Outsw_DX_m16 => any::<port::Outs, u16>(op),
        Code::Outsd_DX_m32 => any::<port::Outs, u32>(op),
        _ => None,
    }
}

fn any<O: Operation, T: Element>(op: &Op) -> Option<Lowered> {
    let repeats = op.form & (form::REP | form::REPNE) != 0;
    Lowered::step(if repeats { step(repeated::<O, T>) } else { step(single::<O, T>) })
}

/// An element of a string.
trait Element: Native + HostString {}
impl<T: Native + HostString> Element for T {}

/// What a string instruction does.
trait Operation: 'static {
    /// It reads at RSI.
    const SOURCE: bool;
    /// It reads or writes at RDI.
    const DESTINATION: bool;
    /// It writes at RDI.
    const WRITES: bool;
    /// It compares: REPE and REPNE end with the first difference or match.
    const COMPARES: bool = false;
    /// It may be executed for many elements at once.
    const BULK: bool = true;

    /// Executes one element; the registers that index move later.
    fn one<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap>;

    /// Executes up to `n` elements, `n` > 0, in host memory, upwards; gives how many it did.
    ///
    /// # Safety
    /// What the operation reads and writes of `n` elements at `source` and `destination` must be valid for that.
    unsafe fn many<T: Element>(
        cpu: &mut Cpu,
        op: &Op,
        source: *const u8,
        destination: *mut u8,
        n: usize,
    ) -> usize;
}

/// The bits of the index registers that count.
fn address_mask(op: &Op) -> u64 {
    if op.form & form::ADDR32 != 0 {
        0xffff_ffff
    } else if op.form & form::ADDR16 != 0 {
        0xffff
    } else {
        u64::MAX
    }
}

/// Sets an index register or the counter.
fn set_index(cpu: &mut Cpu, op: &Op, slot: u8, value: u64) {
    if op.form & form::ADDR32 != 0 {
        cpu.set(slot, value as u32);
    } else if op.form & form::ADDR16 != 0 {
        cpu.set(slot, value as u16);
    } else {
        cpu.set(slot, value);
    }
}

/// Linear address of `n` bytes at RSI.
fn source(cpu: &mut Cpu, op: &Op, n: u32) -> Result<u64, Trap> {
    let offset = cpu.get::<u64>(slot::RSI) & address_mask(op);
    cpu.linear_at(op.seg, offset, n, false)
}

/// Linear address of `n` bytes at RDI.
fn destination(cpu: &mut Cpu, op: &Op, n: u32, write: bool) -> Result<u64, Trap> {
    let offset = cpu.get::<u64>(slot::RDI) & address_mask(op);
    cpu.linear_at(seg::ES, offset, n, write)
}

fn load_source<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<T, Trap> {
    let la = source(cpu, op, size_of::<T>() as u32)?;
    cpu.load(la)
}

fn load_destination<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<T, Trap> {
    let la = destination(cpu, op, size_of::<T>() as u32, false)?;
    cpu.load(la)
}

fn store_destination<T: Element>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Trap> {
    let la = destination(cpu, op, size_of::<T>() as u32, true)?;
    cpu.store(la, value)
}

fn downwards(cpu: &Cpu) -> bool {
    cpu.rflags_rest & rflags::DF != 0
}

/// Moves the index registers over `n` elements.
fn advance<O: Operation, T: Element>(cpu: &mut Cpu, op: &Op, n: u64) {
    let bytes = n.wrapping_mul(size_of::<T>() as u64);
    let by = if downwards(cpu) { bytes.wrapping_neg() } else { bytes };
    if O::SOURCE {
        set_index(cpu, op, slot::RSI, cpu.get::<u64>(slot::RSI).wrapping_add(by));
    }
    if O::DESTINATION {
        set_index(cpu, op, slot::RDI, cpu.get::<u64>(slot::RDI).wrapping_add(by));
    }
}

fn single<O: Operation, T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    O::one::<T>(cpu, op)?;
    advance::<O, T>(cpu, op, 1);
    Ok(())
}

fn repeated<O: Operation, T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let mask = address_mask(op);
    let stepping = cpu.rflags_rest & rflags::TF != 0;
    // A breakpoint is told of after the element that met it.
    let bulky = O::BULK && !stepping && !cpu.breakpoints_enabled();
    let mut budget = if stepping { 1 } else { MOST };
    loop {
        let left = cpu.get::<u64>(slot::RCX) & mask;
        if left == 0 {
            return Ok(());
        }
        let size = size_of::<T>() as u64;
        let mut done = 0;
        if bulky && !downwards(cpu) {
            done = bulk::<O, T>(cpu, op, left.min(budget.div_ceil(size)));
        }
        let cost = if done == 0 {
            O::one::<T>(cpu, op)?;
            done = 1;
            SINGLE
        } else {
            done * size
        };
        advance::<O, T>(cpu, op, done);
        set_index(cpu, op, slot::RCX, left - done);
        let over = O::COMPARES && (cpu.arith & ZF == 0) != (op.form & form::REPNE != 0);
        if over || left == done {
            return Ok(());
        }
        budget = budget.saturating_sub(cost);
        if budget == 0 || cpu.watch_hits != 0 {
            return Err(interrupted(cpu, stepping));
        }
    }
}

/// Leaves a repeated instruction between two of its elements: RIP stays at it.
fn interrupted(cpu: &mut Cpu, stepping: bool) -> Trap {
    if cpu.breakpoints_enabled() {
        // An instruction breakpoint that was held off or has been told of stays so until the instruction is complete.
        cpu.rflags_rest |= rflags::RF;
    }
    let info = std::mem::take(&mut cpu.watch_hits) | if stepping { DR6_BS } else { 0 };
    if info != 0 {
        return cpu.raise(Fault { info, ..Fault::plain(vector::DB) });
    }
    cpu.pending = Pending::Again;
    Trap
}

/// Executes up to `most` elements at once, all in one page on either side; gives how many it did, zero where single
/// elements must be tried.
fn bulk<O: Operation, T: Element>(cpu: &mut Cpu, op: &Op, most: u64) -> u64 {
    let size = size_of::<T>() as u64;
    let mut n = most;
    let (mut from, mut to) = (0, 0);
    if O::SOURCE {
        (from, n) = stretch(cpu, op, op.seg, slot::RSI, size, n, false);
    }
    if O::DESTINATION && n > 0 {
        (to, n) = stretch(cpu, op, seg::ES, slot::RDI, size, n, O::WRITES);
    }
    if n == 0 {
        return 0;
    }
    let bytes = n * size;
    // What faults does so again as a single element, where the order of things is known.
    let mut place = |la, write| match cpu.span(la, bytes, write) {
        Ok(host) => host,
        Err(Trap) => {
            cpu.pending = Pending::None;
            None
        }
    };
    let (mut host_from, mut host_to) = (std::ptr::null_mut(), std::ptr::null_mut());
    if O::SOURCE {
        let Some(host) = place(from, false) else { return 0 };
        host_from = host;
    }
    if O::DESTINATION {
        let Some(host) = place(to, O::WRITES) else { return 0 };
        host_to = host;
    }
    // SAFETY: `span` vouches for both places, as far as the operation uses them.
    unsafe { O::many::<T>(cpu, op, host_from, host_to, n as usize) as u64 }
}

/// The linear address that an index register leads to and how many of `most` elements from there on lie in one page, in
/// the segment, and before the address wraps.
fn stretch(cpu: &mut Cpu, op: &Op, segment: u8, index: u8, size: u64, most: u64, write: bool) -> (u64, u64) {
    let mask = address_mask(op);
    let offset = cpu.get::<u64>(index) & mask;
    let most = most.min((mask - offset) / size);
    let Ok(la) = cpu.linear_at(segment, offset, 1, write) else {
        cpu.pending = Pending::None;
        return (0, 0);
    };
    let n = most.min((PAGE_SIZE - offset_in_page(la)) / size);
    let misaligned = la & (size - 1) != 0 && cpu.alignment_checked();
    if n == 0 || misaligned || cpu.linear_at(segment, offset, (n * size) as u32, write).is_err() {
        cpu.pending = Pending::None;
        return (la, 0);
    }
    (la, n)
}

struct Movs;

impl Operation for Movs {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;
    const WRITES: bool = true;

    fn one<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let value = load_source::<T>(cpu, op)?;
        store_destination(cpu, op, value)
    }

    unsafe fn many<T: Element>(_: &mut Cpu, _: &Op, from: *const u8, to: *mut u8, n: usize) -> usize {
        // SAFETY: the caller vouches for both places.
        unsafe { T::movs(from, to, n) };
        n
    }
}

struct Stos;

impl Operation for Stos {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;
    const WRITES: bool = true;

    fn one<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        store_destination(cpu, op, cpu.get::<T>(slot::RAX))
    }

    unsafe fn many<T: Element>(cpu: &mut Cpu, _: &Op, _: *const u8, to: *mut u8, n: usize) -> usize {
        // SAFETY: the caller vouches for the place.
        unsafe { T::stos(to, cpu.get::<T>(slot::RAX), n) };
        n
    }
}

struct Lods;

impl Operation for Lods {
    const SOURCE: bool = true;
    const DESTINATION: bool = false;
    const WRITES: bool = false;

    fn one<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let value = load_source::<T>(cpu, op)?;
        cpu.set(slot::RAX, value);
        Ok(())
    }

    unsafe fn many<T: Element>(cpu: &mut Cpu, _: &Op, from: *const u8, _: *mut u8, n: usize) -> usize {
        // SAFETY: the caller vouches for `n` elements, of which this is the last.
        let value = unsafe { T::load(from.add((n - 1) * size_of::<T>())) };
        cpu.set(slot::RAX, value);
        n
    }
}

struct Cmps;

impl Operation for Cmps {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;
    const WRITES: bool = false;
    const COMPARES: bool = true;

    fn one<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let a = load_source::<T>(cpu, op)?;
        let b = load_destination::<T>(cpu, op)?;
        cpu.arith = T::sub(a, b).1;
        Ok(())
    }

    unsafe fn many<T: Element>(cpu: &mut Cpu, op: &Op, from: *const u8, to: *mut u8, n: usize) -> usize {
        let while_equal = op.form & form::REPNE == 0;
        // SAFETY: the caller vouches for both places.
        let (left, flags) =
            unsafe { if while_equal { T::repe_cmps(from, to, n) } else { T::repne_cmps(from, to, n) } };
        cpu.arith = flags;
        n - left
    }
}

struct Scas;

impl Operation for Scas {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;
    const WRITES: bool = false;
    const COMPARES: bool = true;

    fn one<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let b = load_destination::<T>(cpu, op)?;
        cpu.arith = T::sub(cpu.get(slot::RAX), b).1;
        Ok(())
    }

    unsafe fn many<T: Element>(cpu: &mut Cpu, op: &Op, _: *const u8, to: *mut u8, n: usize) -> usize {
        let while_equal = op.form & form::REPNE == 0;
        let a = cpu.get::<T>(slot::RAX);
        // SAFETY: the caller vouches for the place.
        let (left, flags) =
            unsafe { if while_equal { T::repe_scas(to, a, n) } else { T::repne_scas(to, a, n) } };
        cpu.arith = flags;
        n - left
    }
}
