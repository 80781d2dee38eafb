//! Comparing two results, and telling a person what differs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, Mnemonic, NasmFormatter, OpKind, Register};

use crate::layout::*;

/// RFLAGS bits that are compared: the arithmetic flags and DF.
const FLAGS: u64 = 0xcd5;
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
/// From here on up addresses are the kernel's, or nobody's, on the host.
const LAST_USER_PAGE: u64 = 0x7fff_ffff_f000;
/// Different failures told in full.
const MOST: usize = 4000;

#[derive(Default)]
pub struct Report {
    cases: u64,
    ended: u64,
    lost: u64,
    failures: u64,
    /// By the instructions' names: how often, and the first in full.
    kinds: BTreeMap<String, (u64, String)>,
    vectors: BTreeMap<u64, u64>,
}

impl Report {
    pub fn is_full(&self) -> bool {
        self.kinds.len() >= MOST
    }

    /// The child did not survive `case`: nothing to compare with, and the case should not have been generated.
    pub fn lost(&mut self, seed: u64, case: &Case) {
        self.lost += 1;
        self.note(seed, case, "the host's processor did not come back\n".into());
    }

    pub fn compare(
        &mut self,
        seed: u64,
        case: &Case,
        host: (&State, &[u8; WRITABLE]),
        soft: (&State, &[u8]),
    ) {
        self.cases += 1;
        self.ended += u64::from(host.0.vector == NO_VECTOR);
        *self.vectors.entry(host.0.vector).or_default() += 1;
        let mut text = String::new();
        let comparable = differences(&mut text, case, host.0, soft.0);
        if comparable && host.1 != soft.1 {
            let left_open = [return_address_of_faulting_call, faulting_long_store]
                .map(|range| range(case, host.0, soft.0));
            let is_open = |at: usize| left_open.iter().any(|range| range.contains(&(at as u64)));
            let differ = |&(at, (h, s)): &(usize, (&u8, &u8))| h != s && !is_open(at);
            for (at, (h, s)) in host.1.iter().zip(soft.1).enumerate().filter(differ).take(16) {
                let _ = writeln!(text, "  arena+{at:#x}: host {h:02x} soft {s:02x}");
            }
        }
        if !text.is_empty() {
            self.note(seed, case, text);
        }
    }

    fn note(&mut self, seed: u64, case: &Case, text: String) {
        self.failures += 1;
        let (names, listing) = disassemble(case);
        let (count, _) = self.kinds.entry(names).or_insert_with(|| {
            let mut full = format!("{listing}{text}");
            describe(&mut full, &case.input);
            let _ = writeln!(full, "  again: TESSERA_FUZZ_SEED={seed} TESSERA_FUZZ_CASES={BATCH}");
            (0, full)
        });
        *count += 1;
    }

    /// Tells everything; panics if anything failed.
    pub fn finish(self) {
        println!("{} cases, {} ran to their end, {} lost", self.cases, self.ended, self.lost);
        println!("exceptions: {:?}", self.vectors);
        for (names, (count, full)) in &self.kinds {
            println!("--- {names}: {count} times, the first:\n{full}");
        }
        assert_eq!(self.failures, 0, "the two processors disagree");
    }
}

fn disassemble(case: &Case) -> (String, String) {
    let mut decoder =
        Decoder::with_ip(64, &case.code, CODE + case.offset as u64, DecoderOptions::NO_INVALID_CHECK);
    let mut formatter = NasmFormatter::new();
    let (mut names, mut listing) = (String::new(), String::new());
    for _ in &case.steps {
        let insn = decoder.decode();
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        let start = (insn.ip() - CODE) as usize - case.offset;
        let bytes: String = case.code[start..start + insn.len()].iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(listing, "  {:x}: {bytes:30} {text}", insn.ip());
        if !names.is_empty() {
            names.push_str("; ");
        }
        let _ = write!(names, "{:?}", insn.code());
    }
    (names, listing)
}

/// The instruction of `case` at `rip`.
fn instruction(case: &Case, rip: u64) -> Option<Instruction> {
    let at = rip.wrapping_sub(CODE + case.offset as u64) as usize;
    let rest = case.code.get(at..)?;
    Some(Decoder::with_ip(64, rest, rip, DecoderOptions::NO_INVALID_CHECK).decode())
}

/// The instruction that ended the case.
fn faulting(case: &Case, end: &State) -> Mnemonic {
    instruction(case, end.rip).map_or(Mnemonic::INVALID, |insn| insn.mnemonic())
}

/// Whether the instruction at `rip` has an operand in a segment that does not begin at 0.
fn of_segment_with_base(case: &Case, rip: u64) -> bool {
    instruction(case, rip).is_some_and(|insn| insn.memory_segment() == Register::GS)
}

