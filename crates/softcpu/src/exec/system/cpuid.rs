//! What the processor says of itself: CPUID, time stamps, counters, and calls to the hypervisor.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op, leave, slot, step};
use crate::system::CpuidEntry;

/// CR4.TSD: RDTSC is privileged.
const CR4_TSD: u64 = 1 << 2;
/// CPUID.1:EDX.APIC, which follows IA32_APIC_BASE, and CPUID.1:ECX.OSXSAVE, which follows CR4.
const FEATURE_APIC: u32 = 1 << 9;
const FEATURE_OSXSAVE: u32 = 1 << 27;
/// "Auth", the beginning of AMD's name.
const AMD: u32 = u32::from_le_bytes(*b"Auth");
/// KVM's answers to hypercalls: not from user mode, and no such call (Linux, Documentation/virt/kvm/x86/hypercalls.rst).
const KVM_EPERM: u64 = -1i64 as u64;
const KVM_ENOSYS: u64 = -1000i64 as u64;

pub(super) fn lower(insn: &Instruction, _: &mut Op) -> Option<Lowered> {
    match insn.mnemonic() {
        Mnemonic::Cpuid => Lowered::end(leave(cpuid)),
        Mnemonic::Rdtsc => Lowered::step(step(rdtsc)),
        Mnemonic::Rdtscp => Lowered::step(step(rdtscp)),
        // There are no counters.
        Mnemonic::Rdpmc => Lowered::step(step(|cpu: &mut Cpu, _: &Op| Err(cpu.gp0()))),
        Mnemonic::Vmcall | Mnemonic::Vmmcall => Lowered::step(step(hypercall)),
        _ => None,
    }
}

impl Cpu {
    /// The line of the CPUID table for a leaf and sub-leaf.
    fn cpuid_entry(&self, leaf: u32, subleaf: u32) -> Option<&CpuidEntry> {
        self.cpuid.iter().find(|e| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf))
    }

    /// Bit `bit` of a register of CPUID leaf `leaf`, sub-leaf 0.
    pub(super) fn cpuid_bit(&self, leaf: u32, register: impl Fn(&CpuidEntry) -> u32, bit: u32) -> bool {
        self.cpuid_entry(leaf, 0).is_some_and(|e| register(e) >> bit & 1 != 0)
    }

    /// Whether the processor says it is AMD's: SYSCALL, SYSENTER and some MSRs differ.
    pub(super) fn is_amd(&self) -> bool {
        self.cpuid_entry(0, 0).is_some_and(|e| e.ebx == AMD)
    }

    /// This processor's time-stamp counter.
    pub(crate) fn time_stamp(&self) -> u64 {
        self.system.clock.tsc().wrapping_add(self.tsc_offset)
    }
}

fn cpuid(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.serialise();
    let (leaf, subleaf) = (cpu.get::<u32>(slot::RAX), cpu.get::<u32>(slot::RCX));
    let mut entry = cpu.cpuid_entry(leaf, subleaf).copied().unwrap_or_default();
    match leaf {
        1 => {
            entry.ebx = entry.ebx & 0x00ff_ffff | cpu.mailbox.apic_id() << 24;
            entry.ecx &= !FEATURE_OSXSAVE;
            if !cpu.apic_enabled() {
                entry.edx &= !FEATURE_APIC;
            }
        }
        // Sub-leaves beyond the last still say which they are, and which processor this is.
        0xb if entry.leaf == 0 => {
            entry.ecx = subleaf & 0xff;
            entry.edx = cpu.cpuid_entry(0xb, 0).map_or(0, |e| e.edx);
        }
        _ => {}
    }
    cpu.set::<u32>(slot::RAX, entry.eax);
    cpu.set::<u32>(slot::RBX, entry.ebx);
    cpu.set::<u32>(slot::RCX, entry.ecx);
    cpu.set::<u32>(slot::RDX, entry.edx);
    Ok(cpu.next_rip(op))
}

fn rdtsc(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    if cpu.cr4 & CR4_TSD != 0 && cpu.cpl != 0 {
        return Err(cpu.gp0());
    }
    let tsc = cpu.time_stamp();
    cpu.set::<u32>(slot::RAX, tsc as u32);
    cpu.set::<u32>(slot::RDX, (tsc >> 32) as u32);
    Ok(())
}

fn rdtscp(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    rdtsc(cpu, op)?;
    cpu.set::<u32>(slot::RCX, cpu.msrs.tsc_aux as u32);
    Ok(())
}

fn hypercall(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let answer = if cpu.cpl == 0 { KVM_ENOSYS } else { KVM_EPERM };
    if cpu.long_mode() {
        cpu.set::<u64>(slot::RAX, answer);
    } else {
        cpu.set::<u32>(slot::RAX, answer as u32);
    }
    Ok(())
}
