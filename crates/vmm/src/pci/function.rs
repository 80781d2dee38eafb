//! A function: configuration space, one memory BAR, MSI-X.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::config::{BAR0, ConfigSpace, ConfigState, MEMORY_SPACE};
use super::msix::{ENTRY_SIZE, Msix, MsixState};
use crate::bus::{Bus, Device};

/// Capability id of MSI-X.
const MSIX: u8 = 0x11;
/// Message control: enable, and mask all.
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
/// A BAR in memory space, 64 bits wide.
const BAR_MEMORY_64: u32 = 4;

/// The registers behind a function's BAR, without the MSI-X table, which [`Function`] answers for itself.
pub trait Registers: Send + Sync {
    /// A read at `offset` in the BAR.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// A write at `offset` in the BAR.
    fn write(&self, offset: u64, data: &[u8]);
    /// A read of configuration space was made; a function may have bytes of its own there. Gives true if it filled `data`.
    fn read_config(&self, _offset: usize, _data: &mut [u8]) -> bool {
        false
    }
    /// A write of configuration space was made.
    fn write_config(&self, _offset: usize, _data: &[u8]) {}
    /// The machine was reset.
    fn reset(&self);
}

/// A function's BAR 0: 64 bits wide, with the MSI-X table and its pending bits at the end.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Size in bytes, a power of two, at least 4096.
    pub size: u64,
    /// Where the MSI-X table begins.
    pub table: u64,
    /// Where the pending bits begin.
    pub pending: u64,
}

/// What is saved of a function, besides its registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionState {
    config: ConfigState,
    msix: MsixState,
}

struct Inner {
    config: ConfigSpace,
    /// Where the BAR is mapped now.
    mapped: Option<u64>,
    /// It has been taken out of its slot: whatever a processor still writes, it is not mapped again.
    removed: bool,
}

/// One PCI function.
pub struct Function {
    inner: Mutex<Inner>,
    bar: Bar,
    /// Where BARs may be mapped: never over RAM or the chipset.
    windows: Vec<(u64, u64)>,
    msix: Arc<Msix>,
    msix_capability: usize,
    registers: Arc<dyn Registers>,
    bus: Arc<Bus>,
    myself: Weak<Function>,
}

impl Function {
    /// A function with these registers in its BAR at `address`, within `windows` (start and end) of `bus`. The caller has
    /// put its own capabilities into `config`; MSI-X is added here.
    pub fn new(
        mut config: ConfigSpace,
        bar: Bar,
        address: u64,
        windows: Vec<(u64, u64)>,
        msix: Arc<Msix>,
        registers: Arc<dyn Registers>,
        bus: Arc<Bus>,
    ) -> Arc<Self> {
        let mut body = Vec::new();
        body.extend_from_slice(&(msix.vectors().max(1) - 1).to_le_bytes());
        body.extend_from_slice(&(bar.table as u32).to_le_bytes());
        body.extend_from_slice(&(bar.pending as u32).to_le_bytes());
        // A function without room for MSI-X would be a mistake in this program, not in the guest.
        let msix_capability = config.add_capability(MSIX, &body).unwrap_or(0);
        config.allow(msix_capability + 2, &(MSIX_ENABLE | MSIX_MASK_ALL).to_le_bytes());
        config.put(BAR0, &(address as u32 | BAR_MEMORY_64).to_le_bytes());
        config.put(BAR0 + 4, &((address >> 32) as u32).to_le_bytes());
        let size_mask = !(bar.size - 1);
        config.allow(BAR0, &(size_mask as u32 & !0xf).to_le_bytes());
        config.allow(BAR0 + 4, &((size_mask >> 32) as u32).to_le_bytes());
        let inner = Mutex::new(Inner { config, mapped: None, removed: false });
        Arc::new_cyclic(|me| Self {
            inner,
            bar,
            windows,
            msix,
            msix_capability,
            registers,
            bus,
            myself: me.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read of configuration space, any width, any offset.
    pub fn config_read(&self, at: usize, data: &mut [u8]) {
        if !self.registers.read_config(at, data) {
            self.lock().config.read(at, data);
        }
    }

    /// A write of configuration space, any width, any offset.
    pub fn config_write(&self, at: usize, data: &[u8]) {
        let mut inner = self.lock();
        inner.config.write(at, data);
        self.follow(&mut inner);
        drop(inner);
        self.registers.write_config(at, data);
    }

    /// Lets mapping and MSI-X follow what configuration space says.
    fn follow(&self, inner: &mut Inner) {
        let control = inner.config.u16_at(self.msix_capability + 2);
        self.msix.set_control(control & MSIX_ENABLE != 0, control & MSIX_MASK_ALL != 0);
        let low = u64::from(inner.config.u32_at(BAR0) & !0xf);
        let address = low | u64::from(inner.config.u32_at(BAR0 + 4)) << 32;
        let on = inner.config.command() & MEMORY_SPACE != 0;
        let end = address.checked_add(self.bar.size);
        let allowed = self.windows.iter().any(|&(s, e)| address >= s && end.is_some_and(|end| end <= e));
        let wanted = (on && allowed && !inner.removed).then_some(address);
        if inner.mapped == wanted {
            return;
        }
        if let Some(old) = inner.mapped.take() {
            self.bus.remove(old);
        }
        if let (Some(at), Some(me)) = (wanted, self.myself.upgrade()) {
            match self.bus.insert(at, self.bar.size, me) {
                Ok(()) => inner.mapped = Some(at),
                // The guest maps one device over another: the second is not there until it is moved.
                Err(taken) => tracing::debug!("a guest's BAR is not mapped: {taken}"),
            }
        }
    }

    /// As after power-on.
    pub fn reset(&self) {
        self.registers.reset();
        self.msix.reset();
        let mut inner = self.lock();
        inner.config.reset();
        self.follow(&mut inner);
    }

    /// What is saved.
    pub fn save(&self) -> FunctionState {
        FunctionState { config: self.lock().config.save(), msix: self.msix.save() }
    }

    /// Puts back what was saved.
    pub fn restore(&self, state: &FunctionState) {
        self.msix.restore(&state.msix);
        let mut inner = self.lock();
        inner.config.restore(&state.config);
        self.follow(&mut inner);
    }

    /// Takes the function off the bus for good, and has it do nothing any more.
    pub fn remove(&self) {
        self.lock().removed = true;
        self.reset();
    }
}

impl Device for Function {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let table_end = self.bar.table + u64::from(self.msix.vectors()) * ENTRY_SIZE;
        if (self.bar.table..table_end).contains(&offset) {
            self.msix.read_table(offset - self.bar.table, data);
        } else if offset >= self.bar.pending && offset < self.bar.pending + 0x1000 {
            self.msix.read_pending(offset - self.bar.pending, data);
        } else {
            self.registers.read(offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let table_end = self.bar.table + u64::from(self.msix.vectors()) * ENTRY_SIZE;
        if (self.bar.table..table_end).contains(&offset) {
            self.msix.write_table(offset - self.bar.table, data);
        } else {
            self.registers.write(offset, data);
        }
    }
}
