//! What is saved of a console device: what its driver knows. Programs at the host's end, and bytes on their way to or from them, stay
//! behind: the driver is told that they have gone.

use serde::{Deserialize, Serialize};

use super::control::Message;
use super::{Board, MOST_MESSAGES};

/// What the driver knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    /// The ports, in order.
    pub ports: Vec<PortState>,
    /// What it has not been told yet.
    pub(super) messages: Vec<Message>,
}

/// What it knows of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// It is ready for it.
    pub ready: bool,
    /// A program of the guest has opened it.
    pub open: bool,
    /// It has heard, or will, that a program of the host is there.
    pub connected: bool,
}

impl Board {
    pub(super) fn save(&self) -> ConsoleState {
        let port = |port: &super::Port| PortState {
            ready: port.ready,
            open: port.open,
            connected: port.was_connected,
        };
        ConsoleState {
            ports: self.ports.iter().map(port).collect(),
            messages: self.messages.iter().cloned().collect(),
        }
    }

    /// Goes on for a driver that knows this. What has changed at the host's end it hears when it is served next.
    pub(super) fn go_on(&mut self, known: ConsoleState) {
        for (port, known) in self.ports.iter_mut().zip(known.ports) {
            (port.ready, port.open, port.was_connected) = (known.ready, known.open, known.connected);
        }
        self.messages = known.messages.into_iter().take(MOST_MESSAGES).collect();
    }
}
