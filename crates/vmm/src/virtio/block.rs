//! The block device (section 5.2).

use std::io;
use std::sync::Arc;

use disk::{Disk, SECTOR};
use libc::iovec;
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::{Activation, ActiveQueue, Device, Health, read_slice};
use crate::memory::{GuestMemory, TrackedPages};
use crate::reactor::Source;

const QUEUE_SIZE: u16 = 256;
/// The most data descriptors of a request: ring size less header and status.
const MOST_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of the serial number.
const ID_BYTES: usize = 20;
/// The longest range of one discard or write-zeroes, sectors.
const MOST_DISCARD: u32 = 1 << 22;

mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const MULTI_QUEUE: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

const STATUS_OK: u8 = 0;
const STATUS_IO_ERROR: u8 = 1;
const STATUS_UNSUPPORTED: u8 = 2;

/// A disk for the guest.
pub struct Block {
    shared: Arc<Shared>,
    queues: u16,
    sources: Vec<Source>,
}

struct Shared {
    disk: Box<dyn Disk>,
    id: [u8; ID_BYTES],
}

impl Block {
    /// `disk` with `queues` queues; the guest reads `serial` (cut to 20 bytes) as its serial number.
    pub fn new(disk: Box<dyn Disk>, serial: &str, queues: u16) -> Self {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Self { shared: Arc::new(Shared { disk, id }), queues: queues.max(1), sources: Vec::new() }
    }

