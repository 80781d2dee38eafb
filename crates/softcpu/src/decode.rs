//! From code bytes to a block of ops: iced-x86 decodes, [`exec::lower`](crate::exec::lower) chooses the handlers.

use iced_x86::{Code, CodeSize, Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register};

use crate::bus::PAGE_SIZE;
use crate::cache::{self, Block};
use crate::cpu::{Cpu, Mode};
use crate::exec;
use crate::fault::Trap;
use crate::liveness;
use crate::mmu::{canonical, offset_in_page};
use crate::op::{self, Lowered, Op, Stop, form, seg, slot};
use crate::paging::{Access, Translation};

/// Instructions in a block at most.
const MOST: usize = 32;
/// Bytes of the longest instruction.
const LONGEST: usize = 15;

/// What the decoder is to take for an instruction: a processor of the x86-64-v1 kind, where a REP prefix on BSF and BSR
/// means nothing.
const OPTIONS: u32 =
    DecoderOptions::NO_MPFX_0FBC | DecoderOptions::NO_MPFX_0FBD | DecoderOptions::NO_WBNOINVD;

/// What decoding gave.
struct Run {
    insns: Vec<Instruction>,
    /// The last one, which is invalid, has more than 15 bytes.
    too_long: bool,
}

impl Cpu {
    /// The linear address of an instruction at `rip`, checked as a fetch is.
    pub(crate) fn fetch_address(&mut self, rip: u64) -> Result<u64, Trap> {
        if self.long_mode() {
            if !canonical(rip) {
                return Err(self.gp0());
            }
            return Ok(rip);
        }
        let cs = &self.segs[usize::from(seg::CS)];
        if rip > u64::from(cs.limit) {
            return Err(self.gp0());
        }
        Ok(cs.base.wrapping_add(rip) & 0xffff_ffff)
    }

    /// Translates for an instruction fetch.
    pub(crate) fn translate_fetch(&mut self, la: u64) -> Result<Translation, Trap> {
        let user = if self.cpl == 3 { Access::USER } else { Access::empty() };
        match self.walk(la, Access::FETCH | user) {
            Ok(t) => Ok(t),
            Err(fault) => Err(self.raise(fault)),
        }
    }

    /// Makes the block for the code at linear address `la`, whose guest-physical address is `gpa`.
    pub(crate) fn build_block(&mut self, la: u64, gpa: u64) -> Result<Block, Trap> {
        let alone = self.mode.contains(Mode::ALONE);
        let in_page = (PAGE_SIZE - offset_in_page(gpa)) as usize;
        let wanted = if alone { LONGEST } else { MOST * LONGEST };
        let mut bytes = [0u8; MOST * LONGEST];
        let here = wanted.min(in_page);
        self.fetch_bytes(gpa, &mut bytes[..here]);
        let insns = std::mem::take(&mut self.code.decoded);
        let mut run = self.decode_run(&bytes[..here], if alone { 1 } else { MOST }, here == in_page, insns);
        let mut second = None;
        if run.insns.is_empty() {
            // The first instruction does not end in this page.
            let next = self.wrap_linear((la | (PAGE_SIZE - 1)).wrapping_add(1));
            let (page, _) = self.fetch_page(next)?;
            self.fetch_bytes(page, &mut bytes[here..LONGEST]);
            run = self.decode_run(&bytes[..LONGEST], 1, false, run.insns);
            second = Some(page);
        }
        self.cut_to_limit(&mut run.insns)?;
        let block = self.lower_run(&run, gpa, second, alone);
        self.code.decoded = run.insns;
        Ok(block)
    }

    /// Announces and reads `bytes.len()` bytes of code at `gpa`, within one page. Reads from devices give zeroes.
    fn fetch_bytes(&mut self, gpa: u64, bytes: &mut [u8]) {
        self.announce_code(gpa, bytes.len() as u64);
        if let Some(frame) = self.frame_of(gpa) {
            let from = frame.host.as_ptr().wrapping_add(offset_in_page(gpa) as usize);
            // SAFETY: the range lies inside the frame's page; racing writers are told apart by `announce_code`.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        } else {
            self.call_out(|bus| bus.mmio_read(gpa, &mut bytes[..1]));
        }
    }

    /// Decodes up to `most` instructions. With `page_end`, one that does not fit ends the run; an undecodable one is
    /// kept (as the last) and executes as a fault. They are put in place of what is in `insns`.
    fn decode_run(&self, bytes: &[u8], most: usize, page_end: bool, mut insns: Vec<Instruction>) -> Run {
        let bitness = if self.long_mode() {
            64
        } else if self.mode.contains(Mode::CODE32) {
            32
        } else {
            16
        };
        let mut decoder = Decoder::with_ip(bitness, bytes, 0, OPTIONS);
        insns.clear();
        insns.reserve(most);
        let mut run = Run { insns, too_long: false };
        while run.insns.len() < most && decoder.can_decode() {
            let insn = decoder.decode();
            if insn.is_invalid() {
                if decoder.last_error() == DecoderError::NoMoreBytes && (page_end || !run.insns.is_empty()) {
                    break;
                }
                let from = insn.ip() as usize;
                run.too_long = insn.len() == LONGEST && goes_on(bitness, &bytes[from..from + LONGEST]);
                run.insns.push(insn);
                break;
            }
            run.insns.push(insn);
            if ends_block(&insn) {
                break;
            }
        }
        run
    }

