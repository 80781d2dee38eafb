//! The PCI transport (section 4.1): registers, negotiation, and the life of a device.

mod saved;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{ActiveQueue, AtOnce, Progress};
use super::{Activation, Device, Health, ISR_CONFIG, ISR_QUEUE, Interrupt, NO_VECTOR, feature};
use crate::interrupt::MsiSink;
use crate::memory::GuestMemory;
use crate::pci::{Bar, ConfigSpace, Function, Identity, Msix, Registers, Root};
use crate::reactor::Handle;

/// Red Hat's vendor id, which virtio has, and the base of modern device ids (4.1.2).
const VENDOR: u16 = 0x1af4;
const DEVICE_BASE: u16 = 0x1040;
/// Vendor-specific capability, and what ours point to (4.1.4).
const VENDOR_CAPABILITY: u8 = 9;
const COMMON_CONFIG: u8 = 1;
const NOTIFY_CONFIG: u8 = 2;
const ISR_CONFIG_TYPE: u8 = 3;
const DEVICE_CONFIG: u8 = 4;
const PCI_CONFIG: u8 = 5;

/// Where the structures lie in the BAR.
const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const BAR: Bar = Bar { size: 0x8000, table: 0x4000, pending: 0x6000 };
const PIECE: u64 = 0x1000;
/// Bytes between the notification registers of two queues.
const NOTIFY_STEP: u32 = 4;
/// The most queues a device can have: one page of notification registers.
const MOST_QUEUES: usize = 1024;

/// Device status bits (2.1).
mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

struct QueueSetup {
    size: u16,
    most: u16,
    enabled: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    vector: Arc<AtomicU16>,
    kick: Arc<EventFd>,
    at_once: Arc<AtOnce>,
    progress: Arc<Progress>,
}

struct State {
    device: Box<dyn Device>,
    status: u8,
    active: bool,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

/// A virtio device's registers.
pub struct Transport {
    state: Mutex<State>,
    memory: Arc<GuestMemory>,
    reactor: Handle,
    msix: Arc<Msix>,
    isr: Arc<AtomicU8>,
    config_vector: Arc<AtomicU16>,
    broken: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
    generation: Arc<AtomicU8>,
    /// Offset of the window capability in configuration space, and what the driver set there: BAR offset and length.
    window: usize,
    window_at: Mutex<[u8; 16]>,
}

/// A device in its slot.
pub struct Plugged {
    /// Which slot of bus 0.
    pub slot: usize,
    /// Its PCI function.
    pub function: Arc<Function>,
    /// Its registers.
    pub transport: Arc<Transport>,
}

/// Puts `device` into a slot of `root`, the one that is `wanted` or a free one; gives `None` if there is no room.
///
/// # Errors
/// If the kernel gives no eventfds.
pub fn plug(
    root: &Root,
    sink: Arc<dyn MsiSink>,
    memory: Arc<GuestMemory>,
    reactor: Handle,
    device: Box<dyn Device>,
    wanted: Option<usize>,
) -> std::io::Result<Option<Plugged>> {
    let mut queues = Vec::new();
    for most in device.queue_sizes().into_iter().take(MOST_QUEUES) {
        queues.push(QueueSetup {
            size: most,
            most,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
            vector: Arc::new(AtomicU16::new(NO_VECTOR)),
            kick: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            at_once: Arc::default(),
            progress: Arc::default(),
        });
    }
    let msix = Msix::new(queues.len() as u16 + 1, sink);
    let id = device.id();
    let (config, window) = config_space(id);
    let transport = Arc::new(Transport {
        state: Mutex::new(State {
            device,
            status: 0,
            active: false,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues,
        }),
        memory,
        reactor,
        msix: Arc::clone(&msix),
        isr: Arc::default(),
        config_vector: Arc::new(AtomicU16::new(NO_VECTOR)),
        broken: Arc::default(),
        told: Arc::default(),
        generation: Arc::default(),
        window,
        window_at: Mutex::default(),
    });
    let (bus, windows) = root.space();
    let registers = Arc::clone(&transport);
    let plugged =
        root.plug(wanted, |address| Function::new(config, BAR, address, windows, msix, registers, bus));
    Ok(plugged.map(|(slot, function)| Plugged { slot, function, transport }))
}

/// Class codes as other machines show them: mass storage, network, and "others".
fn class(id: u16) -> u32 {
    match id {
        1 => 0x02_0000,
        2 => 0x01_8000,
        _ => 0xff_0000,
    }
}

/// The capabilities that say where the structures lie, and the offset of the one that is a window to them.
fn config_space(id: u16) -> (ConfigSpace, usize) {
    let mut config = ConfigSpace::new(Identity {
        vendor: VENDOR,
        device: DEVICE_BASE + id,
        class: class(id),
        revision: 1,
        subsystem: (VENDOR, DEVICE_BASE + id),
    });
    let mut add = |kind: u8, at: u64, length: u64, more: &[u8]| {
        let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
        body.extend_from_slice(&(at as u32).to_le_bytes());
        body.extend_from_slice(&(length as u32).to_le_bytes());
        body.extend_from_slice(more);
        // Five capabilities fit the 192 bytes there are.
        config.add_capability(VENDOR_CAPABILITY, &body).unwrap_or(0)
    };
    add(COMMON_CONFIG, COMMON, 0x38, &[]);
    add(ISR_CONFIG_TYPE, ISR, 1, &[]);
    add(DEVICE_CONFIG, DEVICE, PIECE, &[]);
    add(NOTIFY_CONFIG, NOTIFY, PIECE, &NOTIFY_STEP.to_le_bytes());
    let window = add(PCI_CONFIG, 0, 0, &[0; 4]);
    (config, window)
}

impl Transport {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupt(&self, vector: &Arc<AtomicU16>, bit: u8) -> Interrupt {
        Interrupt {
            msix: Arc::clone(&self.msix),
            vector: Arc::clone(vector),
            isr: Arc::clone(&self.isr),
            bit,
        }
    }

