//! The model-specific registers that are state, and their order of restoring.

use kvm_bindings::{Msrs as MsrList, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use softcpu::{CpuState, CpuidEntry, Msrs};

use crate::engine::EngineError;

const IA32_TSC: u32 = 0x10;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// CPUID.7:EDX.ARCH_CAPABILITIES.
const HAS_ARCH_CAPABILITIES: u32 = 1 << 29;
const KVM_STEAL_TIME: u32 = 0x4b56_4d03;
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// MTRRphysBase0 … MTRRphysMask7.
const MTRR_VARIABLE: u32 = 0x200;
const MTRR_DEF_TYPE: u32 = 0x2ff;

/// The registers of [`Msrs`] by number (Intel SDM vol. 4; KVM's from Linux, Documentation/virt/kvm/x86/msr.rst).
fn fields(m: &mut Msrs) -> Vec<(u32, &mut u64)> {
    let mut list = vec![
        (0xc000_0081, &mut m.star),
        (0xc000_0082, &mut m.lstar),
        (0xc000_0083, &mut m.cstar),
        (0xc000_0084, &mut m.sfmask),
        (0xc000_0102, &mut m.kernel_gs_base),
        (0x174, &mut m.sysenter_cs),
        (0x175, &mut m.sysenter_esp),
        (0x176, &mut m.sysenter_eip),
        (0x277, &mut m.pat),
        (0x1a0, &mut m.misc_enable),
        (0xc000_0103, &mut m.tsc_aux),
        (0x3b, &mut m.tsc_adjust),
        (MTRR_DEF_TYPE, &mut m.mtrr_def_type),
        (0x4b56_4d01, &mut m.kvm_system_time),
        (0x4b56_4d00, &mut m.kvm_wall_clock),
        (KVM_STEAL_TIME, &mut m.kvm_steal_time),
        (0x48, &mut m.spec_ctrl),
        (0x1d9, &mut m.debugctl),
    ];
    list.extend(MTRR_FIXED.into_iter().zip(&mut m.mtrr_fixed));
    list.extend((MTRR_VARIABLE..).zip(&mut m.mtrr_variable));
    list
}

/// Reads one register; `None` if KVM does not have it.
fn read(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut list = MsrList::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).ok()?;
    match vcpu.get_msrs(&mut list) {
        Ok(1) => list.as_slice().first().map(|e| e.data),
        _ => None,
    }
}

/// Writes one register.
///
/// # Errors
/// If KVM refuses it: the error names the register.
fn write(vcpu: &VcpuFd, index: u32, data: u64) -> Result<(), EngineError> {
    let refused =
        || EngineError::State { why: format!("KVM refuses the value {data:#x} for MSR {index:#x}") };
    let list = MsrList::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }])
        .map_err(|_| refused())?;
    match vcpu.set_msrs(&list) {
        Ok(1) => Ok(()),
        _ => Err(refused()),
    }
}

/// Tells a guest which side channels the host's processor does not have, if it is told of that register at all.
pub(super) fn tell_capabilities(kvm: &Kvm, vcpu: &VcpuFd, table: &[CpuidEntry]) {
    if !table.iter().any(|e| e.leaf == 7 && e.edx & HAS_ARCH_CAPABILITIES != 0) {
        return;
    }
    let wanted = [kvm_msr_entry { index: IA32_ARCH_CAPABILITIES, ..Default::default() }];
    let Ok(mut list) = MsrList::from_entries(&wanted) else { return };
    if let (Ok(1), Some(entry)) = (kvm.get_msrs(&mut list), list.as_slice().first())
        && let Err(error) = write(vcpu, IA32_ARCH_CAPABILITIES, entry.data)
    {
        tracing::debug!(%error, "the guest will take precautions that it does not need");
    }
}

/// Reads all registers that are state and that KVM has (`supported`, from KVM_GET_MSR_INDEX_LIST, which leaves out MTRRs).
pub(super) fn save(vcpu: &VcpuFd, supported: &[u32], state: &mut CpuState) {
    for (index, value) in fields(&mut state.msrs) {
        if supported.contains(&index) || (MTRR_VARIABLE..=MTRR_DEF_TYPE).contains(&index) {
            *value = read(vcpu, index).unwrap_or(*value);
        }
    }
    state.apic.tsc_deadline = read(vcpu, IA32_TSC_DEADLINE).unwrap_or(0);
}

/// Writes them back: the TSC deadline last, because it needs the local APIC and the TSC. A register that is zero and that
/// KVM does not know is passed over.
///
/// # Errors
/// If KVM refuses a register that matters.
pub(super) fn restore(vcpu: &VcpuFd, supported: &[u32], state: &CpuState) -> Result<(), EngineError> {
    let mut msrs = state.msrs.clone();
    for (index, value) in fields(&mut msrs) {
        // A kernel that does not know for how long threads wait (sched_info_on) lists that register, and refuses to read and to write it.
        let needless = index == KVM_STEAL_TIME && read(vcpu, index).unwrap_or(0) == *value;
        if (*value != 0 || supported.contains(&index)) && !needless {
            write(vcpu, index, *value)?;
        }
    }
    if state.apic.tsc_deadline != 0 {
        write(vcpu, IA32_TSC_DEADLINE, state.apic.tsc_deadline)?;
    }
    Ok(())
}

/// Where the guest wants to be told of its steal time, if it does.
pub(super) fn steal_time(vcpu: &VcpuFd) -> Option<u64> {
    read(vcpu, KVM_STEAL_TIME)
}

/// Makes KVM compute anew when the TSC reaches its deadline, after the TSC was changed.
pub(super) fn rearm(vcpu: &VcpuFd) -> Result<(), EngineError> {
    match read(vcpu, IA32_TSC_DEADLINE) {
        Some(deadline) if deadline != 0 => write(vcpu, IA32_TSC_DEADLINE, deadline),
        _ => Ok(()),
    }
}

/// The TSC now.
pub(super) fn read_tsc(vcpu: &VcpuFd) -> u64 {
    read(vcpu, IA32_TSC).unwrap_or(0)
}

/// Asks for a value of the TSC, which KVM may take or leave.
pub(super) fn write_tsc(vcpu: &VcpuFd, tsc: u64) -> Result<(), EngineError> {
    write(vcpu, IA32_TSC, tsc)
}
