//! Random instructions: bytes after the opcode maps' pattern, decoded, and kept if the guest's processor has the
//! instruction and user mode may try it; then registers and displacements are bent so that operands lie in the arena.

use iced_x86::{
    Code, ConstantOffsets, CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction,
    InstructionInfoFactory, Mnemonic, OpKind, Register,
};

use crate::layout::*;
use crate::values::{self, Random};

/// What the guest's processor has.
fn has(feature: CpuidFeature) -> bool {
    use CpuidFeature::*;
    matches!(
        feature,
        INTEL8086
            | INTEL186
            | INTEL286
            | INTEL386
            | INTEL486
            | X64
            | CMOV
            | CX8
            | CMPXCHG16B
            | FPU
            | FPU287
            | FPU387
            | MMX
            | SSE
            | SSE2
            | SSE3
            | POPCNT
            | MULTIBYTENOP
            | PAUSE
            | CLFSH
            | CET_IBT
    )
}

/// Instructions that would leave the test, or whose result is not the processor's alone.
fn barred(insn: &Instruction) -> bool {
    use Mnemonic::*;
    let mnemonic = matches!(
        insn.mnemonic(),
        Syscall | Sysenter | Sysexit | Sysexitq | Sysret | Sysretq | Int | Int1 | Into | Iret | Iretd | Iretq
            | Retf | Lss | Lfs | Lgs | Cpuid | Rdtsc | Rdpmc | Rsm | Getsec
            // These tell of the host's descriptor tables, or the kernel emulates them.
            | Sgdt | Sidt | Sldt | Str | Smsw | Lar | Lsl | Verr | Verw
            // They store the last x87 instruction's address, which processors and kernels treat differently.
            | Fxsave | Fxrstor | Fxsave64 | Fxrstor64 | Fnstenv | Fstenv | Fldenv | Fnsave | Fsave | Frstor
            // iced has these as instructions of the 286 and 287.
            | Loadall | Fstdw | Fstsg | Frstpm | Fsetpm | Fnsetpm | Ud0 | Ud1
    );
    let loads_segment = insn.op_count() > 0
        && insn.op_kind(0) == OpKind::Register
        && insn.op_register(0).is_segment_register()
        && insn.mnemonic() != Push;
    let far = matches!(
        insn.code(),
        Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
    );
    let swaps_16 = insn.mnemonic() == Bswap && insn.op0_register().is_gpr16();
    mnemonic || loads_segment || far || swaps_16 || insn.memory_segment() == Register::FS
}

/// Where AMD's and Intel's processors differ.
fn vendors_differ(insn: &Instruction, bytes: &[u8]) -> bool {
    let prefixes = bytes.iter().take_while(
        |&b| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3),
    );
    let repeats = prefixes.clone().any(|&b| matches!(b, 0xf2 | 0xf3));
    let short = prefixes.clone().any(|&b| b == 0x66);
    let rex = prefixes.last().is_some_and(|b| b & 0xf0 == 0x40);
    match insn.mnemonic() {
        // XCHG with R8 on AMD's.
        Mnemonic::Pause => rex,
        Mnemonic::Reservednop => true,
        // Whether a failed comparison clears the destination's upper half.
        Mnemonic::Cmpxchg => insn.code() == Code::Cmpxchg_rm32_r32 && insn.op0_kind() == OpKind::Register,
        // What a repeat prefix makes of them.
        Mnemonic::Loope | Mnemonic::Loopne => short || repeats,
        // Whether the port is checked when nothing is to be done.
        Mnemonic::Insb
        | Mnemonic::Insw
        | Mnemonic::Insd
        | Mnemonic::Outsb
        | Mnemonic::Outsw
        | Mnemonic::Outsd => repeats,
        // AMD's way to CR8.
        Mnemonic::Mov if insn.has_lock_prefix() => (0..2).any(|n| insn.op_register(n).is_cr()),
        // How much it reads.
        Mnemonic::Movsxd => insn.code() == Code::Movsxd_r16_rm16,
        // Whether an operand-size prefix cuts the target.
        _ => short && insn.flow_control() != FlowControl::Next,
    }
}

