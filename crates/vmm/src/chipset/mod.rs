//! The devices every machine has: interrupt controller, serial line, clock, and the registers to end it.

pub mod generation;
pub mod ioapic;
pub mod plug;
pub mod pm_timer;
pub mod power;
pub mod rtc;
pub mod serial;
#[cfg(test)]
pub(crate) mod testing;

/// Ports and I/O APIC pins, shared with the ACPI tables that announce them.
pub mod ports {
    /// The first serial port: 8 ports.
    pub const COM1: u16 = 0x3f8;
    /// Its pin.
    pub const COM1_PIN: u8 = 4;
    /// The real-time clock's index and data ports.
    pub const RTC: u16 = 0x70;
    /// Its pin.
    pub const RTC_PIN: u8 = 8;
    /// The byte of its memory that holds the century.
    pub const RTC_CENTURY: u8 = 0x32;
    /// The keyboard controller's command port: 0xfe resets.
    pub const I8042_COMMAND: u16 = 0x64;
    /// The reset register chipsets have.
    pub const RESET: u16 = 0xcf9;
    /// What, written there, resets.
    pub const RESET_VALUE: u8 = 6;
    /// ACPI sleep control register of a hardware-reduced machine.
    pub const SLEEP_CONTROL: u16 = 0x600;
    /// ACPI sleep status register.
    pub const SLEEP_STATUS: u16 = 0x601;
    /// The sleep type that means off (`_S5`).
    pub const SLEEP_TYPE_OFF: u8 = 5;
    /// The generic event device's register: which events happened; reading clears.
    pub const EVENT: u16 = 0x602;
    /// Its pin, level-triggered through edges: one edge an event.
    pub const EVENT_PIN: u8 = 9;
    /// The same, from [`SLEEP_CONTROL`].
    pub const EVENT_OFFSET: u64 = (EVENT - SLEEP_CONTROL) as u64;
    /// In [`EVENT`]: the power button was pressed.
    pub const EVENT_POWER_BUTTON: u8 = 1;
    /// In [`EVENT`]: the generation id has changed.
    pub const EVENT_GENERATION: u8 = 1 << 1;
    /// In [`EVENT`]: slots of the PCI bus have changed.
    pub const EVENT_SLOTS: u8 = 1 << 2;
    /// In [`EVENT`]: processors have changed.
    pub const EVENT_PROCESSORS: u8 = 1 << 3;
    /// What is plugged in and pulled out while the machine runs: [`super::plug`].
    pub const PLUG: u16 = 0x620;
    /// Its registers, from there.
    pub mod plug {
        /// How many ports.
        pub const SIZE: u64 = 0x20;
        /// Slots with something new.
        pub const NEW: u64 = 0;
        /// Slots to be let go.
        pub const LEAVE: u64 = 4;
        /// A slot that was let go.
        pub const EJECT: u64 = 8;
        /// A processor's number.
        pub const SELECT: u64 = 0xc;
        /// Its flags.
        pub const FLAGS: u64 = 0x10;
        /// Whom an answer is about.
        pub const ANSWER_TARGET: u64 = 0x14;
        /// What it answers.
        pub const ANSWER_EVENT: u64 = 0x18;
        /// The answer.
        pub const ANSWER: u64 = 0x1c;
        /// What is added to a processor's number in [`ANSWER_TARGET`].
        pub const PROCESSOR: u32 = 0x100;
    }
    /// The power management timer: 4 bytes.
    pub const PM_TIMER: u16 = 0x608;
    /// pvpanic's port (QEMU, docs/specs/pvpanic.rst).
    pub const PVPANIC: u16 = 0x505;
}
