//! Between KVM's registers and the engine-neutral [`CpuState`].

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_xsave,
};
use softcpu::{Activity, ApicState, CpuState, Segment, TableRegister, X87};

/// Bytes of the register page KVM_GET_LAPIC gives.
const APIC_PAGE: usize = 1024;

pub(super) fn segment_from_kvm(s: &kvm_segment) -> Segment {
    let rights = u16::from(s.type_ & 15)
        | u16::from(s.s & 1) << 4
        | u16::from(s.dpl & 3) << 5
        | u16::from(s.present & 1) << 7
        | u16::from(s.avl & 1) << 12
        | u16::from(s.l & 1) << 13
        | u16::from(s.db & 1) << 14
        | u16::from(s.g & 1) << 15;
    Segment { selector: s.selector, base: s.base, limit: s.limit, rights, unusable: s.unusable != 0 }
}

pub(super) fn segment_to_kvm(s: &Segment) -> kvm_segment {
    let bit = |n: u32| (s.rights >> n & 1) as u8;
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.kind(),
        present: bit(7),
        dpl: s.dpl(),
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: u8::from(s.unusable),
        padding: 0,
    }
}

fn table_from_kvm(t: &kvm_dtable) -> TableRegister {
    TableRegister { base: t.base, limit: t.limit }
}

fn table_to_kvm(t: &TableRegister) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

/// General registers out of KVM.
pub(super) fn read_regs(state: &mut CpuState, r: &kvm_regs) {
    state.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ];
    state.rip = r.rip;
    state.rflags = r.rflags;
}

/// General registers into KVM.
pub(super) fn regs(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: state.rip,
        rflags: state.rflags,
    }
}

/// Segments and control registers out of KVM.
pub(super) fn read_sregs(state: &mut CpuState, s: &kvm_sregs) {
    state.segments = [&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs].map(segment_from_kvm);
    state.ldtr = segment_from_kvm(&s.ldt);
    state.tr = segment_from_kvm(&s.tr);
    state.gdtr = table_from_kvm(&s.gdt);
    state.idtr = table_from_kvm(&s.idt);
    (state.cr0, state.cr2, state.cr3, state.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
    state.efer = s.efer;
    state.apic.base = s.apic_base;
}

/// Segments and control registers into KVM.
pub(super) fn sregs(state: &CpuState) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = [0, 1, 2, 3, 4, 5].map(|i: usize| segment_to_kvm(&state.segments[i]));
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: segment_to_kvm(&state.tr),
        ldt: segment_to_kvm(&state.ldtr),
        gdt: table_to_kvm(&state.gdtr),
        idt: table_to_kvm(&state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: u64::from(state.apic.registers.get(register::TPR).copied().unwrap_or(0) >> 4 & 15),
        efer: state.efer,
        apic_base: state.apic.base,
        interrupt_bitmap: [0; 4],
    }
}

/// The FXSAVE image at the start of the XSAVE area (Intel SDM vol. 1, table 10-2), out of KVM. KVM has ST(i) where
/// [`X87`] has physical registers.
pub(super) fn read_fpu(state: &mut CpuState, x: &kvm_xsave) {
    let image: Vec<u8> = x.region.iter().take(128).flat_map(|w| w.to_le_bytes()).collect();
    let u16_at = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let status = u16_at(2);
    let top = usize::from(status >> 11 & 7);
    let mut x87 = X87 {
        control: u16_at(0),
        status,
        tags: image[4],
        opcode: u16_at(6) & 0x7ff,
        instruction: u64_at(8),
        operand: u64_at(16),
        ..X87::default()
    };
    for i in 0..8 {
        x87.regs[(top + i) & 7].copy_from_slice(&image[32 + 16 * i..42 + 16 * i]);
    }
    state.x87 = x87;
    state.mxcsr = u32_at(24);
    for (i, xmm) in state.xmm.iter_mut().enumerate() {
        *xmm = u128::from(u64_at(160 + 16 * i)) | u128::from(u64_at(168 + 16 * i)) << 64;
    }
}

