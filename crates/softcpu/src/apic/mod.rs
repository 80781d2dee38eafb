//! The local APIC (Intel SDM vol. 3, chapter 11): [`Mailbox`] is the side that others see, [`Apic`] the registers, which
//! belong to the processor's own thread.

mod ipi;
mod mailbox;
mod registers;
mod timer;

pub(crate) use mailbox::ApicMode;
pub use mailbox::{Mailbox, Request};

use std::sync::Arc;

use crate::cpu::{Cpu, Mode};
use crate::fault::Trap;
use crate::flags::rflags;
use crate::state::{Activity, ApicState, Segment};

use timer::{LVT_MASKED, Time, Timer};

/// IA32_APIC_BASE.
const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// IA32_APIC_BASE: bootstrap processor, x2APIC mode, global enable.
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_DEFAULT: u64 = 0xfee0_0000;

/// ESR: a vector below 16 was sent, or received.
const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;

/// SVR bit 8: the APIC is enabled by software.
const SVR_ENABLE: u32 = 1 << 8;
const SVR_RESET: u32 = 0xff;

/// Local vector table entries, in the order of `Apic::lvt`.
mod lvt {
    pub const TIMER: usize = 0;
    pub const ERROR: usize = 5;
    pub const COUNT: usize = 6;
}

/// A set of vectors.
type Vectors = [u64; 4];

fn insert(set: &mut Vectors, vector: u8) {
    set[usize::from(vector / 64)] |= 1 << (vector % 64);
}

fn remove(set: &mut Vectors, vector: u8) {
    set[usize::from(vector / 64)] &= !(1 << (vector % 64));
}

fn contains(set: &Vectors, vector: u8) -> bool {
    set[usize::from(vector / 64)] & 1 << (vector % 64) != 0
}

/// The highest vector of `set`; 0 (never a legal vector) when it is empty.
fn highest(set: &Vectors) -> u8 {
    (0..4).rev().find(|&w| set[w] != 0).map_or(0, |w| (w as u32 * 64 + 63 - set[w].leading_zeros()) as u8)
}

/// The local APIC's registers.
pub(crate) struct Apic {
    mailbox: Arc<Mailbox>,
    base: u64,
    /// Bits that a guest-physical address in IA32_APIC_BASE may have.
    page: u64,
    tpr: u8,
    svr: u32,
    ldr: u32,
    dfr: u32,
    icr: u64,
    esr: u32,
    /// Errors that the next write to ESR will show.
    errors: u32,
    lvt: [u32; lvt::COUNT],
    irr: Vectors,
    isr: Vectors,
    tmr: Vectors,
    timer: Timer,
}

impl Apic {
    /// The APIC of the processor that `mailbox` belongs to, as after power-up.
    pub(crate) fn new(mailbox: Arc<Mailbox>, bootstrap: bool) -> Self {
        let mut apic = Self {
            mailbox,
            base: BASE_DEFAULT | BASE_ENABLE | if bootstrap { BASE_BSP } else { 0 },
            page: BASE_DEFAULT,
            tpr: 0,
            svr: 0,
            ldr: 0,
            dfr: 0,
            icr: 0,
            esr: 0,
            errors: 0,
            lvt: [0; lvt::COUNT],
            irr: [0; 4],
            isr: [0; 4],
            tmr: [0; 4],
            timer: Timer::default(),
        };
        apic.reset();
        apic
    }

    /// The state after power-up, INIT, or clearing IA32_APIC_BASE's enable bit (11.4.7); the base itself stays.
    fn reset(&mut self) {
        self.tpr = 0;
        self.svr = SVR_RESET;
        self.ldr = 0;
        self.dfr = u32::MAX;
        self.icr = 0;
        self.esr = 0;
        self.errors = 0;
        self.lvt = [LVT_MASKED; lvt::COUNT];
        self.irr = [0; 4];
        self.isr = [0; 4];
        self.tmr = [0; 4];
        self.timer = Timer::default();
        self.publish();
    }