/// The offsets in the arena that a CALL to no canonical address may or may not have written: Intel's manual looks at the target
/// first, and processors of Intel's push first (Rocket Lake).
fn return_address_of_faulting_call(case: &Case, host: &State, soft: &State) -> Range<u64> {
    if faulting(case, host) != Mnemonic::Call || (host.vector, soft.vector) != (13, 13) {
        return 0..0;
    }
    let at = host.gpr[4].wrapping_sub(8);
    [ARENA, LOW_ARENA]
        .map(|base| at.wrapping_sub(base))
        .into_iter()
        .find(|&offset| offset < WRITABLE as u64)
        .map_or(0..0, |offset| offset..offset + 8)
}

/// Whether the host met an unmasked x87 exception in a store whose address is no good: some processors then store nothing and
/// never look at the address (Rocket Lake), others fault. Their order within one instruction is up to the processor (SDM
/// vol. 3, table 7-2).
fn ran_past_the_store(case: &Case, host: &State, soft: &State) -> bool {
    use Mnemonic::{Fbstp, Fist, Fistp, Fisttp, Fst, Fstp};
    const ERROR_SUMMARY: u8 = 1 << 7;
    let stores = matches!(faulting(case, soft), Fbstp | Fist | Fistp | Fisttp | Fst | Fstp);
    stores && matches!(soft.vector, 12..=14) && host.rip != soft.rip && host.fx[2] & ERROR_SUMMARY != 0
}

/// Whether the instruction may have gone over to MMX before it faulted, or not: Intel's manual leaves it open. AMD's processors
/// do before some conversions, some of Intel's before a store (Rocket Lake).
fn may_have_gone_over_to_mmx(case: &Case, host: &State) -> bool {
    use Mnemonic::{Cvtpd2pi, Cvtpi2pd, Cvtpi2ps, Cvtps2pi, Cvttpd2pi, Cvttps2pi, Movd, Movntq, Movq};
    host.vector != NO_VECTOR
        && match faulting(case, host) {
            Cvtpd2pi | Cvtpi2pd | Cvtpi2ps | Cvtps2pi | Cvttpd2pi | Cvttps2pi | Movntq => true,
            Movd | Movq => instruction(case, host.rip).is_some_and(|insn| insn.op_register(1).is_mm()),
            _ => false,
        }
}

/// Whether an instruction is a string instruction that is done again and again.
fn is_repeated(insn: &Instruction) -> bool {
    insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix())
}

/// Whether a string instruction with addresses of 32 bits has cleared the upper halves of its registers on one processor and not on the other:
/// some of Intel's do before the first element, and if there is none (Emerald Rapids); others with the first one.
fn differ_by_narrow_string(case: &Case, host: &State, soft: &State) -> bool {
    let narrow = |kind| matches!(kind, OpKind::MemorySegESI | OpKind::MemoryESEDI);
    let starts = [0].into_iter().chain(case.steps.iter().map(|step| step.end));
    let mut insns = starts.filter_map(|at| instruction(case, CODE + (case.offset + at) as u64));
    let upper_halves = |state: &State| [1, 6, 7].map(|register: usize| state.gpr[register] >> 32);
    upper_halves(host) != upper_halves(soft)
        && insns.any(|insn| is_repeated(&insn) && insn.op_kinds().any(narrow))
}

/// The bits of RFLAGS that a repeated comparison which faulted leaves open: some processors of Intel's have those of the last element before it
/// (Emerald Rapids), where Intel's manual has those from before all of it (vol. 2, REP).
fn left_open_by_comparison(case: &Case, host: &State) -> u64 {
    use Mnemonic::{Cmpsb, Cmpsd, Cmpsq, Cmpsw, Scasb, Scasd, Scasq, Scasw};
    const STATUS_FLAGS: u64 = 0x8d5;
    let compares = |insn: &Instruction| {
        is_repeated(insn)
            && matches!(insn.mnemonic(), Cmpsb | Cmpsd | Cmpsq | Cmpsw | Scasb | Scasd | Scasq | Scasw)
    };
    let ended = instruction(case, host.rip).filter(|_| host.vector != NO_VECTOR);
    if ended.is_some_and(|insn| compares(&insn)) { STATUS_FLAGS } else { 0 }
}

/// The offsets in the arena that a store of 80 bits may or may not have written when it faulted at the arena's end: some processors
/// look at both pages first (Emerald Rapids).
fn faulting_long_store(case: &Case, host: &State, soft: &State) -> Range<u64> {
    use Mnemonic::{Fbstp, Fstp};
    let faults = [host, soft].iter().all(|state| matches!(state.vector, 12..=14));
    match faults && matches!(faulting(case, host), Fbstp | Fstp) {
        true => WRITABLE as u64 - 10..WRITABLE as u64,
        false => 0..0,
    }
}

