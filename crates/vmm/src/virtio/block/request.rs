//! One request of the block device (section 5.2.6): taken out of guest memory, done, answered.

use std::io;
use std::sync::Arc;

use disk::{Disk, SECTOR};
use libc::iovec;
use virtio_queue::desc::split::Descriptor;
use vm_memory::bitmap::{Bitmap, RefSlice};
use vm_memory::{GuestMemoryBackend, VolatileSlice};

use super::{ID_BYTES, MOST_DISCARD, Meter, lane};
use crate::memory::{GuestMemory, TrackedPages};
use crate::virtio::MOST_PIECES;
use crate::virtio::limit::Cost;

/// Bytes of the header that every request begins with.
const HEADER: usize = 16;
/// Data of so many bytes takes a while.
const LONG: u64 = 128 << 10;

mod kind {
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

type Slice<'a> = VolatileSlice<'a, RefSlice<'a, TrackedPages>>;

/// The disk a request is for.
pub struct Target {
    /// The image.
    pub disk: Box<dyn Disk>,
    /// The serial number.
    pub id: [u8; ID_BYTES],
    /// What has been done.
    pub meter: Arc<Meter>,
}

/// The host has no room for what a request writes.
#[derive(Debug)]
pub struct NoRoom;

/// A request. How its bytes are spread over descriptors is the driver's choice (2.7.4.1).
pub struct Request<'a> {
    kind: u32,
    sector: u64,
    /// Data for the device, behind the header.
    output: Vec<Slice<'a>>,
    /// Data for the driver, before the status.
    input: Vec<Slice<'a>>,
    /// The driver's last byte.
    status: Slice<'a>,
}

fn bytes(slices: &[Slice<'_>]) -> u64 {
    slices.iter().map(|s| s.len() as u64).sum()
}

/// Takes the first `into.len()` bytes off the slices; false if there are fewer.
fn take_front(slices: &mut Vec<Slice<'_>>, into: &mut [u8]) -> bool {
    let mut filled = 0;
    while filled < into.len() {
        let Some(first) = slices.first_mut() else { return false };
        let n = first.len().min(into.len() - filled);
        first.copy_to(&mut into[filled..filled + n]);
        filled += n;
        match first.offset(n) {
            Ok(rest) if !rest.is_empty() => *first = rest,
            _ => drop(slices.remove(0)),
        }
    }
    true
}

/// Takes the last byte off the slices.
fn take_last<'a>(slices: &mut Vec<Slice<'a>>) -> Option<Slice<'a>> {
    let last = slices.pop()?;
    let at = last.len().checked_sub(1)?;
    if at > 0 {
        slices.push(last.subslice(0, at).ok()?);
    }
    last.subslice(at, 1).ok()
}

impl<'a> Request<'a> {
    /// Takes a chain's descriptors apart. `None` for what is no request: not all of it is memory, or there is no place for the status, or
    /// no header.
    pub fn parse(chain: impl IntoIterator<Item = Descriptor>, memory: &'a GuestMemory) -> Option<Self> {
        let (mut output, mut input) = (Vec::with_capacity(4), Vec::with_capacity(4));
        for (number, descriptor) in chain.into_iter().enumerate() {
            let side = if descriptor.is_write_only() { &mut input } else { &mut output };
            if number == MOST_PIECES {
                return None;
            }
            if descriptor.len() > 0 {
                side.push(memory.get_slice(descriptor.addr(), descriptor.len() as usize).ok()?);
            }
        }
        let status = take_last(&mut input)?;
        let mut header = [0; HEADER];
        if !take_front(&mut output, &mut header) {
            return None;
        }
        let word = |n: usize| u32::from_le_bytes([header[n], header[n + 1], header[n + 2], header[n + 3]]);
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        Some(Self { kind: word(0), sector, output, input, status })
    }

    /// Whether it is of a kind that takes a while on any disk.
    pub fn is_long(&self) -> bool {
        match self.kind {
            kind::IN | kind::OUT => bytes(&self.input) + bytes(&self.output) >= LONG,
            kind::GET_ID => false,
            _ => true,
        }
    }

    /// Whether the host may have to find room for it. A flush does: what was written may be spread out in the file only then.
    pub fn can_need_room(&self) -> bool {
        !matches!(self.kind, kind::IN | kind::GET_ID)
    }

