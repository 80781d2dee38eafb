//! MSI-X (PCI Express Base Specification 5.0, 7.7.2): a table of messages, each with a mask, and a bit for each that waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::interrupt::{MsiMessage, MsiSink};

/// Bytes of one table entry.
pub const ENTRY_SIZE: u64 = 16;
const VECTOR_MASKED: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
    pending: bool,
}

/// What is saved of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    entries: Vec<Entry>,
    enabled: bool,
    masked: bool,
}

/// The MSI-X table of a function.
pub struct Msix {
    state: Mutex<MsixState>,
    sink: Arc<dyn MsiSink>,
}

impl Msix {
    /// A table of `vectors` masked entries, sending to `sink`.
    pub fn new(vectors: u16, sink: Arc<dyn MsiSink>) -> Arc<Self> {
        let state =
            MsixState { entries: vec![Self::fresh(); usize::from(vectors)], enabled: false, masked: false };
        Arc::new(Self { state: Mutex::new(state), sink })
    }

    fn fresh() -> Entry {
        Entry { address: 0, data: 0, control: VECTOR_MASKED, pending: false }
    }

    fn lock(&self) -> MutexGuard<'_, MsixState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.lock().entries.len() as u16
    }

    /// Message control was written: whether MSI-X is on, and whether all vectors are masked.
    pub fn set_control(&self, enabled: bool, masked: bool) {
        let mut state = self.lock();
        state.enabled = enabled;
        state.masked = masked;
        self.flush(&mut state);
    }

    /// Whether the driver turned MSI-X on.
    pub fn enabled(&self) -> bool {
        self.lock().enabled
    }

    /// Sends what waited and may go now.
    fn flush(&self, state: &mut MsixState) {
        if !state.enabled || state.masked {
            return;
        }
        for e in &mut state.entries {
            if e.pending && e.control & VECTOR_MASKED == 0 {
                e.pending = false;
                self.sink.signal(MsiMessage { address: e.address, data: e.data });
            }
        }
    }

    /// Sends vector `vector`, or notes that it waits. A vector the table does not have is nobody's.
    pub fn signal(&self, vector: u16) {
        let mut state = self.lock();
        let (enabled, masked) = (state.enabled, state.masked);
        if !enabled {
            return;
        }
        if let Some(e) = state.entries.get_mut(usize::from(vector)) {
            if masked || e.control & VECTOR_MASKED != 0 {
                e.pending = true;
            } else {
                self.sink.signal(MsiMessage { address: e.address, data: e.data });
            }
        }
    }

    /// A read of the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (i, byte) in data.iter_mut().enumerate() {
            let at = offset + i as u64;
            let entry = state.entries.get((at / ENTRY_SIZE) as usize);
            *byte = entry.map_or(0, |e| image(e)[(at % ENTRY_SIZE) as usize]);
        }
    }

    /// A write of the table.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        for (i, &byte) in data.iter().enumerate() {
            let at = offset + i as u64;
            if let Some(e) = state.entries.get_mut((at / ENTRY_SIZE) as usize) {
                let mut bytes = image(e);
                bytes[(at % ENTRY_SIZE) as usize] = byte;
                let word =
                    |n: usize| u32::from_le_bytes([bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]]);
                e.address = u64::from(word(0)) | u64::from(word(4)) << 32;
                e.data = word(8);
                e.control = word(12);
            }
        }
        self.flush(&mut state);
    }

    /// A read of the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (i, byte) in data.iter_mut().enumerate() {
            let first = (offset as usize + i) * 8;
            *byte = (0..8).fold(0, |acc, n| {
                let pending = state.entries.get(first + n).is_some_and(|e| e.pending);
                acc | u8::from(pending) << n
            });
        }
    }

    /// As after power-on.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.entries.fill(Self::fresh());
        (state.enabled, state.masked) = (false, false);
    }

    /// What is saved.
    pub fn save(&self) -> MsixState {
        self.lock().clone()
    }

    /// Puts back what was saved; the number of vectors is the function's.
    pub fn restore(&self, saved: &MsixState) {
        let mut state = self.lock();
        let count = state.entries.len();
        *state = saved.clone();
        state.entries.resize(count, Self::fresh());
    }
}

fn image(e: &Entry) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&e.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&e.data.to_le_bytes());
    bytes[12..].copy_from_slice(&e.control.to_le_bytes());
    bytes
}

/// One vector of a table, handed to whatever interrupts through it.
#[derive(Clone)]
pub struct Vector {
    msix: Arc<Msix>,
    number: u16,
}

impl Vector {
    /// Vector `number` of `msix`.
    pub fn new(msix: Arc<Msix>, number: u16) -> Self {
        Self { msix, number }
    }

    /// Interrupts.
    pub fn signal(&self) {
        self.msix.signal(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sent(Mutex<Vec<MsiMessage>>);
    impl MsiSink for Sent {
        fn signal(&self, message: MsiMessage) {
            self.0.lock().unwrap().push(message);
        }
    }

    fn table() -> (Arc<Sent>, Arc<Msix>) {
        let sent = Arc::new(Sent::default());
        let msix = Msix::new(2, sent.clone());
        msix.write_table(16, &0xfee0_1000u64.to_le_bytes());
        msix.write_table(24, &0x45u32.to_le_bytes());
        (sent, msix)
    }

    #[test]
    fn a_masked_vector_waits_and_is_sent_once_when_unmasked() {
        let (sent, msix) = table();
        msix.set_control(true, false);
        msix.signal(1);
        msix.signal(1);
        let mut pending = [0];
        msix.read_pending(0, &mut pending);
        assert_eq!(pending, [2]);
        assert!(sent.0.lock().unwrap().is_empty());
        msix.write_table(28, &0u32.to_le_bytes());
        assert_eq!(*sent.0.lock().unwrap(), [MsiMessage { address: 0xfee0_1000, data: 0x45 }]);
    }

    #[test]
    fn the_function_mask_holds_all_back() {
        let (sent, msix) = table();
        msix.write_table(28, &0u32.to_le_bytes());
        msix.set_control(true, true);
        msix.signal(1);
        assert!(sent.0.lock().unwrap().is_empty());
        msix.set_control(true, false);
        assert_eq!(sent.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn reads_and_writes_outside_the_table_are_nothing() {
        let (_, msix) = table();
        let mut data = [1; 8];
        msix.read_table(1 << 20, &mut data);
        msix.write_table(1 << 20, &[1; 8]);
        msix.signal(7);
        assert_eq!(data, [0; 8]);
    }
}
