//! Every floating-point, SSE and MMX instruction, executed by its handler and by the host itself on the same state.

mod faults;
mod processor;
mod random;
mod state;

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction};

use processor::{processor, step};
use random::Random;
use state::{HostCode, State};

/// Where the memory operand lies in the guest.
const OPERAND: u64 = 0x2000;
/// Bytes of it that are compared.
const OPERAND_LEN: usize = 512;

/// States tried with each encoding.
const ROUNDS: usize = 10;

fn decode(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode()
}

/// Whether `insn` is one of those that are compared.
fn is_ours(insn: &Instruction) -> bool {
    use CpuidFeature::*;
    use iced_x86::Mnemonic::*;
    // Fences and hints are another file's.
    let orders = matches!(
        insn.mnemonic(),
        Lfence | Mfence | Sfence | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2
    );
    !insn.is_invalid()
        && !orders
        && insn
            .cpuid_features()
            .iter()
            .all(|f| matches!(f, FPU | FPU287 | FPU387 | MMX | SSE | SSE2 | SSE3 | FXSR | CMOV))
        && insn.cpuid_features().iter().any(|f| !matches!(f, CMOV))
}

/// Calls `f` with each encoding to compare (the immediate, if any, is the last byte).
fn each_encoding(mut f: impl FnMut(&mut Vec<u8>, &Instruction)) {
    let mut seen = |bytes: &mut Vec<u8>| {
        bytes.push(0);
        let insn = decode(bytes);
        let usable = |n| !insn.op_register(n).is_gpr() || insn.op_register(n).number() <= 2;
        if is_ours(&insn) && (0..insn.op_count()).all(usable) {
            bytes.truncate(insn.len());
            f(bytes, &insn);
        }
    };
    let prefixes: [&[u8]; 8] =
        [&[], &[0x66], &[0xf3], &[0xf2], &[0x48], &[0x66, 0x48], &[0xf3, 0x48], &[0xf2, 0x48]];
    let modrms = (0..8u8).flat_map(|reg| [0xc2, 0xc1, 0x06].map(|m| m | reg << 3)).chain([0xf8]);
    for prefix in prefixes {
        for opcode in 0..=255 {
            if opcode == 0x77 {
                seen(&mut [prefix, &[0x0f, opcode]].concat());
                continue;
            }
            for modrm in modrms.clone() {
                seen(&mut [prefix, &[0x0f, opcode, modrm]].concat());
            }
        }
        if prefix.len() < 2 {
            for escape in 0xd8..=0xdf {
                (0xc0..=0xff).for_each(|modrm| seen(&mut [prefix, &[escape, modrm]].concat()));
                (0..8).for_each(|reg| seen(&mut [prefix, &[escape, reg << 3 | 6]].concat()));
            }
        }
    }
}

/// Makes what `insn` loads from memory something it can load.
fn make_loadable(insn: &Instruction, state: &mut State) {
    let at = match insn.code() {
        Code::Ldmxcsr_m32 => 0,
        Code::Fxrstor_m512byte | Code::Fxrstor64_m512byte => 24,
        _ => return,
    };
    state.memory[at + 2..at + 4].fill(0);
    state.memory[at] |= 0x80;
    state.memory[at + 1] |= 0x1f;
}

#[test]
fn every_instruction_does_what_the_host_does() {
    let (mut cpu, operand) = processor();
    let host = HostCode::new();
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut count, mut unknown, mut wrong) = (0, Vec::new(), Vec::new());
    each_encoding(|bytes, insn| {
        count += 1;
        for round in 0..ROUNDS {
            if insn.op_count() > 0 && insn.op_kind(insn.op_count() - 1) == iced_x86::OpKind::Immediate8 {
                *bytes.last_mut().unwrap() = random.next() as u8;
            }
            let insn = decode(bytes);
            let mut before = random.state();
            make_loadable(&insn, &mut before);
            let mut expected = before.clone();
            before.put(&mut cpu, operand);
            if random.below(4) == 0 {
                cpu.flush_tlb(true);
            }
            let Some(result) = step(&mut cpu, &insn) else {
                unknown.push(insn.code());
                return;
            };
            host.run(bytes, &mut expected);
            let got = State::of_cpu(&cpu, operand, &before);
            let mut differences = got.differences(&expected, &insn);
            if let Err(pending) = result {
                differences.push(format!("handler raised {pending:?}"));
            }
            if !differences.is_empty() {
                wrong.push(format!(
                    "{insn} ({bytes:02x?}), round {round}, fcw {:04x} fsw {:04x} tags {:02x} mxcsr {:02x?} st0 {:02x?}\n  {}",
                    before.word(0), before.word(2), before.fx[4], &before.fx[24..28], &before.fx[32..42],
                    differences.join("\n  ")
                ));
                return;
            }
        }
    });
    unknown.dedup();
    assert!(count > 1000, "only {count} encodings");
    assert!(wrong.is_empty(), "{} of {count} encodings differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(unknown.is_empty(), "not executed: {unknown:?}");
}