    /// What it costs of the limits of a disk of so many bytes: what is longer than that fails, and carries nothing.
    pub fn cost(&self, disk: u64) -> Cost {
        let carried = |slices: &[Slice<'_>]| Some(bytes(slices)).filter(|bytes| *bytes <= disk).unwrap_or(0);
        let (lanes, bytes, operations) = match self.kind {
            kind::IN => (lane::TOTAL | lane::READ, carried(&self.input), 1),
            kind::OUT => (lane::TOTAL | lane::WRITE, carried(&self.output), 1),
            kind::FLUSH | kind::DISCARD | kind::WRITE_ZEROES => (lane::TOTAL | lane::WRITE, 0, 1),
            _ => (0, 0, 0),
        };
        Cost { lanes, bytes, operations }
    }

    /// Does it and sets its status; gives how many bytes were written to guest memory. With `write_through` what it wrote is
    /// durable then.
    ///
    /// # Errors
    /// If the host has no room for it, and `waits` has it wait: it has no status then, and can be done again.
    pub fn answer(
        self,
        target: &Target,
        write_through: bool,
        waits: impl FnOnce(&io::Error) -> bool,
    ) -> Result<u32, NoRoom> {
        let done = self.execute(target).and_then(|written| match self.kind {
            kind::OUT | kind::WRITE_ZEROES if write_through => target.disk.flush().map(|()| written),
            _ => Ok(written),
        });
        let (status, written) = match done {
            Ok(written) => {
                self.count(&target.meter);
                (STATUS_OK, written)
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => (STATUS_UNSUPPORTED, 0),
            Err(error) if self.can_need_room() && is_no_room(&error) && waits(&error) => return Err(NoRoom),
            Err(error) => {
                target.meter.failed.add(1);
                tracing::debug!(
                    "a disk request of kind {} at sector {} failed: {error}",
                    self.kind,
                    self.sector
                );
                (STATUS_IO_ERROR, 0)
            }
        };
        self.status.copy_from(&[status]);
        Ok(written + 1)
    }

    fn count(&self, meter: &Meter) {
        let offset = self.sector.saturating_mul(SECTOR);
        match self.kind {
            kind::IN => meter.read(offset, bytes(&self.input)),
            kind::OUT => meter.wrote(offset, bytes(&self.output)),
            _ => {}
        }
    }

    fn execute(&self, target: &Target) -> io::Result<u32> {
        let disk = &*target.disk;
        match self.kind {
            kind::IN => self.read(disk),
            kind::OUT => self.write(disk),
            kind::FLUSH => disk.flush().map(|()| 0),
            kind::GET_ID => Ok(self.tell_id(&target.id)),
            kind::DISCARD | kind::WRITE_ZEROES => self.clear(disk),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Where data of `len` bytes begins on the disk.
    fn offset(&self, len: u64) -> io::Result<u64> {
        if !len.is_multiple_of(SECTOR) {
            return Err(invalid("not whole sectors"));
        }
        self.sector.checked_mul(SECTOR).ok_or_else(|| invalid("the sector does not exist"))
    }

    fn read(&self, disk: &dyn Disk) -> io::Result<u32> {
        if !self.output.is_empty() {
            return Err(invalid("data of the wrong direction"));
        }
        let len = bytes(&self.input);
        let offset = self.offset(len)?;
        let guards: Vec<_> = self.input.iter().map(|s| s.ptr_guard_mut()).collect();
        let buffers: Vec<iovec> =
            guards.iter().map(|g| iovec { iov_base: g.as_ptr().cast(), iov_len: g.len() }).collect();
        // SAFETY: the slices are guest memory, which stays mapped while the request lives.
        let result = unsafe { disk.read(&buffers, offset) };
        // One that failed may have written, too.
        for slice in &self.input {
            slice.bitmap().mark_dirty(0, slice.len());
        }
        result.map(|()| len as u32)
    }

    fn write(&self, disk: &dyn Disk) -> io::Result<u32> {
        writable(disk)?;
        if !self.input.is_empty() {
            return Err(invalid("data of the wrong direction"));
        }
        let offset = self.offset(bytes(&self.output))?;
        let guards: Vec<_> = self.output.iter().map(|s| s.ptr_guard()).collect();
        let buffers: Vec<iovec> = guards
            .iter()
            .map(|g| iovec { iov_base: g.as_ptr().cast_mut().cast(), iov_len: g.len() })
            .collect();
        // SAFETY: as above.
        unsafe { disk.write(&buffers, offset) }.map(|()| 0)
    }

    fn tell_id(&self, id: &[u8; ID_BYTES]) -> u32 {
        let mut left = &id[..];
        for slice in &self.input {
            let n = left.len().min(slice.len());
            slice.copy_from(&left[..n]);
            left = &left[n..];
        }
        (ID_BYTES - left.len()) as u32
    }

    /// Discard and write zeroes: one range of sector (8 bytes), count (4) and flags (4).
    fn clear(&self, disk: &dyn Disk) -> io::Result<u32> {
        writable(disk)?;
        let mut range = [0u8; 16];
        if bytes(&self.output) != 16 || !take_front(&mut self.output.clone(), &mut range) {
            return Err(invalid("not one range"));
        }
        let word = |n: usize| u32::from_le_bytes([range[n], range[n + 1], range[n + 2], range[n + 3]]);
        let (count, flags) = (word(8), word(12));
        let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
        let offset = sector.checked_mul(SECTOR).filter(|_| count <= MOST_DISCARD);
        let offset = offset.ok_or_else(|| invalid("a bad range"))?;
        let len = u64::from(count) * SECTOR;
        match (self.kind, flags) {
            (kind::DISCARD, 0) => disk.discard(offset, len)?,
            (kind::WRITE_ZEROES, 0 | 1) => disk.write_zeroes(offset, len, flags == 1)?,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(0)
    }
}

/// Whether it fails only because a file system or a quota is full.
fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_owned())
}

fn writable(disk: &dyn Disk) -> io::Result<()> {
    if disk.read_only() { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
}
