//! How devices interrupt: messages to the local APICs, and pins of the I/O APIC.

use std::sync::Arc;

/// A message-signalled interrupt (Intel SDM vol. 3, 11.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MsiMessage {
    /// The address written, 0xfee00000 and above.
    pub address: u64,
    /// The data written.
    pub data: u32,
}

/// Where messages go: the engine's partition. Callable from any thread.
pub trait MsiSink: Send + Sync {
    /// Delivers one message to the processors it names.
    fn signal(&self, message: MsiMessage);
}

/// Where pins go: the I/O APIC. Callable from any thread.
pub trait PinSink: Send + Sync {
    /// Raises or lowers pin `pin`.
    fn set(&self, pin: u8, level: bool);
}

/// One pin of an interrupt controller, handed to the device that is wired to it.
#[derive(Clone)]
pub struct Pin {
    sink: Arc<dyn PinSink>,
    number: u8,
}

impl Pin {
    /// Pin `number` of `sink`.
    pub fn new(sink: Arc<dyn PinSink>, number: u8) -> Self {
        Self { sink, number }
    }

    /// Raises or lowers the pin.
    pub fn set(&self, level: bool) {
        self.sink.set(self.number, level);
    }

    /// An edge: up and down again.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}