    /// Outside 64-bit mode code must lie within CS's limit: what goes on beyond is left to a block of its own, which
    /// faults if there is nothing else in it.
    fn cut_to_limit(&mut self, insns: &mut Vec<Instruction>) -> Result<(), Trap> {
        if !self.mode.contains(Mode::LIMITED) {
            return Ok(());
        }
        let room = self.code_room();
        insns.retain(|i| i.next_ip() <= room);
        if insns.is_empty() { Err(self.gp0()) } else { Ok(()) }
    }

    /// How many bytes from RIP on lie within CS's limit, which RIP does.
    pub(crate) fn code_room(&self) -> u64 {
        (u64::from(self.segs[usize::from(seg::CS)].limit) + 1).saturating_sub(self.block_rip())
    }

    fn lower_run(&mut self, run: &Run, gpa: u64, second: Option<u64>, alone: bool) -> Block {
        let insns = &run.insns;
        let dead = liveness::dead_flags(insns);
        let mut ops = std::mem::take(&mut self.code.lowered);
        ops.clear();
        let mut ended = false;
        let mut length = insns.last().map_or(0, |i| i.next_ip() as u16);
        for (i, insn) in insns.iter().enumerate() {
            let mut op = operands(insn);
            if dead >> i & 1 != 0 {
                op.form |= form::DEAD_FLAGS;
            }
            let exists = !insn.is_invalid() && !self.features.lacks(insn);
            let lowered = if exists { exec::lower(insn, &mut op) } else { None };
            let Lowered { run: handler, ends } = lowered.unwrap_or_else(|| {
                let fault = if run.too_long && insn.is_invalid() {
                    op::leave(too_long)
                } else {
                    op::leave(undefined)
                };
                Lowered { run: fault, ends: true }
            });
            op.run = handler;
            if let Some(previous) = ops.last_mut()
                && let Some(run) = exec::fuse(&insns[i - 1], previous, insn)
            {
                previous.run = run;
            }
            ops.push(op);
            if ends {
                length = insn.next_ip() as u16;
                ended = true;
                break;
            }
        }
        let count = ops.len() as u32;
        if !ended {
            let next = ops.last().map_or(0, |o: &Op| o.next);
            let last_in_page = offset_in_page(gpa) + u64::from(length) >= PAGE_SIZE;
            let run: op::Handler = if alone {
                op::leave(go_on)
            } else if last_in_page {
                fall_through_page
            } else {
                fall_through
            };
            ops.push(Op { run, next, len: 0, ..EMPTY });
        }
        let block = Block::new(gpa, length, second, count, ops.as_slice().into());
        self.code.lowered = ops;
        block
    }
}

const EMPTY: Op = Op {
    run: fall_through,
    imm: 0,
    disp: 0,
    base: slot::ZERO,
    index: slot::ZERO,
    scale: 0,
    seg: seg::DS,
    dst: 0,
    src: 0,
    len: 0,
    form: 0,
    next: 0,
    aux: 0,
};

/// After a block that is full: on to the next in the same page.
unsafe fn fall_through(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: `op` is valid by the handler contract, and its block is the current one.
    unsafe {
        let rip = cpu.next_rip(&*op);
        cache::chain(cpu, rip, 0)
    }
}

/// After a block that ends at the end of its page.
unsafe fn fall_through_page(cpu: &mut Cpu, op: *const Op) -> Stop {
    // SAFETY: as in `fall_through`.
    unsafe {
        let rip = cpu.next_rip(&*op);
        cache::indirect(cpu, rip)
    }
}

/// After an instruction that was executed alone.
fn go_on(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    Ok(cpu.next_rip(op))
}

/// Whether the invalid instruction that begins with these [`LONGEST`] bytes has more still: the decoder stops there and does
/// not say. So it is shown the instruction with each kind of prefix once.
fn goes_on(bitness: u32, bytes: &[u8]) -> bool {
    const REPEAT: [u8; 2] = [0xf2, 0xf3];
    let other = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0);
    let legacy = bytes.iter().take_while(|byte| other(byte) || REPEAT.contains(byte)).count();
    let (prefixes, rest) = bytes.split_at(legacy);
    let sizes = [0x66, 0x67].into_iter().filter(|size| prefixes.contains(size));
    let repeat = prefixes.iter().rev().find(|byte| REPEAT.contains(byte)).copied();
    let mut short: Vec<u8> = sizes.chain(repeat).collect();
    let dropped = legacy - short.len();
    short.extend(rest);
    short.resize(2 * LONGEST, 0);
    let insn = Decoder::new(bitness, &short, OPTIONS).decode();
    !insn.is_invalid() && dropped + insn.len() > LONGEST
}