    fn mode(&self) -> ApicMode {
        match (self.base & BASE_ENABLE != 0, self.base & BASE_X2APIC != 0) {
            (false, _) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) => ApicMode::X2Apic,
        }
    }

    /// Tells senders, who do not see the registers, what decides over delivery.
    fn publish(&mut self) {
        self.page = if self.mode() == ApicMode::XApic { self.base & !0xfff } else { u64::MAX };
        self.mailbox.publish(self.mode(), self.svr & SVR_ENABLE != 0, self.ldr, self.dfr);
    }

    fn lvt_timer(&self) -> u32 {
        self.lvt[lvt::TIMER]
    }

    /// The processor priority (11.8.3.1).
    fn ppr(&self) -> u8 {
        let served = highest(&self.isr);
        if self.tpr >> 4 >= served >> 4 { self.tpr } else { served & 0xf0 }
    }

    /// Moves posted interrupts into IRR.
    fn collect(&mut self) {
        for word in 0..4 {
            let (requested, level) = self.mailbox.take_vectors(word);
            self.irr[word] |= requested;
            self.tmr[word] = self.tmr[word] & !requested | level & requested;
        }
        if self.mailbox.take_illegal() {
            self.error(ESR_RECEIVE_ILLEGAL);
        }
    }

    /// An interrupt of the APIC's own.
    fn accept_local(&mut self, vector: u8) {
        if vector < 16 {
            self.error(ESR_RECEIVE_ILLEGAL);
        } else if self.mode() != ApicMode::Disabled {
            insert(&mut self.irr, vector);
            remove(&mut self.tmr, vector);
        }
    }

    /// Notes an error and raises the error interrupt for it. One whose own vector is illegal is only noted.
    fn error(&mut self, bit: u32) {
        let new = self.errors & bit == 0;
        self.errors |= bit;
        let entry = self.lvt[lvt::ERROR];
        if new && entry & LVT_MASKED == 0 && entry as u8 >= 16 {
            insert(&mut self.irr, entry as u8);
            remove(&mut self.tmr, entry as u8);
        }
    }

    /// Ends the highest interrupt in service; gives its vector if the I/O APICs must hear of it.
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = highest(&self.isr);
        remove(&mut self.isr, vector);
        (vector >= 16 && contains(&self.tmr, vector)).then_some(vector)
    }

    fn save(&self) -> ApicState {
        let mut copy = self.registers_with_posted();
        copy.resize(64, 0);
        ApicState {
            base: self.base,
            registers: copy,
            timer_start: if self.timer.deadline == 0 { 0 } else { self.timer.start },
            timer_deadline: self.timer.deadline,
            tsc_deadline: self.timer.tsc_deadline,
        }
    }

    fn restore(&mut self, state: &ApicState) {
        self.mailbox.clear_interrupts();
        if state.registers.is_empty() {
            self.base = BASE_DEFAULT | BASE_ENABLE | self.base & BASE_BSP;
            self.reset();
            return;
        }
        self.base = state.base;
        self.reset();
        self.load_registers(&state.registers);
        self.timer.start = state.timer_start;
        self.timer.deadline = state.timer_deadline;
        self.timer.tsc_deadline = state.tsc_deadline;
        self.publish();
        self.mailbox.wake();
    }
}

/// What the processor does with its APIC.
impl Cpu {
    fn apic_time(&self) -> Time {
        let clock = &self.system.clock;
        Time { now: clock.now_ns(), tsc_khz: clock.tsc_khz(), tsc_offset: self.tsc_offset }
    }

    /// Whether `gpa` is in the page of the APIC's registers.
    #[inline(always)]
    pub(crate) fn apic_covers(&self, gpa: u64) -> bool {
        gpa & !0xfff == self.apic.page
    }

    /// Takes what others posted — interrupts, NMI, INIT, startup — and lets the timer expire. Then reads the inbox, so
    /// that an interrupt that says "code has changed" is never handled with the old code.
    pub(crate) fn apic_poll(&mut self) {
        let time = self.apic_time();
        self.polled = time.now;
        self.apic.collect();
        self.apic.timer_poll(&time);
        if self.mailbox.take_nmi() {
            self.nmi_pending = true;
        }
        if self.mailbox.take_init() {
            self.reset_init();
            self.apic.reset();
        }
        if let Some(vector) = self.mailbox.take_sipi()
            && self.activity == Activity::WaitForSipi
        {
            self.start_up(vector);
        }
        self.drain_inbox();
    }

    /// A startup IPI: real mode at `vector << 12`.
    fn start_up(&mut self, vector: u8) {
        let cs = &mut self.segs[usize::from(crate::op::seg::CS)];
        *cs = Segment { selector: u16::from(vector) << 8, base: u64::from(vector) << 12, ..*cs };
        self.set_rip(0);
        self.activity = Activity::Running;
        self.mode_changed();
    }