/// The FXSAVE image and header of an XSAVE area with x87 and SSE state, laid over `x` as KVM gave it.
pub(super) fn write_fpu(state: &CpuState, x: &mut kvm_xsave) {
    let mut image = [0u8; 512];
    image[0..2].copy_from_slice(&state.x87.control.to_le_bytes());
    image[2..4].copy_from_slice(&state.x87.status.to_le_bytes());
    image[4] = state.x87.tags;
    image[6..8].copy_from_slice(&state.x87.opcode.to_le_bytes());
    image[8..16].copy_from_slice(&state.x87.instruction.to_le_bytes());
    image[16..24].copy_from_slice(&state.x87.operand.to_le_bytes());
    image[24..28].copy_from_slice(&state.mxcsr.to_le_bytes());
    image[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
    let top = usize::from(state.x87.status >> 11 & 7);
    for i in 0..8 {
        image[32 + 16 * i..42 + 16 * i].copy_from_slice(&state.x87.regs[(top + i) & 7]);
    }
    for (i, xmm) in state.xmm.iter().enumerate() {
        image[160 + 16 * i..176 + 16 * i].copy_from_slice(&xmm.to_le_bytes());
    }
    for (word, bytes) in x.region.iter_mut().zip(image.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    // XSTATE_BV: x87 and SSE are not in their initial state.
    x.region[128] |= 3;
}

/// Debug registers out of KVM.
pub(super) fn read_debug(state: &mut CpuState, d: &kvm_debugregs) {
    state.dr[..4].copy_from_slice(&d.db);
    state.dr[6] = d.dr6;
    state.dr[7] = d.dr7;
}

/// Debug registers into KVM.
pub(super) fn debug(state: &CpuState) -> kvm_debugregs {
    kvm_debugregs {
        db: [state.dr[0], state.dr[1], state.dr[2], state.dr[3]],
        dr6: state.dr[6],
        dr7: state.dr[7],
        ..Default::default()
    }
}

/// Numbers of the local APIC's registers, offset >> 4 (Intel SDM vol. 3, table 11-1).
mod register {
    pub const ID: usize = 0x2;
    pub const VERSION: usize = 0x3;
    pub const TPR: usize = 0x8;
    pub const DFR: usize = 0xe;
    pub const SVR: usize = 0xf;
    pub const ISR: usize = 0x10;
    pub const IRR: usize = 0x20;
    pub const LVT_CMCI: usize = 0x2f;
    pub const LVT_TIMER: usize = 0x32;
    pub const LVT_ERROR: usize = 0x37;
    pub const INITIAL_COUNT: usize = 0x38;
    pub const CURRENT_COUNT: usize = 0x39;
    pub const DIVIDE: usize = 0x3e;
    pub const COUNT: usize = 0x40;
}

/// IA32_APIC_BASE after power-on: enabled at its usual place, and on the first processor the mark of the first.
const APIC_BASE: u64 = 0xfee0_0000 | 1 << 11;
const APIC_BASE_FIRST: u64 = 1 << 8;
/// A KVM local APIC with its six local vectors.
const APIC_VERSION: u32 = 0x0005_0014;
const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
/// Nanoseconds a tick of the timer at divide by one.
const TICK_NS: u64 = 1;

/// `state` with the registers of a local APIC as after power-on, if it has none.
pub(super) fn completed(state: &CpuState, index: usize) -> CpuState {
    let mut state = state.clone();
    if !state.apic.registers.is_empty() {
        return state;
    }
    let mut registers = vec![0; register::COUNT];
    registers[register::ID] = (index as u32) << 24;
    registers[register::VERSION] = APIC_VERSION;
    registers[register::DFR] = u32::MAX;
    registers[register::SVR] = 0xff;
    registers[register::LVT_CMCI] = LVT_MASKED;
    registers[register::LVT_TIMER..=register::LVT_ERROR].fill(LVT_MASKED);
    state.apic.registers = registers;
    state.apic.base = APIC_BASE | if index == 0 { APIC_BASE_FIRST } else { 0 };
    state
}

/// How many ticks of the bus one count of the timer is (figure 11-10).
fn divisor(registers: &[u32]) -> u64 {
    let bits = registers.get(register::DIVIDE).copied().unwrap_or(0);
    match (bits >> 1 & 4) | bits & 3 {
        7 => 1,
        n => 2 << n,
    }
}

/// The local APIC's register page out of KVM, at guest time `now_ns`.
pub(super) fn read_lapic(state: &mut ApicState, l: &kvm_lapic_state, now_ns: u64) {
    state.registers = (0..APIC_PAGE / 16)
        .map(|i| {
            let at = &l.regs[16 * i..16 * i + 4];
            u32::from_le_bytes([at[0] as u8, at[1] as u8, at[2] as u8, at[3] as u8])
        })
        .collect();
    let count = |register: usize| u64::from(state.registers[register]);
    let (initial, current) = (count(register::INITIAL_COUNT), count(register::CURRENT_COUNT));
    (state.timer_start, state.timer_deadline) = (0, 0);
    if current != 0 {
        let tick = divisor(&state.registers) * TICK_NS;
        state.timer_deadline = now_ns.saturating_add(current * tick);
        state.timer_start = state.timer_deadline.saturating_sub(initial * tick);
    }
}

/// The local APIC's register page into KVM, at guest time `now_ns`.
pub(super) fn lapic(state: &ApicState, now_ns: u64) -> kvm_lapic_state {
    let mut registers = state.registers.clone();
    registers.resize(register::COUNT, 0);
    registers[register::CURRENT_COUNT] = 0;
    if state.timer_deadline != 0 {
        let left = state.timer_deadline.saturating_sub(now_ns).div_ceil(divisor(&registers) * TICK_NS);
        // KVM would take 0 for a whole period.
        registers[register::CURRENT_COUNT] = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    } else if registers[register::LVT_TIMER] & LVT_PERIODIC == 0 {
        // KVM would take a timer that has fired for one that is due now.
        registers[register::INITIAL_COUNT] = 0;
    }
    let mut l = kvm_lapic_state::default();
    for (i, register) in registers.iter().take(APIC_PAGE / 16).enumerate() {
        for (n, byte) in register.to_le_bytes().into_iter().enumerate() {
            l.regs[16 * i + n] = byte as std::os::raw::c_char;
        }
    }
    l
}

/// What the processor is doing, out of KVM (KVM_GET_MP_STATE).
pub(super) fn activity(m: kvm_mp_state) -> Activity {
    match m.mp_state {
        kvm_bindings::KVM_MP_STATE_HALTED => Activity::Halted,
        kvm_bindings::KVM_MP_STATE_UNINITIALIZED => Activity::Uninitialized,
        kvm_bindings::KVM_MP_STATE_INIT_RECEIVED | kvm_bindings::KVM_MP_STATE_SIPI_RECEIVED => {
            Activity::WaitForSipi
        }
        _ => Activity::Running,
    }
}

/// What the processor is doing, into KVM.
pub(super) fn mp_state(a: Activity) -> kvm_mp_state {
    let mp_state = match a {
        Activity::Running => kvm_bindings::KVM_MP_STATE_RUNNABLE,
        Activity::Halted => kvm_bindings::KVM_MP_STATE_HALTED,
        Activity::Uninitialized => kvm_bindings::KVM_MP_STATE_UNINITIALIZED,
        Activity::WaitForSipi => kvm_bindings::KVM_MP_STATE_INIT_RECEIVED,
    };
    kvm_mp_state { mp_state }
}

/// Interrupt shadow, NMIs and what is about to be delivered, out of KVM. For the guest that has not happened yet: an interrupt
/// goes back into the local APIC, an NMI waits, and a fault comes again with its instruction.
pub(super) fn read_events(state: &mut CpuState, e: &kvm_vcpu_events) {
    state.shadow = e.interrupt.shadow != 0;
    state.nmi_blocked = e.nmi.masked != 0 && e.nmi.injected == 0;
    state.nmi_pending = e.nmi.pending != 0 || e.nmi.injected != 0;
    if e.interrupt.injected != 0 && e.interrupt.soft == 0 {
        put_back(&mut state.apic, e.interrupt.nr);
    }
}

/// An interrupt that the local APIC has handed over and the processor has not begun: it waits in the local APIC again.
fn put_back(apic: &mut ApicState, vector: u8) {
    let (word, bit) = (usize::from(vector / 32), 1 << (vector % 32));
    if apic.registers.len() == register::COUNT {
        apic.registers[register::ISR + word] &= !bit;
        apic.registers[register::IRR + word] |= bit;
    }
}

/// Interrupt shadow and NMIs into KVM.
pub(super) fn events(state: &CpuState) -> kvm_vcpu_events {
    let flags = kvm_bindings::KVM_VCPUEVENT_VALID_NMI_PENDING | kvm_bindings::KVM_VCPUEVENT_VALID_SHADOW;
    let mut e = kvm_vcpu_events { flags, ..Default::default() };
    e.interrupt.shadow = u8::from(state.shadow);
    e.nmi.masked = u8::from(state.nmi_blocked);
    e.nmi.pending = u8::from(state.nmi_pending);
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_survives_the_way_through_kvm() {
        let s = Segment { selector: 8, base: 0x1000, limit: 0xffff_ffff, rights: 0xa09b, unusable: false };
        assert_eq!(segment_from_kvm(&segment_to_kvm(&s)), s);
    }

    #[test]
    fn x87_registers_keep_their_physical_places_whatever_top_is() {
        let mut state = CpuState::default();
        state.x87.status = 5 << 11;
        for (i, r) in state.x87.regs.iter_mut().enumerate() {
            r[0] = i as u8 + 1;
        }
        state.xmm[15] = 7;
        state.mxcsr = 0x1f80;
        let mut x = kvm_xsave::default();
        write_fpu(&state, &mut x);
        let mut back = CpuState::default();
        read_fpu(&mut back, &x);
        assert_eq!(back.x87, state.x87);
        assert_eq!((back.xmm, back.mxcsr), (state.xmm, state.mxcsr));
    }

    /// A page with these registers of the timer, divided by 16.
    fn page(lvt: u32, initial: u32) -> ApicState {
        let mut registers: Vec<u32> = (0..64).map(|i| i * 0x0101_0101).collect();
        registers[register::LVT_TIMER] = lvt;
        registers[register::INITIAL_COUNT] = initial;
        registers[register::CURRENT_COUNT] = 0;
        registers[register::DIVIDE] = 3;
        ApicState { registers, ..ApicState::default() }
    }

    fn back(state: &ApicState, now: u64) -> ApicState {
        let mut back = ApicState::default();
        read_lapic(&mut back, &lapic(state, now), now);
        back
    }

    #[test]
    fn the_apic_page_survives_the_way_through_kvm() {
        let state = page(LVT_PERIODIC | 0x40, 500);
        assert_eq!(back(&state, 77), state);
    }

    #[test]
    fn a_running_apic_timer_keeps_its_deadline() {
        let state = ApicState { timer_start: 1000, timer_deadline: 1000 + 500 * 16, ..page(0x41, 500) };
        let after = back(&state, 1000 + 100 * 16);
        assert_eq!((after.timer_start, after.timer_deadline), (state.timer_start, state.timer_deadline));
    }

    #[test]
    fn an_apic_timer_that_has_fired_is_not_due_again() {
        assert_eq!(back(&page(0x41, 500), 9000).registers[register::INITIAL_COUNT], 0);
    }

    #[test]
    fn an_interrupt_under_delivery_is_requested_again() {
        let mut state = CpuState { apic: page(0, 0), ..CpuState::default() };
        state.apic.registers[register::ISR + 2] = 1 << 1;
        state.apic.registers[register::IRR + 2] = 0;
        let mut e = kvm_vcpu_events::default();
        (e.interrupt.injected, e.interrupt.nr) = (1, 65);
        read_events(&mut state, &e);
        assert_eq!(
            (state.apic.registers[register::ISR + 2], state.apic.registers[register::IRR + 2]),
            (0, 2)
        );
    }
}
