//! The register page: what each register reads as and what a write to it does, through MMIO and through MSRs.

use crate::cpu::Cpu;

use super::mailbox::ApicMode;
use super::timer::{LVT_MASKED, Time, TimerMode};
use super::{Apic, BASE_BSP, BASE_ENABLE, BASE_X2APIC, ESR_SEND_ILLEGAL, SVR_ENABLE, Vectors, ipi, lvt};

/// Register numbers: offset in the page >> 4, and MSR number - 0x800 in x2APIC mode.
mod reg {
    pub const ID: u8 = 0x02;
    pub const VERSION: u8 = 0x03;
    pub const TPR: u8 = 0x08;
    pub const PPR: u8 = 0x0a;
    pub const EOI: u8 = 0x0b;
    pub const LDR: u8 = 0x0d;
    pub const DFR: u8 = 0x0e;
    pub const SVR: u8 = 0x0f;
    pub const ISR: u8 = 0x10;
    pub const TMR: u8 = 0x18;
    pub const IRR: u8 = 0x20;
    pub const ESR: u8 = 0x28;
    pub const ICR: u8 = 0x30;
    pub const ICR_HIGH: u8 = 0x31;
    pub const LVT: u8 = 0x32;
    pub const LVT_LAST: u8 = 0x37;
    pub const INITIAL: u8 = 0x38;
    pub const CURRENT: u8 = 0x39;
    pub const DIVIDE: u8 = 0x3e;
    pub const SELF_IPI: u8 = 0x3f;
}

/// An integrated APIC with six LVT entries, no EOI-broadcast suppression.
const VERSION: u32 = 0x0005_0014;

/// ICR bits that software may set: vector, delivery mode, destination mode, level, trigger, shorthand.
const ICR_LOW: u32 = 0x000c_cfff;
/// The same as x2APIC mode checks it: bits 31:20, 17:16 and 13 must be 0.
const ICR_RESERVED: u64 = 0xfff3_2000;

/// Bits of each LVT entry that software may set: timer, thermal, performance, LINT0, LINT1, error.
const LVT_BITS: [u32; lvt::COUNT] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
const LVT_REMOTE_IRR: u32 = 1 << 14;

fn word_of(set: &Vectors, n: u8) -> u32 {
    (set[usize::from(n / 2)] >> (n % 2 * 32)) as u32
}

fn set_word(set: &mut Vectors, n: usize, value: u32) {
    set[n / 2] = set[n / 2] & !(0xffff_ffff << (n % 2 * 32)) | u64::from(value) << (n % 2 * 32);
}

impl Apic {
    /// A register's value as MMIO has it; `None` where there is none.
    pub(super) fn read(&self, register: u8, time: &Time) -> Option<u32> {
        Some(match register {
            reg::ID if self.mode() == ApicMode::X2Apic => self.mailbox.apic_id(),
            reg::ID => self.mailbox.apic_id() << 24,
            reg::VERSION => VERSION,
            reg::TPR => u32::from(self.tpr),
            reg::PPR => u32::from(self.ppr()),
            reg::LDR if self.mode() == ApicMode::X2Apic => ipi::x2apic_logical(self.mailbox.apic_id()),
            reg::LDR => self.ldr,
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..reg::TMR => word_of(&self.isr, register - reg::ISR),
            reg::TMR..reg::IRR => word_of(&self.tmr, register - reg::TMR),
            reg::IRR..reg::ESR => word_of(&self.irr, register - reg::IRR),
            reg::ESR => self.esr,
            reg::ICR => self.icr as u32,
            reg::ICR_HIGH => (self.icr >> 32) as u32,
            reg::LVT..=reg::LVT_LAST => self.lvt[usize::from(register - reg::LVT)],
            reg::INITIAL if self.timer_mode() == TimerMode::TscDeadline => 0,
            reg::INITIAL => self.timer.initial,
            reg::CURRENT if self.timer_mode() == TimerMode::TscDeadline => 0,
            reg::CURRENT => self.current_count(time),
            reg::DIVIDE => self.timer.divide,
            _ => return None,
        })
    }