    /// When the timer next wants attention, guest nanoseconds.
    pub(crate) fn apic_next_event(&self) -> Option<u64> {
        self.apic.timer_event(&self.apic_time())
    }

    /// The highest requested interrupt that the processor's priority lets through.
    #[inline]
    pub(crate) fn apic_pending_vector(&self) -> Option<u8> {
        let vector = highest(&self.apic.irr);
        (vector != 0 && vector >> 4 > self.apic.ppr() >> 4).then_some(vector)
    }

    /// Interrupt `vector` is being delivered: from requested to in service.
    pub(crate) fn apic_accept(&mut self, vector: u8) {
        remove(&mut self.apic.irr, vector);
        insert(&mut self.apic.isr, vector);
    }

    /// CR8: bits 7:4 of the task priority.
    pub(crate) fn apic_cr8(&self) -> u64 {
        u64::from(self.apic.tpr >> 4)
    }

    /// A write to CR8; the caller has checked bits 63:4.
    pub(crate) fn apic_set_cr8(&mut self, value: u64) {
        self.apic.tpr = (value as u8) << 4;
        self.interrupts_changed();
    }

    /// Whether IA32_APIC_BASE enables the APIC, for CPUID.1:EDX.
    pub(crate) fn apic_enabled(&self) -> bool {
        self.apic.mode() != ApicMode::Disabled
    }

    /// A read of the register page. Registers are the first four of each 16 bytes.
    pub(crate) fn apic_mmio_read(&mut self, offset: u64, data: &mut [u8]) {
        let time = self.apic_time();
        self.apic.collect();
        let register = self.apic.read((offset >> 4) as u8, &time).unwrap_or(0);
        let bytes = u128::from(register).to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get((offset & 0xf) as usize + i).copied().unwrap_or(0);
        }
    }

    /// A write to the register page. Only aligned writes of 32 bits reach a register (11.4.1).
    pub(crate) fn apic_mmio_write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Ok(bytes)) = (offset & 0xf, <[u8; 4]>::try_from(data)) {
            // What the register does not have is ignored here; only x2APIC mode faults on it.
            let _: Option<()> = self.apic_write((offset >> 4) as u8, u32::from_le_bytes(bytes));
        }
    }

    /// RDMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE and 0x800 – 0x8ff.
    pub(crate) fn apic_read_msr(&mut self, msr: u32) -> Result<u64, Trap> {
        let time = self.apic_time();
        self.apic.collect();
        self.apic.timer_poll(&time);
        let value = match msr {
            MSR_APIC_BASE => Some(self.apic.base),
            MSR_TSC_DEADLINE => Some(self.apic.timer.tsc_deadline),
            _ => self.apic.read_x2apic(msr, &time),
        };
        value.ok_or_else(|| self.gp0())
    }

    /// WRMSR to the same.
    pub(crate) fn apic_write_msr(&mut self, msr: u32, value: u64) -> Result<(), Trap> {
        let done = match msr {
            MSR_APIC_BASE => self.apic_set_base(value),
            MSR_TSC_DEADLINE => {
                if self.apic.timer_mode() == timer::TimerMode::TscDeadline {
                    self.apic.timer.tsc_deadline = value;
                    self.interrupts_changed();
                }
                Some(())
            }
            _ => self.apic_write_x2apic(msr, value),
        };
        done.ok_or_else(|| self.gp0())
    }

    /// The APIC as data, with what was posted to it and not yet collected.
    pub(crate) fn apic_save(&self) -> ApicState {
        self.apic.save()
    }

    /// Sets the APIC; what was posted before is forgotten.
    pub(crate) fn apic_restore(&mut self, state: &ApicState) {
        self.apic.restore(state);
    }

    /// A return has loaded RFLAGS, which were `before`: what waited for IF, or for the end of an NMI's handler, comes in
    /// before the next instruction.
    #[inline]
    pub(crate) fn let_interrupts_in(&mut self, before: u64) {
        let opened = !before & self.rflags_rest & rflags::IF != 0;
        if self.nmi_pending || opened && self.apic_pending_vector().is_some() {
            self.interrupts_changed();
        }
    }

    /// What the guest just did may have made an interrupt deliverable: the dispatcher shall look before it goes on.
    fn interrupts_changed(&mut self) {
        if !self.mode.contains(Mode::ALONE) && self.fuel > 0 {
            // What is taken from the slice was not executed.
            self.instructions = self.instructions.wrapping_sub(self.fuel as u64);
            self.fuel = 0;
        }
    }
}

#[cfg(test)]
mod tests;
