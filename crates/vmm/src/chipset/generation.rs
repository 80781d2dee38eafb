//! The generation id ("Virtual Machine Generation ID", Microsoft, 2012): 16 random bytes that change whenever the machine
//! goes on from a saved state, so that a guest forgets what must be unique to it, its random numbers first.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use crate::chipset::ports;
use crate::chipset::power::Power;
use crate::memory::Ram;

/// Where the id lies: in a page of its own that the memory map reserves (ACPI: "must not be in memory the guest may use").
pub const PAGE: u64 = 0xf_f000;
/// Its offset in the page, as the specification asks for an 8-byte boundary and hypervisors leave room before it.
pub const OFFSET: u64 = 40;

/// What is saved of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationState {
    id: [u8; 16],
}

/// The id of a machine that was never restored or cloned, and the way to change it.
pub struct Generation {
    ram: Arc<Ram>,
    power: Arc<Power>,
}

impl Generation {
    /// The id in `ram`, announced through `power`.
    pub fn new(ram: Arc<Ram>, power: Arc<Power>) -> Self {
        Self { ram, power }
    }

    /// Gives the machine a new id, without telling: it is about to start from its first instruction.
    ///
    /// # Errors
    /// If the host has no random numbers, or the page is not there.
    pub fn choose(&self) -> std::io::Result<()> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(std::io::Error::from)?;
        self.write(&id)
    }

    /// Gives the machine a new id and tells the guest. To be called before a restored machine runs.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub fn renew(&self) -> std::io::Result<()> {
        self.choose()?;
        self.power.raise(ports::EVENT_GENERATION);
        Ok(())
    }

    fn write(&self, id: &[u8; 16]) -> std::io::Result<()> {
        self.ram.memory().write_slice(id, GuestAddress(PAGE + OFFSET)).map_err(std::io::Error::other)
    }

    /// What is saved.
    ///
    /// # Errors
    /// If the page is not there.
    pub fn save(&self) -> std::io::Result<GenerationState> {
        let mut id = [0; 16];
        self.ram.memory().read_slice(&mut id, GuestAddress(PAGE + OFFSET)).map_err(std::io::Error::other)?;
        Ok(GenerationState { id })
    }

    /// Puts back what was saved: the machine goes on as the same one (a live move).
    ///
    /// # Errors
    /// If the page is not there.
    pub fn restore(&self, state: &GenerationState) -> std::io::Result<()> {
        self.write(&state.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Device;
    use crate::chipset::testing::Pins;
    use crate::interrupt::Pin;

    fn generation() -> (Arc<Pins>, Arc<Power>, Generation) {
        let pins = Arc::new(Pins::default());
        let power = Arc::new(Power::new(Arc::new(|_| {}), Pin::new(pins.clone(), ports::EVENT_PIN)));
        let ram = Arc::new(Ram::new(8 << 20).unwrap());
        (pins, power.clone(), Generation::new(ram, power))
    }

    #[test]
    fn a_renewed_id_differs_and_is_told() {
        let (pins, power, generation) = generation();
        generation.choose().unwrap();
        let first = generation.save().unwrap();
        assert_eq!(pins.rises(ports::EVENT_PIN), 0);
        generation.renew().unwrap();
        assert_ne!(generation.save().unwrap(), first);
        assert_eq!(pins.rises(ports::EVENT_PIN), 1);
        let mut events = [0];
        power.read(ports::EVENT_OFFSET, &mut events);
        assert_eq!(events, [ports::EVENT_GENERATION]);
    }

    #[test]
    fn state_goes_out_and_in() {
        let (_, _, one) = generation();
        one.choose().unwrap();
        let (_, _, other) = generation();
        other.restore(&one.save().unwrap()).unwrap();
        assert_eq!(other.save().unwrap(), one.save().unwrap());
    }
}