    /// The current count, also when the timer expired and nobody has looked yet.
    fn current_count(&self, time: &Time) -> u32 {
        let mut timer = self.timer.clone();
        if self.timer_mode() == TimerMode::Periodic {
            timer.catch_up(time.now);
        }
        timer.current(time.now)
    }

    /// RDMSR in x2APIC mode; `None` for #GP.
    pub(super) fn read_x2apic(&self, msr: u32, time: &Time) -> Option<u64> {
        if self.mode() != ApicMode::X2Apic {
            return None;
        }
        match u8::try_from(msr.checked_sub(0x800)?).ok()? {
            reg::ICR => Some(self.icr),
            reg::ICR_HIGH | reg::DFR => None,
            register => self.read(register, time).map(u64::from),
        }
    }

    /// All registers as MMIO would read them, with interrupts posted and not yet collected.
    pub(super) fn registers_with_posted(&self) -> Vec<u32> {
        let (mut irr, mut tmr) = (self.irr, self.tmr);
        for word in 0..4 {
            let (requested, level) = self.mailbox.peek_vectors(word);
            irr[word] |= requested;
            tmr[word] = tmr[word] & !requested | level & requested;
        }
        let time = Time { now: self.timer.start, tsc_khz: 1, tsc_offset: 0 };
        let value = |register| match register {
            reg::TMR..reg::IRR => word_of(&tmr, register - reg::TMR),
            reg::IRR..reg::ESR => word_of(&irr, register - reg::IRR),
            // The latch is what matters of the errors: the next write to ESR makes it visible.
            reg::ESR => self.esr | self.errors,
            _ => self.read(register, &time).unwrap_or(0),
        };
        (0..0x40).map(value).collect()
    }

    /// Sets all registers from [`registers_with_posted`](Self::registers_with_posted)'s form. `base` is already set.
    pub(super) fn load_registers(&mut self, registers: &[u32]) {
        let get = |register: u8| registers.get(usize::from(register)).copied().unwrap_or(0);
        self.tpr = get(reg::TPR) as u8;
        self.ldr = get(reg::LDR) & 0xff00_0000;
        self.dfr = get(reg::DFR) | 0x0fff_ffff;
        self.svr = get(reg::SVR) & 0x1ff;
        for n in 0..8u8 {
            set_word(&mut self.isr, usize::from(n), get(reg::ISR + n));
            set_word(&mut self.tmr, usize::from(n), get(reg::TMR + n));
            set_word(&mut self.irr, usize::from(n), get(reg::IRR + n));
        }
        // Vectors below 16 do not exist.
        for set in [&mut self.isr, &mut self.tmr, &mut self.irr] {
            set[0] &= !0xffff;
        }
        self.esr = get(reg::ESR);
        self.errors = self.esr;
        self.icr = u64::from(get(reg::ICR) & ICR_LOW) | u64::from(get(reg::ICR_HIGH)) << 32;
        for (n, entry) in self.lvt.iter_mut().enumerate() {
            *entry = get(reg::LVT + n as u8) & (LVT_BITS[n] | LVT_REMOTE_IRR);
        }
        self.timer.initial = get(reg::INITIAL);
        self.timer.divide = get(reg::DIVIDE) & 0xb;
    }

    fn set_lvt(&mut self, n: usize, value: u32, now: &Time) {
        if n == lvt::TIMER {
            // What expired until now expired under the old entry.
            self.timer_poll(now);
        }
        let before = self.timer_mode();
        let masked = if self.svr & SVR_ENABLE == 0 { LVT_MASKED } else { 0 };
        self.lvt[n] = value & LVT_BITS[n] | self.lvt[n] & LVT_REMOTE_IRR | masked;
        let after = self.timer_mode();
        if before != after && (before == TimerMode::TscDeadline || after == TimerMode::TscDeadline) {
            self.timer.stop();
        }
    }

