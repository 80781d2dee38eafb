//! Control messages (section 5.3.6.2).

use serde::{Deserialize, Serialize};

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The driver is ready.
    DeviceReady = 0,
    /// There is a port.
    DeviceAdd = 1,
    /// The driver is ready for a port.
    PortReady = 3,
    /// A port may be a console.
    ConsolePort = 4,
    /// Somebody opened a port, or closed it.
    PortOpen = 6,
    /// A port has a name.
    PortName = 7,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub port: u32,
    pub event: Event,
    pub value: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    name: Vec<u8>,
}

impl Message {
    /// Bytes of a message without a name.
    pub const LEN: usize = 8;

    pub fn new(port: usize, event: Event, value: u16) -> Self {
        Self { port: port as u32, event, value, name: Vec::new() }
    }

    /// The name of a port.
    pub fn named(port: usize, name: &str) -> Self {
        Self { name: name.as_bytes().to_vec(), ..Self::new(port, Event::PortName, 1) }
    }

    /// What the driver wrote; nothing if it makes no sense.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, d, event, 0, value, more] = *bytes.first_chunk::<8>()? else { return None };
        let event = match event {
            0 => Event::DeviceReady,
            3 => Event::PortReady,
            6 => Event::PortOpen,
            _ => return None,
        };
        let value = u16::from_le_bytes([value, more]);
        Some(Self { port: u32::from_le_bytes([a, b, c, d]), event, value, name: Vec::new() })
    }

    /// What the driver reads.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.port.to_le_bytes().to_vec();
        bytes.extend((self.event as u16).to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(&self.name);
        bytes
    }
}