    fn offered(state: &State) -> u64 {
        state.device.features() | feature::VERSION_1 | feature::INDIRECT | feature::EVENT_IDX
    }

    /// The common configuration structure (4.1.4.3).
    fn read_common(&self, offset: u64) -> u64 {
        let state = self.lock();
        let queue = state.queues.get(usize::from(state.queue_select));
        let half =
            |features: u64, select: u32| if select < 2 { features >> (32 * select) & 0xffff_ffff } else { 0 };
        match offset {
            0x00 => u64::from(state.device_feature_select),
            0x04 => half(Self::offered(&state), state.device_feature_select),
            0x08 => u64::from(state.driver_feature_select),
            0x0c => half(state.driver_features, state.driver_feature_select),
            0x10 => u64::from(self.config_vector.load(Ordering::SeqCst)),
            0x12 => state.queues.len() as u64,
            0x14 => {
                let broken = if self.broken.load(Ordering::SeqCst) { status::NEEDS_RESET } else { 0 };
                u64::from(state.status | broken)
            }
            0x15 => u64::from(self.generation.load(Ordering::SeqCst)),
            0x16 => u64::from(state.queue_select),
            0x18 => queue.map_or(0, |q| u64::from(q.size)),
            0x1a => queue.map_or(u64::from(NO_VECTOR), |q| u64::from(q.vector.load(Ordering::SeqCst))),
            0x1c => queue.map_or(0, |q| u64::from(q.enabled)),
            0x1e => u64::from(state.queue_select),
            0x20 | 0x24 => queue.map_or(0, |q| q.descriptors >> (8 * (offset - 0x20))),
            0x28 | 0x2c => queue.map_or(0, |q| q.available >> (8 * (offset - 0x28))),
            0x30 | 0x34 => queue.map_or(0, |q| q.used >> (8 * (offset - 0x30))),
            _ => 0,
        }
    }