    fn set_svr(&mut self, value: u32) {
        self.svr = value & 0x1ff;
        if self.svr & SVR_ENABLE == 0 {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
        self.publish();
    }
}

impl Cpu {
    /// A write to a register through MMIO or, where the meaning is the same, through an MSR; `None` where there is none.
    pub(super) fn apic_write(&mut self, register: u8, value: u32) -> Option<()> {
        let time = self.apic_time();
        let apic = &mut self.apic;
        match register {
            reg::TPR => apic.tpr = value as u8,
            reg::EOI => {
                apic.collect();
                if let Some(vector) = apic.end_of_interrupt() {
                    self.call_out(|bus| bus.end_of_interrupt(vector));
                }
            }
            reg::LDR if apic.mode() == ApicMode::XApic => {
                apic.ldr = value & 0xff00_0000;
                apic.publish();
            }
            reg::DFR if apic.mode() == ApicMode::XApic => {
                apic.dfr = value | 0x0fff_ffff;
                apic.publish();
            }
            reg::SVR => {
                apic.timer_poll(&time);
                apic.set_svr(value);
            }
            reg::ESR => apic.esr = std::mem::take(&mut apic.errors),
            reg::ICR => {
                apic.icr = apic.icr & !0xffff_ffff | u64::from(value & ICR_LOW);
                self.apic_send(false);
            }
            reg::ICR_HIGH if apic.mode() == ApicMode::XApic => {
                apic.icr = apic.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32;
            }
            reg::LVT..=reg::LVT_LAST => apic.set_lvt(usize::from(register - reg::LVT), value, &time),
            reg::INITIAL if apic.timer_mode() != TimerMode::TscDeadline => {
                apic.timer_poll(&time);
                apic.timer.load(value, time.now);
            }
            reg::INITIAL => {}
            reg::DIVIDE => {
                apic.timer_poll(&time);
                apic.timer.set_divide(value, time.now);
            }
            _ => return None,
        }
        self.interrupts_changed();
        Some(())
    }

    fn apic_send(&mut self, x2apic: bool) {
        if !self.system.send_ipi(&self.mailbox, self.apic.icr, x2apic) {
            self.apic.error(ESR_SEND_ILLEGAL);
        }
    }

    /// WRMSR in x2APIC mode; `None` for #GP.
    pub(super) fn apic_write_x2apic(&mut self, msr: u32, value: u64) -> Option<()> {
        if self.apic.mode() != ApicMode::X2Apic {
            return None;
        }
        let register = u8::try_from(msr.checked_sub(0x800)?).ok()?;
        let allowed = match register {
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::EOI | reg::ESR => 0,
            reg::SVR => 0x1ff,
            reg::ICR => !ICR_RESERVED,
            reg::LVT..=reg::LVT_LAST => {
                u64::from(LVT_BITS[usize::from(register - reg::LVT)] | LVT_REMOTE_IRR | 1 << 12)
            }
            reg::INITIAL => 0xffff_ffff,
            reg::DIVIDE => 0xb,
            _ => return None,
        };
        if value & !allowed != 0 {
            return None;
        }
        match register {
            reg::ICR => {
                self.apic.icr = value & (0xffff_ffff << 32 | u64::from(ICR_LOW));
                self.apic_send(true);
                self.interrupts_changed();
                Some(())
            }
            reg::SELF_IPI => {
                self.mailbox.post(value as u8, false);
                self.interrupts_changed();
                Some(())
            }
            _ => self.apic_write(register, value as u32),
        }
    }

    /// A write to IA32_APIC_BASE (11.12.5): off, xAPIC and x2APIC, with no way from off to x2APIC nor from x2APIC back to
    /// xAPIC. `None` for #GP.
    pub(super) fn apic_set_base(&mut self, value: u64) -> Option<()> {
        let defined = BASE_BSP | BASE_X2APIC | BASE_ENABLE | self.mmu.physical_mask & !0xfff;
        let (enable, x2apic) = (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0);
        let legal = match self.apic.mode() {
            ApicMode::Disabled => !x2apic,
            ApicMode::XApic => enable || !x2apic,
            ApicMode::X2Apic => enable == x2apic,
        };
        if value & !defined != 0 || !legal {
            return None;
        }
        let before = self.apic.page;
        self.apic.base = value;
        if enable {
            self.apic.publish();
        } else {
            self.apic.reset();
        }
        if self.apic.page != before {
            // A page of RAM has become registers, or the other way about.
            self.flush_tlb(true);
        }
        Some(())
    }
}
