//! The root of PCI: bus 0 with its slots, and the two ways to configuration space.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::config::{ConfigSpace, ConfigState, Identity};
use super::function::Function;
use crate::bus::{Bus, Device};
use crate::memory::{Layout, map};

/// Slots on bus 0.
pub const SLOTS: usize = 32;
/// Room for each slot's BAR in the 32-bit window, bytes.
const BAR_ROOM: u64 = 1 << 20;

/// Intel's 82G33 host bridge, as other machines without firmware show it: nobody has a driver for it.
const BRIDGE: Identity =
    Identity { vendor: 0x8086, device: 0x29c0, class: 0x06_0000, revision: 0, subsystem: (0x1af4, 0x1100) };

/// Bus 0: the host bridge in slot 0, functions in the others.
pub struct Root {
    bridge: Mutex<ConfigSpace>,
    slots: RwLock<Vec<Option<Arc<Function>>>>,
    bus: Arc<Bus>,
    windows: Vec<(u64, u64)>,
}

impl Root {
    /// A root whose functions' BARs are mapped into `bus` within `layout`'s windows.
    pub fn new(bus: Arc<Bus>, layout: &Layout) -> Arc<Self> {
        let windows = [layout.low_bars(), layout.high_bars()].map(|r| (r.start, r.start + r.size)).to_vec();
        let slots = RwLock::new(vec![None; SLOTS]);
        Arc::new(Self { bridge: Mutex::new(ConfigSpace::new(BRIDGE)), slots, bus, windows })
    }

    /// The bus BARs are mapped into, and the windows for them.
    pub fn space(&self) -> (Arc<Bus>, Vec<(u64, u64)>) {
        (Arc::clone(&self.bus), self.windows.clone())
    }

    /// Puts the function that `make` makes for a BAR address into a slot: the one that is `wanted`, or the first free one. Gives the slot
    /// and the function, or `None` if there is no room.
    pub fn plug(
        &self,
        wanted: Option<usize>,
        make: impl FnOnce(u64) -> Arc<Function>,
    ) -> Option<(usize, Arc<Function>)> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let mut free = (1..SLOTS).filter(|&slot| slots[slot].is_none());
        let slot = free.find(|&slot| wanted.is_none_or(|wanted| wanted == slot))?;
        let function = make(map::LOW_END + slot as u64 * BAR_ROOM);
        slots[slot] = Some(Arc::clone(&function));
        Some((slot, function))
    }

    /// Takes the function out of a slot: when this returns it is nowhere.
    pub fn unplug(&self, slot: usize) {
        let function =
            self.slots.write().unwrap_or_else(PoisonError::into_inner).get_mut(slot).and_then(Option::take);
        if let Some(function) = function {
            function.remove();
        }
    }

    /// What is saved of the host bridge; its functions are saved one by one.
    pub fn save(&self) -> ConfigState {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner).save()
    }

    /// Puts back what was saved.
    pub fn restore(&self, state: &ConfigState) {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner).restore(state);
    }

    /// The function in slot `slot`.
    fn function(&self, slot: usize) -> Option<Arc<Function>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(slot).cloned().flatten()
    }

    /// All functions, as after power-on.
    pub fn reset(&self) {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner).reset();
        for slot in 1..SLOTS {
            if let Some(function) = self.function(slot) {
                function.reset();
            }
        }
    }

    /// `address`: bus 27:20, slot 19:15, function 14:12, register 11:0.
    fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if address >> 12 & 0xff07 != 0 {
            return;
        }
        let register = (address & 0xfff) as usize;
        match (address >> 15 & 31) as usize {
            0 => self.bridge.lock().unwrap_or_else(PoisonError::into_inner).read(register, data),
            slot => {
                if let Some(function) = self.function(slot) {
                    function.config_read(register, data);
                }
            }
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        if address >> 12 & 0xff07 != 0 {
            return;
        }
        let register = (address & 0xfff) as usize;
        match (address >> 15 & 31) as usize {
            0 => self.bridge.lock().unwrap_or_else(PoisonError::into_inner).write(register, data),
            slot => {
                if let Some(function) = self.function(slot) {
                    function.config_write(register, data);
                }
            }
        }
    }
}

/// Configuration space by memory.
pub struct Ecam(pub Arc<Root>);

impl Device for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}

/// Configuration space by ports: the address at 0xcf8, the data at 0xcfc (PCI Local Bus Specification 3.0, 3.2.2.3.2).
///
/// The chipset's reset register at 0xcf9 lies among them: it is reached by single bytes, the address by all four.
pub struct ConfigPorts {
    root: Arc<Root>,
    reset: Arc<dyn Device>,
    address: Mutex<u32>,
}

const ENABLE: u32 = 1 << 31;

impl ConfigPorts {
    /// First port.
    pub const START: u64 = 0xcf8;
    /// How many.
    pub const SIZE: u64 = 8;

    /// The ports of `root`, with the reset register among them.
    pub fn new(root: Arc<Root>, reset: Arc<dyn Device>) -> Self {
        Self { root, reset, address: Mutex::new(0) }
    }

    /// What is saved: the address.
    pub fn save(&self) -> u32 {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts back what was saved.
    pub fn restore(&self, address: u32) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// What an access at `offset` (4–7) of the data port goes to.
    fn target(&self, offset: u64) -> Option<u64> {
        let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
        let (bus, device, register) = (address >> 16 & 0xff, address >> 8 & 0xff, address & 0xfc);
        (address & ENABLE != 0).then(|| u64::from(bus << 20 | device << 12 | register) + (offset - 4))
    }
}

impl Device for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if offset >= 4 {
            if let Some(address) = self.target(offset) {
                self.root.read(address, data);
            }
        } else if offset == 0 && data.len() == 4 {
            let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
            data.copy_from_slice(&address.to_le_bytes());
        } else if offset == 1 && data.len() == 1 {
            self.reset.read(0, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset >= 4 {
            if let Some(address) = self.target(offset) {
                self.root.write(address, data);
            }
        } else if let (0, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
            *self.address.lock().unwrap_or_else(PoisonError::into_inner) = u32::from_le_bytes(bytes);
        } else if offset == 1 && data.len() == 1 {
            self.reset.write(0, data);
        }
    }
}