/// Decoder options under which what would be an invalid LOCK is still told apart from what is no instruction.
const OPTIONS: u32 = DecoderOptions::NO_INVALID_CHECK;

pub struct Generator {
    random: Random,
    info: InstructionInfoFactory,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), info: InstructionInfoFactory::new() }
    }

    pub fn batch(&mut self) -> Batch {
        let arena = values::arena(&mut self.random);
        let mut code = vec![0xcc; CODE_BYTES];
        let cases = (0..BATCH)
            .map(|i| {
                let mut case = self.case(i * SLOT, &arena);
                if i == BATCH - 1 && self.random.one_in(2) {
                    // The last instruction runs into the end of the mapped code.
                    let short = self.random.below(8) as usize;
                    case = self.case(CODE_BYTES - 1 - short, &arena);
                }
                let n = case.code.len().min(CODE_BYTES - case.offset);
                code[case.offset..case.offset + n].copy_from_slice(&case.code[..n]);
                case
            })
            .collect();
        Batch { cases, code, arena }
    }

    /// A case whose code lies at `offset`: one instruction, or up to four, and a jump to the exit.
    fn case(&mut self, offset: usize, arena: &[u8]) -> Case {
        let r = &mut self.random;
        let mut input = State::EMPTY;
        for value in &mut input.gpr {
            *value = if r.one_in(6) { values::arena_address(r, ARENA) } else { values::integer(r) };
        }
        input.gpr[4] = values::arena_address(r, ARENA) & !7;
        input.rflags = r.next() & 0xcd5 & if r.one_in(8) { !0 } else { !(1 << 10) } | 0x202;
        input.fx = values::fx(r);
        let mut case = Case { offset, code: Vec::with_capacity(72), steps: Vec::new(), input };
        let wanted = if r.one_in(2) { 1 } else { 1 + r.below(4) };
        let mut written = 0;
        for _ in 0..wanted {
            written |= self.add(&mut case, written, arena);
        }
        let here = CODE + (offset + case.code.len()) as u64;
        case.code.push(0xe9);
        case.code.extend((EXIT.wrapping_sub(here + 5) as u32).to_le_bytes());
        case
    }

    /// Appends an instruction; gives the general registers it writes. Those in `written` are not what they were.
    fn add(&mut self, case: &mut Case, written: u32, arena: &[u8]) -> u32 {
        loop {
            let mut bytes = self.bytes();
            let ip = CODE + (case.offset + case.code.len()) as u64;
            let Some((insn, offsets)) = decode(&bytes, ip) else { continue };
            let flags = insn.rflags_read();
            if u64::from(rflags(flags)) & case.undefined() != 0 {
                continue;
            }
            bytes.truncate(insn.len());
            if matches!(insn.mnemonic(), Mnemonic::Popf | Mnemonic::Popfq) && !self.bend_flags(case, arena) {
                continue;
            }
            self.bend_constants(&insn, &offsets, &mut bytes, case);
            self.bend_registers(&insn, &mut case.input, written);
            let after = u64::from(rflags(insn.rflags_undefined()));
            let defined = u64::from(rflags(insn.rflags_modified())) & !after;
            // A count of zero in CL or RCX leaves the flags.
            let last = insn.op_count().wrapping_sub(1);
            let counts = insn.has_rep_prefix()
                || insn.has_repne_prefix()
                || insn.op_count() > 1
                    && insn.op_kind(last) == OpKind::Register
                    && insn.op_register(last) == Register::CL;
            let before = case.undefined();
            case.code.extend(&bytes);
            case.steps.push(Step {
                end: case.code.len(),
                undefined: before & if counts { !0 } else { !defined } | after,
            });
            return self.writes(&insn);
        }
    }

    /// The general registers `insn` writes, as bits.
    fn writes(&mut self, insn: &Instruction) -> u32 {
        use iced_x86::OpAccess::*;
        let info = self.info.info(insn);
        info.used_registers()
            .iter()
            .filter(|u| {
                u.register().is_gpr() && matches!(u.access(), Write | CondWrite | ReadWrite | ReadCondWrite)
            })
            .fold(0, |bits, u| bits | 1 << u.register().full_register().number())
    }

    /// Random bytes that look like an instruction.
    fn bytes(&mut self) -> Vec<u8> {
        let r = &mut self.random;
        let mut bytes = Vec::with_capacity(16);
        for (odds, prefixes) in [
            (5, &[0x66u8][..]),
            (10, &[0xf2]),
            (10, &[0xf3]),
            (16, &[0x67]),
            (32, &[0x65]),
            (64, &[0x2e, 0x3e, 0x26, 0x36]),
            (24, &[0xf0]),
        ] {
            if r.one_in(odds) {
                bytes.push(r.pick(prefixes));
            }
        }
        if r.one_in(16) && bytes.len() > 1 {
            bytes.reverse();
        }
        if r.one_in(2) {
            bytes.push(0x40 | r.next() as u8 & 0xf);
        }
        if r.one_in(2) {
            bytes.push(0x0f);
        }
        let rest = r.next().to_le_bytes();
        bytes.extend(rest);
        let more = r.next().to_le_bytes();
        bytes.extend(more);
        bytes.truncate(15);
        bytes
    }

    /// Puts displacements of RIP-relative, absolute and branch operands where they should lead.
    fn bend_constants(
        &mut self,
        insn: &Instruction,
        offsets: &ConstantOffsets,
        bytes: &mut [u8],
        case: &Case,
    ) {
        let r = &mut self.random;
        let next = insn.next_ip();
        if insn.is_ip_rel_memory_operand() && offsets.displacement_size() == 4 {
            let target = values::arena_address(r, ARENA);
            put(bytes, offsets.displacement_offset(), &(target.wrapping_sub(next) as u32).to_le_bytes());
        } else if insn.memory_base() == Register::None && insn.memory_index() == Register::None {
            let gs = if insn.memory_segment() == Register::GS { GS_BASE } else { 0 };
            if offsets.displacement_size() == 4 {
                let base = if gs == 0 { LOW_ARENA } else { ARENA };
                let target = values::arena_address(r, base).wrapping_sub(gs);
                put(bytes, offsets.displacement_offset(), &(target as u32).to_le_bytes());
            } else if offsets.displacement_size() == 8 {
                let target = values::arena_address(r, ARENA).wrapping_sub(gs);
                put(bytes, offsets.displacement_offset(), &target.to_le_bytes());
            }
        }
        if insn.op_count() > 0 && insn.op_kind(0) == OpKind::NearBranch64 {
            // Into the INT3s that follow the longest case.
            let target = CODE + case.offset as u64 + SLOT as u64 - 1 - r.below(4);
            let displacement = target.wrapping_sub(next);
            if offsets.immediate_size() == 1 {
                put(bytes, offsets.immediate_offset(), &[displacement as u8]);
            } else if offsets.immediate_size() == 4 {
                put(bytes, offsets.immediate_offset(), &(displacement as u32).to_le_bytes());
            }
        }
    }

    /// Chooses registers so that memory operands lie in the arena and not every division overflows.
    fn bend_registers(&mut self, insn: &Instruction, input: &mut State, written: u32) {
        let r = &mut self.random;
        if r.one_in(12) {
            return;
        }
        let mut set = |number: usize, value: u64| {
            if written & 1 << number == 0 {
                input.gpr[number] = value;
            }
        };
        for n in 0..insn.op_count() {
            let (register, low) = match insn.op_kind(n) {
                OpKind::MemorySegRSI | OpKind::MemorySegRDI if insn.memory_segment() == Register::GS => {
                    continue;
                }
                OpKind::MemorySegRSI => (6, false),
                OpKind::MemoryESRDI | OpKind::MemorySegRDI => (7, false),
                OpKind::MemorySegESI => (6, true),
                OpKind::MemoryESEDI | OpKind::MemorySegEDI => (7, true),
                _ => continue,
            };
            let base = if low { LOW_ARENA } else { ARENA };
            set(register, values::arena_address(r, base) | if low { r.next() << 32 } else { 0 });
            if insn.has_rep_prefix() || insn.has_repne_prefix() {
                set(1, if r.one_in(16) { values::integer(r) } else { r.below(70) });
            }
        }
        match insn.mnemonic() {
            Mnemonic::Div => set(2, r.below(3)),
            Mnemonic::Idiv => {
                let sign = r.pick(&[0, !0]);
                set(2, sign);
            }
            Mnemonic::Leave | Mnemonic::Enter => set(5, values::arena_address(r, ARENA)),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
                if insn.op0_kind() == OpKind::Memory && insn.op1_kind() == OpKind::Register =>
            {
                let bits = (r.next() as i16 >> 1) as i64 as u64;
                set(insn.op1_register().full_register().number(), bits);
            }
            _ => {}
        }
        self.bend_memory(insn, input, written);
    }

    /// Lets a POPF that comes first find flags with which the host's processor stays in the test. False if it is not first.
    fn bend_flags(&mut self, case: &mut Case, arena: &[u8]) -> bool {
        const OUT: u64 = 1 << 8 | 1 << 14 | 1 << 18;
        if !case.steps.is_empty() {
            return false;
        }
        let offset = self.random.below(WRITABLE as u64 - 8) as usize;
        let flags = arena[offset..offset + 8].iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
        case.input.gpr[4] = ARENA + offset as u64;
        flags & OUT == 0
    }

    fn bend_memory(&mut self, insn: &Instruction, input: &mut State, written: u32) {
        let r = &mut self.random;
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let register = |r: Register| r.is_gpr().then(|| r.full_register().number());
        let narrow = base.is_gpr32() || index.is_gpr32();
        if !(0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory) || base.is_ip() {
            return;
        }
        let mut target = values::arena_address(r, if narrow { LOW_ARENA } else { ARENA });
        if insn.memory_segment() == Register::GS {
            target = target.wrapping_sub(GS_BASE);
        }
        let target = target.wrapping_sub(insn.memory_displacement64());
        let scale = u64::from(insn.memory_index_scale());
        let free = |n: usize| written & 1 << n == 0;
        let high = if narrow { r.next() << 32 } else { 0 };
        match (register(base), register(index)) {
            (Some(b), None) if free(b) => input.gpr[b] = target & mask(narrow) | high,
            (Some(b), Some(i)) if b == i && free(b) => {
                input.gpr[b] = (target / (scale + 1)) & mask(narrow) | high
            }
            (Some(b), Some(i)) if free(b) => {
                if free(i) && r.one_in(2) {
                    input.gpr[i] = r.below(64).wrapping_sub(32);
                }
                input.gpr[b] = target.wrapping_sub(input.gpr[i].wrapping_mul(scale)) & mask(narrow) | high;
            }
            (None, Some(i)) if free(i) => input.gpr[i] = (target / scale) & mask(narrow) | high,
            _ => {}
        }
    }
}

fn mask(narrow: bool) -> u64 {
    if narrow { 0xffff_ffff } else { !0 }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The instruction at the start of `bytes`, if it may be tried.
fn decode(bytes: &[u8], ip: u64) -> Option<(Instruction, ConstantOffsets)> {
    let mut decoder = Decoder::with_ip(64, bytes, ip, OPTIONS);
    let insn = decoder.decode();
    if insn.is_invalid()
        || barred(&insn)
        || vendors_differ(&insn, bytes)
        || !insn.cpuid_features().iter().all(|&f| has(f))
    {
        return None;
    }
    Some((insn, decoder.get_constant_offsets(&insn)))
}

/// iced's flag bits as RFLAGS has them, without those that are not compared.
fn rflags(bits: u32) -> u32 {
    use iced_x86::RflagsBits as B;
    [(B::CF, 0), (B::PF, 2), (B::AF, 4), (B::ZF, 6), (B::SF, 7), (B::OF, 11)]
        .iter()
        .fold(0, |out, &(bit, at)| out | u32::from(bits & bit != 0) << at)
}