/// What is no instruction of this processor.
fn undefined(cpu: &mut Cpu, _op: &Op) -> Result<u64, Trap> {
    Err(cpu.ud())
}

/// What has more bytes than an instruction may have (Intel SDM vol. 3, 6.15, interrupt 13).
fn too_long(cpu: &mut Cpu, _op: &Op) -> Result<u64, Trap> {
    Err(cpu.gp0())
}

/// Whether decoding should stop after `insn` (lowering may end the block earlier).
fn ends_block(insn: &Instruction) -> bool {
    use iced_x86::FlowControl::*;
    match insn.flow_control() {
        Next => false,
        UnconditionalBranch | IndirectBranch | ConditionalBranch | Return | Call | IndirectCall
        | Interrupt | XbeginXabortXend | Exception => true,
    }
}

/// The slot or number of `r` as [`Op::dst`] and [`Op::src`] have it.
fn register(r: Register) -> u8 {
    if r.is_gpr8() {
        // iced counts AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8L … R15L.
        let i = (r as u32 - Register::AL as u32) as u8;
        match i {
            0..4 => i * 8,
            4..8 => (i - 4) * 8 + 1,
            _ => (i - 4) * 8,
        }
    } else if r.is_gpr() {
        r.number() as u8 * 8
    } else {
        r.number() as u8
    }
}

/// The slot of a base or index register.
fn address_slot(r: Register) -> u8 {
    match r {
        Register::None => slot::ZERO,
        Register::RIP | Register::EIP => slot::RIP,
        r => r.number() as u8 * 8,
    }
}

/// The segment of the memory operand. In 64-bit code prefixes other than FS and GS mean nothing, but SS still decides
/// between #SS and #GP.
fn effective_segment(insn: &Instruction) -> u8 {
    let named = segment(insn.memory_segment());
    if insn.code_size() != CodeSize::Code64 || named >= seg::FS {
        return named;
    }
    let stack = matches!(insn.memory_base(), Register::RSP | Register::RBP | Register::ESP | Register::EBP);
    if stack { seg::SS } else { seg::DS }
}

fn segment(r: Register) -> u8 {
    match r {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    }
}

/// Puts `insn`'s operands into an op.
pub(crate) fn operands(insn: &Instruction) -> Op {
    let mut op = EMPTY;
    op.len = insn.len() as u8;
    op.next = insn.next_ip() as u16;
    op.seg = effective_segment(insn);
    if insn.has_lock_prefix() {
        op.form |= form::LOCK;
    }
    if insn.has_rep_prefix() {
        op.form |= form::REP;
    }
    if insn.has_repne_prefix() {
        op.form |= form::REPNE;
    }
    for n in (0..insn.op_count()).rev() {
        match insn.op_kind(n) {
            OpKind::Register if n == 0 => op.dst = register(insn.op_register(0)),
            OpKind::Register if n == 1 => op.src = register(insn.op_register(1)),
            OpKind::Register => {}
            OpKind::Memory => memory(insn, &mut op),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.imm = insn.near_branch_target()
            }
            OpKind::FarBranch16 | OpKind::FarBranch32 => {}
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => {
                op.form |= form::MEM | form::ADDR16
            }
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => {
                op.form |= form::MEM | form::ADDR32
            }
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => op.form |= form::MEM,
            _ => op.imm = insn.immediate(n),
        }
    }
    op
}

fn memory(insn: &Instruction, op: &mut Op) {
    op.form |= form::MEM;
    if moffs(insn.code()) {
        op.imm = insn.memory_displacement64();
        op.form |= match insn.memory_displ_size() {
            2 => form::ADDR16,
            4 => form::ADDR32,
            _ => 0,
        };
        return;
    }
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let size = match (base, index) {
        (Register::None, Register::None) => match insn.memory_displ_size() {
            2 => 2,
            4 => 4,
            _ => 8,
        },
        (Register::RIP, _) => 8,
        (Register::EIP, _) => 4,
        (Register::None, i) => i.size(),
        (b, _) => b.size(),
    };
    op.base = address_slot(base);
    op.index = address_slot(index);
    op.scale = insn.memory_index_scale().trailing_zeros() as u8;
    op.disp = insn.memory_displacement64() as i32;
    match size {
        2 => op.form |= form::ADDR16,
        4 => op.form |= form::ADDR32,
        _ if op.seg != seg::FS && op.seg != seg::GS => op.form |= form::FLAT,
        _ => {}
    }
}

/// MOV with a full-width address in place of ModRM.
fn moffs(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    )
}