    /// The configuration structure (5.2.4).
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.shared.disk.len() / SECTOR).to_le_bytes());
        put(12, &MOST_SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(34, &self.queues.to_le_bytes());
        // Discard: sectors, ranges, alignment; write zeroes: sectors, ranges, may unmap.
        put(36, &MOST_DISCARD.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &8u32.to_le_bytes());
        put(48, &MOST_DISCARD.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl Device for Block {
    fn id(&self) -> u16 {
        2
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn features(&self) -> u64 {
        let access = if self.shared.disk.read_only() {
            feature::READ_ONLY
        } else {
            feature::DISCARD | feature::WRITE_ZEROES
        };
        access | feature::SEG_MAX | feature::BLOCK_SIZE | feature::FLUSH | feature::MULTI_QUEUE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_slice(&self.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        for mut active in activation.queues.into_iter().flatten() {
            let (memory, health) = (Arc::clone(&activation.memory), activation.health.clone());
            let shared = Arc::clone(&self.shared);
            let kick = Arc::clone(&active.kick);
            let serve = move || shared.serve(&mut active, &memory, &health);
            self.sources.push(activation.reactor.on_event(kick, serve)?);
        }
        Ok(())
    }

    fn deactivate(&mut self) {
        self.sources.clear();
    }
}

/// A request taken apart: header, data in guest memory, where the status goes.
struct Request<'a> {
    kind: u32,
    sector: u64,
    data: Vec<VolatileSlice<'a, vm_memory::bitmap::RefSlice<'a, TrackedPages>>>,
    /// Whether all data may be written by the device.
    writable: bool,
    status: GuestAddress,
}

impl Shared {
    fn serve(&self, active: &mut ActiveQueue, memory: &Arc<GuestMemory>, health: &Health) {
        if health.broken() {
            return;
        }
        let mut used = false;
        loop {
            // While we look, the driver need not kick.
            let _ = active.queue.disable_notification(&**memory);
            while let Some(chain) = active.queue.pop_descriptor_chain(Arc::clone(memory)) {
                let head = chain.head_index();
                let written = self.handle(chain, memory);
                if let Err(error) = active.queue.add_used(&**memory, head, written) {
                    health.give_up(&error);
                    return;
                }
                used = true;
            }
            match active.queue.enable_notification(&**memory) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    health.give_up(&error);
                    return;
                }
            }
        }
        if used && active.queue.needs_notification(&**memory).unwrap_or(true) {
            active.interrupt.signal();
        }
    }

    /// Does one request; gives how many bytes were written to guest memory.
    fn handle(&self, chain: DescriptorChain<Arc<GuestMemory>>, memory: &GuestMemory) -> u32 {
        let Some(request) = parse(chain, memory) else { return 0 };
        let (status, written) = match self.execute(&request) {
            Ok(written) => (STATUS_OK, written),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => (STATUS_UNSUPPORTED, 0),
            Err(error) => {
                tracing::debug!(
                    "a disk request of kind {} at sector {} failed: {error}",
                    request.kind,
                    request.sector
                );
                (STATUS_IO_ERROR, 0)
            }
        };
        // The address was checked when the request was parsed.
        let _ = memory.write_obj(status, request.status);
        written + 1
    }

    fn execute(&self, request: &Request<'_>) -> io::Result<u32> {
        let bytes: u64 = request.data.iter().map(|s| s.len() as u64).sum();
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        let offset =
            request.sector.checked_mul(SECTOR).ok_or_else(|| invalid("the sector does not exist"))?;
        match request.kind {
            request::IN | request::OUT if !bytes.is_multiple_of(SECTOR) => Err(invalid("not whole sectors")),
            request::IN if request.writable => {
                let guards: Vec<_> = request.data.iter().map(|s| s.ptr_guard_mut()).collect();
                let buffers: Vec<iovec> =
                    guards.iter().map(|g| iovec { iov_base: g.as_ptr().cast(), iov_len: g.len() }).collect();
                // SAFETY: the slices are guest memory, which stays mapped while the request lives.
                unsafe { self.disk.read(&buffers, offset) }?;
                for slice in &request.data {
                    vm_memory::bitmap::Bitmap::mark_dirty(slice.bitmap(), 0, slice.len());
                }
                Ok(bytes as u32)
            }
            request::OUT if !request.writable || request.data.is_empty() => {
                self.writable()?;
                let guards: Vec<_> = request.data.iter().map(|s| s.ptr_guard()).collect();
                let buffers: Vec<iovec> = guards
                    .iter()
                    .map(|g| iovec { iov_base: g.as_ptr().cast_mut().cast(), iov_len: g.len() })
                    .collect();
                // SAFETY: as above.
                unsafe { self.disk.write(&buffers, offset) }?;
                Ok(0)
            }
            request::FLUSH => self.disk.flush().map(|()| 0),
            request::GET_ID if request.writable => {
                let mut left = &self.id[..];
                for slice in &request.data {
                    let n = left.len().min(slice.len());
                    slice.copy_from(&left[..n]);
                    left = &left[n..];
                }
                Ok((ID_BYTES - left.len()) as u32)
            }
            request::DISCARD | request::WRITE_ZEROES if !request.writable => self.clear_range(request),
            request::IN | request::OUT | request::GET_ID | request::DISCARD | request::WRITE_ZEROES => {
                Err(invalid("data of the wrong direction"))
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn writable(&self) -> io::Result<()> {
        if self.disk.read_only() { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// Discard and write zeroes: one range of sector (8 bytes), count (4) and flags (4).
    fn clear_range(&self, request: &Request<'_>) -> io::Result<u32> {
        self.writable()?;
        let mut range = [0u8; 16];
        let mut filled = 0;
        for slice in &request.data {
            let n = (range.len() - filled).min(slice.len());
            slice.copy_to(&mut range[filled..filled + n]);
            filled += n;
        }
        let word = |n: usize| u32::from_le_bytes([range[n], range[n + 1], range[n + 2], range[n + 3]]);
        let (count, flags) = (word(8), word(12));
        let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
        let offset = sector.checked_mul(SECTOR).filter(|_| filled == 16 && count <= MOST_DISCARD);
        let offset = offset.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a bad range"))?;
        let len = u64::from(count) * SECTOR;
        if request.kind == request::DISCARD {
            if flags != 0 {
                return Err(io::ErrorKind::Unsupported.into());
            }
            self.disk.discard(offset, len)?;
        } else {
            if flags & !1 != 0 {
                return Err(io::ErrorKind::Unsupported.into());
            }
            self.disk.write_zeroes(offset, len, flags & 1 != 0)?;
        }
        Ok(0)
    }
}

/// Takes a chain apart: 16 bytes of header the device reads, data, one byte of status it writes. `None` for a chain
/// without a place for the status.
fn parse(chain: DescriptorChain<Arc<GuestMemory>>, memory: &GuestMemory) -> Option<Request<'_>> {
    let descriptors: Vec<_> = chain.collect();
    let (last, rest) = descriptors.split_last()?;
    let (first, data) = rest.split_first()?;
    if !last.is_write_only() || last.len() < 1 || first.is_write_only() || first.len() < 16 {
        return None;
    }
    let status = GuestAddress(last.addr().0.checked_add(u64::from(last.len()) - 1)?);
    memory.read_obj::<u8>(status).ok()?;
    let kind = memory.read_obj::<u32>(first.addr()).ok()?;
    let sector = memory.read_obj::<u64>(GuestAddress(first.addr().0.checked_add(8)?)).ok()?;
    let mut slices = Vec::with_capacity(data.len());
    let mut writable = true;
    for d in data {
        writable &= d.is_write_only();
        slices.push(memory.get_slice(d.addr(), d.len() as usize).ok()?);
    }
    Some(Request { kind, sector, data: slices, writable, status })
}