    fn write_common(&self, offset: u64, value: u64, len: usize) {
        let mut state = self.lock();
        let state = &mut *state;
        match offset {
            0x00 => state.device_feature_select = value as u32,
            0x08 => state.driver_feature_select = value as u32,
            0x0c if state.status & status::FEATURES_OK == 0 && state.driver_feature_select < 2 => {
                let shift = 32 * state.driver_feature_select;
                state.driver_features &= !(0xffff_ffff << shift);
                state.driver_features |= (value & 0xffff_ffff) << shift;
            }
            0x10 => self.config_vector.store(self.known_vector(value), Ordering::SeqCst),
            0x14 => self.write_status(state, value as u8),
            0x16 => state.queue_select = value as u16,
            _ => self.write_queue(state, offset, value, len),
        }
    }

    /// A vector the table has, or none.
    fn known_vector(&self, value: u64) -> u16 {
        let vector = value as u16;
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    fn write_queue(&self, state: &mut State, offset: u64, value: u64, len: usize) {
        let running = state.active;
        let Some(queue) = state.queues.get_mut(usize::from(state.queue_select)) else { return };
        if offset == 0x1a {
            queue.vector.store(self.known_vector(value), Ordering::SeqCst);
            return;
        }
        // A queue in use stays as it is.
        if running || queue.enabled {
            return;
        }
        let half = |whole: &mut u64, high: bool| {
            *whole = match (high, len) {
                (false, 8) => value,
                (false, _) => *whole & !0xffff_ffff | value & 0xffff_ffff,
                (true, _) => *whole & 0xffff_ffff | value << 32,
            }
        };
        match offset {
            0x18 => {
                let size = value as u16;
                if size.is_power_of_two() && size <= queue.most {
                    queue.size = size;
                }
            }
            0x1c => queue.enabled = value & 1 != 0,
            0x20 | 0x24 => half(&mut queue.descriptors, offset == 0x24),
            0x28 | 0x2c => half(&mut queue.available, offset == 0x2c),
            0x30 | 0x34 => half(&mut queue.used, offset == 0x34),
            _ => {}
        }
    }

    fn write_status(&self, state: &mut State, value: u8) {
        if value == 0 {
            self.reset_device(state);
            return;
        }
        let mut accepted = value & !status::NEEDS_RESET;
        let gains = |bit: u8| value & bit != 0 && state.status & bit == 0;
        if gains(status::FEATURES_OK) {
            let offered = Self::offered(state);
            let good =
                state.driver_features & !offered == 0 && state.driver_features & feature::VERSION_1 != 0;
            if !good {
                accepted &= !status::FEATURES_OK;
            }
        }
        let start = gains(status::DRIVER_OK)
            && accepted & (status::FEATURES_OK | status::FAILED) == status::FEATURES_OK;
        state.status = accepted;
        if start && !state.active {
            self.activate(state);
        }
    }

    fn health(&self) -> Health {
        Health {
            broken: Arc::clone(&self.broken),
            told: Arc::clone(&self.told),
            generation: Arc::clone(&self.generation),
            changed: self.interrupt(&self.config_vector, ISR_CONFIG),
        }
    }

    fn activate(&self, state: &mut State) {
        let health = self.health();
        let mut queues = Vec::new();
        for setup in &state.queues {
            let queue = if setup.enabled { self.build_queue(setup, state.driver_features) } else { None };
            if setup.enabled && queue.is_none() {
                health.give_up(&"a queue does not lie in memory");
                return;
            }
            queues.push(queue);
        }
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            features: state.driver_features,
            queues,
            health: health.clone(),
            reactor: self.reactor.clone(),
        };
        match state.device.activate(activation) {
            Ok(()) => state.active = true,
            Err(error) => health.give_up(&error),
        }
    }

