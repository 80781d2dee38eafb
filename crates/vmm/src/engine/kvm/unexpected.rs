//! What to tell a person when KVM cannot go on.

use std::fmt::Write;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX, kvm_run,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::Ram;

/// The longest instruction (Intel SDM vol. 2, 2.3.11).
const LONGEST: usize = 15;

/// The reason of KVM_EXIT_INTERNAL_ERROR.
pub(super) fn internal_error(run: &kvm_run) -> String {
    // SAFETY: KVM has exited with KVM_EXIT_INTERNAL_ERROR, so this member of the union is the valid one.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let why = match internal.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "KVM cannot emulate an instruction",
        KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions came in a way KVM cannot handle",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "KVM cannot deliver an event",
        other => return format!("KVM reports internal error {other}"),
    };
    why.to_owned()
}

/// Registers, and the bytes about to be executed.
pub(super) fn describe(vcpu: &VcpuFd, ram: &Ram) -> String {
    let (Ok(r), Ok(s)) = (vcpu.get_regs(), vcpu.get_sregs()) else {
        return "its registers cannot be read".into();
    };
    let mut text = format!("cs:rip {:x}:{:x}, bytes", s.cs.selector, r.rip);
    let linear = s.cs.base.wrapping_add(r.rip);
    let gpa = vcpu.translate_gva(linear).ok().filter(|t| t.valid != 0).map(|t| t.physical_address);
    let mut bytes = [0; LONGEST];
    // Not beyond the page: the next one may lie elsewhere.
    let len = LONGEST.min(4096 - (linear & 0xfff) as usize);
    match gpa.map(|gpa| ram.memory().read_slice(&mut bytes[..len], GuestAddress(gpa))) {
        Some(Ok(())) => text += &bytes[..len].iter().map(|byte| format!(" {byte:02x}")).collect::<String>(),
        _ => text += " unknown",
    }
    let registers = [
        ("rax", r.rax),
        ("rbx", r.rbx),
        ("rcx", r.rcx),
        ("rdx", r.rdx),
        ("rsi", r.rsi),
        ("rdi", r.rdi),
        ("rsp", r.rsp),
        ("rbp", r.rbp),
        ("rflags", r.rflags),
        ("cr0", s.cr0),
        ("cr2", s.cr2),
        ("cr3", s.cr3),
        ("cr4", s.cr4),
        ("efer", s.efer),
    ];
    for (name, value) in registers {
        let _ = write!(text, ", {name} {value:x}");
    }
    text
}
