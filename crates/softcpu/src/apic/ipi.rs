//! Interrupt messages between processors and from devices: the interrupt command register (Intel SDM vol. 3, 11.6),
//! message-signalled interrupts (11.11), and who a destination means.

use crate::system::System;

use super::mailbox::{ApicMode, Mailbox};

/// Every processor, in 32-bit destinations.
const BROADCAST: u32 = u32::MAX;

/// Delivery mode, as encoded in the ICR, in LVT entries and in MSI data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Fixed,
    LowestPriority,
    Nmi,
    Init,
    Startup,
    /// SMI, ExtINT and the reserved encoding: this machine has neither.
    Nothing,
}

impl Delivery {
    fn decode(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::Nothing,
        }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub id: u32,
    pub logical: bool,
}

impl Destination {
    /// Whether the local APIC behind `mailbox` is meant.
    pub fn matches(&self, mailbox: &Mailbox) -> bool {
        if self.id == BROADCAST {
            return mailbox.apic_mode() != ApicMode::Disabled;
        }
        match (mailbox.apic_mode(), self.logical) {
            (ApicMode::Disabled, _) => false,
            (_, false) => self.id == mailbox.apic_id(),
            (ApicMode::X2Apic, true) => {
                let own = x2apic_logical(mailbox.apic_id());
                self.id >> 16 == own >> 16 && self.id & own & 0xffff != 0
            }
            (ApicMode::XApic, true) => {
                let (ldr, dfr) = mailbox.logical();
                let own = ldr >> 24;
                match dfr >> 28 {
                    0xf => self.id & own & 0xff != 0,
                    0 => self.id >> 4 == own >> 4 && self.id & own & 0xf != 0,
                    _ => false,
                }
            }
        }
    }
}

/// The logical id of an APIC in x2APIC mode (11.12.10.2): cluster and a bit within it.
pub(super) fn x2apic_logical(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub delivery: Delivery,
    pub vector: u8,
    pub level: bool,
}

impl Message {
    /// Gives the message to one processor.
    fn post(&self, mailbox: &Mailbox) {
        match self.delivery {
            _ if mailbox.apic_mode() == ApicMode::Disabled => {}
            Delivery::Fixed | Delivery::LowestPriority if mailbox.accepts() => {
                mailbox.post(self.vector, self.level)
            }
            Delivery::Nmi => mailbox.post_nmi(),
            Delivery::Init => mailbox.post_init(),
            Delivery::Startup => mailbox.post_sipi(self.vector),
            _ => {}
        }
    }
}

/// ICR bit 14: assert.
const ASSERT: u32 = 1 << 14;
/// ICR and MSI data bit 15: level-triggered.
const LEVEL: u32 = 1 << 15;

impl System {
    /// Delivers a message-signalled interrupt (or an I/O APIC's message, which has the same form): `address` selects the
    /// destination, `data` the vector, delivery and trigger mode (Intel SDM vol. 3, 11.11). Address bits 11:5 extend
    /// the destination to 15 bits, as announced by KVM_FEATURE_MSI_EXT_DEST_ID. May be called from any thread.
    pub fn signal_msi(&self, address: u64, data: u32) {
        let address = address as u32;
        let id = (address >> 12 & 0xff) | (address >> 5 & 0x7f) << 8;
        let destination =
            Destination { id: if id == 0xff { BROADCAST } else { id }, logical: address & 1 << 2 != 0 };
        let hint = address & 1 << 3 != 0;
        let mut message =
            Message { delivery: Delivery::decode(data >> 8), vector: data as u8, level: data & LEVEL != 0 };
        match message.delivery {
            Delivery::Startup => return,
            Delivery::Init if message.level && data & ASSERT == 0 => return,
            Delivery::Fixed if hint => message.delivery = Delivery::LowestPriority,
            _ => {}
        }
        self.route(destination, message);
    }

    /// Delivers `message` to all processors that `destination` means, or to one of them for lowest priority.
    pub(super) fn route(&self, destination: Destination, message: Message) {
        let meant = || self.mailboxes.iter().filter(|m| destination.matches(m));
        if message.delivery == Delivery::LowestPriority {
            // Any choice is right; choosing by vector spreads devices over the processors and is the same every time.
            let able = meant().filter(|m| m.accepts()).count();
            if able != 0
                && let Some(mailbox) = meant().filter(|m| m.accepts()).nth(usize::from(message.vector) % able)
            {
                message.post(mailbox);
            }
        } else {
            meant().for_each(|m| message.post(m));
        }
    }

    /// Carries out a write of `icr` to the interrupt command register of processor `from`. The destination is in
    /// bits 63:32, with 8 bits (at 63:56) unless `x2apic`. False for a vector that cannot be sent.
    pub(super) fn send_ipi(&self, from: &Mailbox, icr: u64, x2apic: bool) -> bool {
        let low = icr as u32;
        let message = Message { delivery: Delivery::decode(low >> 8), vector: low as u8, level: false };
        let legal = match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => message.vector >= 16,
            Delivery::Init => low & LEVEL == 0 || low & ASSERT != 0,
            _ => true,
        };
        if !legal {
            return message.delivery == Delivery::Init;
        }
        let to_self_too = !matches!(message.delivery, Delivery::Init | Delivery::Startup);
        match low >> 18 & 3 {
            0 => {
                let id = (icr >> 32) as u32;
                let id = match (x2apic, id >> 24) {
                    (true, _) => id,
                    (false, 0xff) => BROADCAST,
                    (false, id) => id,
                };
                self.route(Destination { id, logical: low & 1 << 11 != 0 }, message);
            }
            1 if to_self_too => message.post(from),
            shorthand @ (2 | 3) => {
                for mailbox in &self.mailboxes {
                    let own = std::ptr::eq(from, &**mailbox);
                    if !own || shorthand == 2 && to_self_too {
                        message.post(mailbox);
                    }
                }
            }
            _ => {}
        }
        true
    }
}