    fn build_queue(&self, setup: &QueueSetup, features: u64) -> Option<ActiveQueue> {
        let mut queue = Queue::new(setup.most).ok()?;
        queue.set_size(setup.size);
        queue.try_set_desc_table_address(GuestAddress(setup.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(setup.available)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(setup.used)).ok()?;
        queue.set_event_idx(features & feature::EVENT_IDX != 0);
        queue.set_ready(true);
        let interrupt = self.interrupt(&setup.vector, ISR_QUEUE);
        let (progress, kick) = (Arc::clone(&setup.progress), Arc::clone(&setup.kick));
        let (at_once, memory) = (Arc::clone(&setup.at_once), &*self.memory);
        queue.is_valid(memory).then(|| ActiveQueue::new(memory, queue, progress, kick, at_once, interrupt))
    }

    fn reset_device(&self, state: &mut State) {
        if state.active {
            state.device.deactivate();
            state.active = false;
        }
        state.status = 0;
        state.driver_features = 0;
        (state.device_feature_select, state.driver_feature_select, state.queue_select) = (0, 0, 0);
        for queue in &mut state.queues {
            (queue.size, queue.enabled) = (queue.most, false);
            (queue.descriptors, queue.available, queue.used) = (0, 0, 0);
            queue.vector.store(NO_VECTOR, Ordering::SeqCst);
            queue.progress.go_to(0, 0);
            // An old kick is nobody's.
            let _ = queue.kick.read();
        }
        self.config_vector.store(NO_VECTOR, Ordering::SeqCst);
        self.isr.store(0, Ordering::SeqCst);
        self.broken.store(false, Ordering::SeqCst);
    }

    fn notify(&self, offset: u64) {
        let state = self.lock();
        let number = (offset / u64::from(NOTIFY_STEP)) as usize;
        let Some(queue) = state.queues.get(number).filter(|_| state.active) else { return };
        let at_once = queue.at_once.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kick = Arc::clone(&queue.kick);
        // Nothing is served with the registers locked.
        drop(state);
        if !at_once.is_some_and(|prompt| prompt.call()) {
            // The counter is full only if the device thread is far behind: it will find everything in the ring.
            let _ = kick.write(1);
        }
    }
}

impl Registers for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset & !(PIECE - 1) {
            COMMON => {
                let value = self.read_common(offset).to_le_bytes();
                let n = data.len().min(8);
                data[..n].copy_from_slice(&value[..n]);
            }
            // Reading acknowledges (4.1.4.5).
            ISR if offset == ISR => data[0] = self.isr.swap(0, Ordering::SeqCst),
            DEVICE => self.lock().device.read_config(offset - DEVICE, data),
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match offset & !(PIECE - 1) {
            COMMON => {
                let mut bytes = [0; 8];
                let n = data.len().min(8);
                bytes[..n].copy_from_slice(&data[..n]);
                self.write_common(offset, u64::from_le_bytes(bytes), n);
            }
            DEVICE => self.lock().device.write_config(offset - DEVICE, data),
            NOTIFY => self.notify(offset - NOTIFY),
            _ => {}
        }
    }

    /// The window in configuration space (4.1.4.9): BAR, offset and length as the driver set them, then the data.
    fn read_config(&self, offset: usize, data: &mut [u8]) -> bool {
        let Some(at) = offset.checked_sub(self.window + 4).filter(|&at| at < 16) else { return false };
        let fields = *self.window_at.lock().unwrap_or_else(PoisonError::into_inner);
        if at < 12 {
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = fields.get(at + i).copied().unwrap_or(0);
            }
        } else {
            data.fill(0);
            if let Some((target, len)) = window_target(&fields) {
                let n = data.len().min(len);
                self.read(target, &mut data[..n]);
            }
        }
        true
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let Some(at) = offset.checked_sub(self.window + 4).filter(|&at| at < 16) else { return };
        if at < 12 {
            let mut fields = self.window_at.lock().unwrap_or_else(PoisonError::into_inner);
            for (i, &byte) in data.iter().enumerate().take(12 - at) {
                fields[at + i] = byte;
            }
        } else {
            let fields = *self.window_at.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((target, len)) = window_target(&fields) {
                self.write(target, &data[..data.len().min(len)]);
            }
        }
    }

    fn reset(&self) {
        let mut state = self.lock();
        self.reset_device(&mut state);
        state.device.machine_reset();
    }
}

/// Offset in the BAR and length of an access through the window; none where the fields make no sense.
fn window_target(fields: &[u8; 16]) -> Option<(u64, usize)> {
    let word = |n: usize| u32::from_le_bytes([fields[n], fields[n + 1], fields[n + 2], fields[n + 3]]);
    let (offset, len) = (word(4), word(8));
    (fields[0] == 0 && matches!(len, 1 | 2 | 4)).then_some((u64::from(offset), len as usize))
}