/// Writes down what differs in the registers. False if the memory may differ.
fn differences(text: &mut String, case: &Case, host: &State, soft: &State) -> bool {
    let faulting = faulting(case, host);
    let masked = |m| matches!(m, Mnemonic::Maskmovq | Mnemonic::Maskmovdqu);
    if masked(faulting) || masked(self::faulting(case, soft)) {
        // Which bytes fault when the mask leaves some out is up to the processor.
        return false;
    }
    if ran_past_the_store(case, host, soft) || differ_by_narrow_string(case, host, soft) {
        return false;
    }
    const MISALIGNED: u8 = 1 << 1;
    if host.fx[26] & MISALIGNED != 0 {
        // LDMXCSR set AMD's MXCSR.MM, which this processor does not have.
        return false;
    }
    // Intel's processors look whether the sum of address and segment base is canonical (SDM vol. 1, 3.3.7.1); AMD's look at
    // the address alone as well.
    if (host.vector, soft.vector, host.rip) == (13, 14, soft.rip) && of_segment_with_base(case, host.rip) {
        return false;
    }
    // Which of two operands faults first is up to the processor: a call's target or the stack, a string or the other.
    use Mnemonic::{Call, Cmpsb, Cmpsd, Cmpsq, Cmpsw};
    let unordered = matches!(faulting, Call | Cmpsb | Cmpsd | Cmpsq | Cmpsw)
        && [host, soft].iter().all(|s| matches!(s.vector, 12..=14));
    let mut field = |name: &str, h: u64, s: u64| {
        if h != s {
            let _ = writeln!(text, "  {name}: host {h:#x} soft {s:#x}");
        }
    };
    if !unordered {
        field("vector", host.vector, soft.vector);
    }
    field("rip", host.rip, soft.rip);
    for (i, name) in NAMES.iter().enumerate() {
        field(name, host.gpr[i], soft.gpr[i]);
    }
    let mask = FLAGS & !case.undefined_at(host.rip) & !left_open_by_comparison(case, host);
    field("rflags", host.rflags & mask, soft.rflags & mask);
    if !unordered && host.vector == soft.vector && matches!(host.vector, 10..=14 | 17) {
        // The kernel says "present" of every address that is its own.
        let kernel = if host.vector == 14 && host.cr2 >= LAST_USER_PAGE { 1 } else { 0 };
        field("error code", host.error | kernel, soft.error | kernel);
    }
    if !unordered && host.vector == 14 && soft.vector == 14 {
        field("cr2", host.cr2, soft.cr2);
    }
    let word = |fx: &[u8; 512], at: usize, n: usize| {
        fx[at..at + n].iter().rev().fold(0u128, |v, &b| v << 8 | u128::from(b))
    };
    if may_have_gone_over_to_mmx(case, host) {
        return true;
    }
    field("fcw", word(&host.fx, 0, 2) as u64, word(&soft.fx, 0, 2) as u64);
    field("fsw", word(&host.fx, 2, 2) as u64, word(&soft.fx, 2, 2) as u64);
    field("ftw", host.fx[4].into(), soft.fx[4].into());
    // An unmasked overflow or underflow hides that the result was also inexact on AMD's processors.
    let inexact = if host.vector == 19 { 1 << 5 } else { 0 };
    field("mxcsr", word(&host.fx, 24, 4) as u64 | inexact, word(&soft.fx, 24, 4) as u64 | inexact);
    for i in 0..24 {
        let (at, n) = if i < 8 { (32 + i * 16, 10) } else { (160 + (i - 8) * 16, 16) };
        let (h, s) = (word(&host.fx, at, n), word(&soft.fx, at, n));
        if h != s {
            let name = if i < 8 { format!("st{i}") } else { format!("xmm{}", i - 8) };
            let _ = writeln!(text, "  {name}: host {h:#x} soft {s:#x}");
        }
    }
    true
}

fn describe(text: &mut String, input: &State) {
    let _ = write!(text, "  from:");
    for (name, value) in NAMES.iter().zip(input.gpr) {
        let _ = write!(text, " {name}={value:#x}");
    }
    let fx = &input.fx;
    let _ = writeln!(
        text,
        " rflags={:#x} fcw={:02x}{:02x} fsw={:02x}{:02x} ftw={:02x} mxcsr={:02x}{:02x}",
        input.rflags, fx[1], fx[0], fx[3], fx[2], fx[4], fx[25], fx[24]
    );
}
