//! PCI configuration space, and a virtio entropy device driven by hand to get a message-signalled interrupt.

use crate::cpu::{inl, outl, read32, write32, write64};

const VIRTIO_RNG: u32 = 0x1044_1af4;

/// Reads a configuration register of device `device` on bus 0.
pub fn read(device: u32, register: u32) -> u32 {
    outl(0xcf8, 1 << 31 | device << 11 | register);
    inl(0xcfc)
}

/// Writes a configuration register of device `device` on bus 0.
pub fn write(device: u32, register: u32, v: u32) {
    outl(0xcf8, 1 << 31 | device << 11 | register);
    outl(0xcfc, v);
}

/// The number of the first device with this vendor and device id.
pub fn find(id: u32) -> Option<u32> {
    (0..32).find(|&d| read(d, 0) == id)
}

/// Base address of BAR `bar`.
fn base(device: u32, bar: u32) -> u64 {
    let low = read(device, 0x10 + bar * 4);
    let high = if low & 6 == 4 { read(device, 0x14 + bar * 4) } else { 0 };
    u64::from(high) << 32 | u64::from(low & !0xf)
}

fn byte(device: u32, at: u32) -> u32 {
    read(device, at & !3) >> (at % 4 * 8) & 0xff
}

fn write8(at: u64, v: u8) {
    // SAFETY: a device register in the identity map.
    unsafe { (at as *mut u8).write_volatile(v) }
}

fn read8(at: u64) -> u8 {
    // SAFETY: as in `write8`.
    unsafe { (at as *const u8).read_volatile() }
}

fn write16(at: u64, v: u16) {
    // SAFETY: as in `write8`.
    unsafe { (at as *mut u16).write_volatile(v) }
}

fn read16(at: u64) -> u16 {
    // SAFETY: as in `write8`.
    unsafe { (at as *const u16).read_volatile() }
}

#[repr(C, align(4096))]
struct Rings {
    descriptors: [[u64; 2]; 4],
    available: [u16; 8],
    pad: [u64; 8],
    used: [u32; 16],
    buffer: [u64; 8],
}

static mut RINGS: Rings =
    Rings { descriptors: [[0; 2]; 4], available: [0; 8], pad: [0; 8], used: [0; 16], buffer: [0; 8] };

/// Where the capabilities of a virtio device lead.
#[derive(Default)]
struct Places {
    common: u64,
    notify: u64,
    notify_multiplier: u32,
    msix_table: u64,
    msix_capability: u32,
}

fn places(device: u32) -> Places {
    let mut p = Places::default();
    let mut at = byte(device, 0x34) & !3;
    while at != 0 {
        match byte(device, at) {
            9 => {
                let address = base(device, byte(device, at + 4)) + u64::from(read(device, at + 8));
                match byte(device, at + 3) {
                    1 => p.common = address,
                    2 => {
                        p.notify = address;
                        p.notify_multiplier = read(device, at + 16);
                    }
                    _ => {}
                }
            }
            0x11 => {
                let table = read(device, at + 4);
                p.msix_table = base(device, table & 7) + u64::from(table & !7);
                p.msix_capability = at;
            }
            _ => {}
        }
        at = byte(device, at + 1) & !3;
    }
    p
}

/// Asks the entropy device for 64 bytes with the interrupt as message `vector` to processor `apic_id`. `done` tells
/// whether to stop waiting. Says what went wrong, or gives the number of bytes delivered.
pub fn entropy(apic_id: u32, vector: u8, mut done: impl FnMut() -> bool) -> Result<u32, &'static str> {
    let device = find(VIRTIO_RNG).ok_or("no virtio entropy device")?;
    write(device, 4, 0x406);
    let p = places(device);
    if p.common == 0 || p.notify == 0 || p.msix_table == 0 {
        return Err("capabilities are missing");
    }
    if p.common >= 8 << 30 {
        return Err("registers lie above 8 GiB");
    }
    write32(p.msix_table, 0xfee0_0000 | apic_id << 12);
    write32(p.msix_table + 4, 0);
    write32(p.msix_table + 8, u32::from(vector));
    write32(p.msix_table + 12, 0);
    let control = read(device, p.msix_capability);
    write(device, p.msix_capability, control & !(1 << 30) | 1 << 31);
    for status in [0, 1, 3] {
        write8(p.common + 0x14, status);
    }
    write32(p.common + 8, 1);
    write32(p.common + 0xc, 1);
    write8(p.common + 0x14, 0xb);
    if read8(p.common + 0x14) & 8 == 0 {
        return Err("features were refused");
    }
    let rings = &raw mut RINGS;
    write16(p.common + 0x16, 0);
    write16(p.common + 0x18, 4);
    write16(p.common + 0x1a, 0);
    if read16(p.common + 0x1a) != 0 {
        return Err("the vector was refused");
    }
    // SAFETY: the rings are ours until the device is started.
    unsafe {
        write64(p.common + 0x20, &raw const (*rings).descriptors as u64);
        write64(p.common + 0x28, &raw const (*rings).available as u64);
        write64(p.common + 0x30, &raw const (*rings).used as u64);
        (*rings).descriptors[0] = [&raw const (*rings).buffer as u64, 64 | 2 << 32];
        (*rings).available[2] = 0;
        (&raw mut (*rings).available[1]).write_volatile(1);
    }
    write16(p.common + 0x1c, 1);
    write8(p.common + 0x14, 0xf);
    let offset = u64::from(read16(p.common + 0x1e)) * u64::from(p.notify_multiplier);
    write16(p.notify + offset, 0);
    for _ in 0..200_000 {
        if done() {
            // SAFETY: the device has written the used ring.
            return Ok(unsafe { (&raw const (*rings).used[2]).read_volatile() });
        }
    }
    Err("no interrupt came")
}

/// Reads a register through the memory-mapped configuration space at 0xe0000000.
pub fn read_mapped(device: u32, register: u32) -> u32 {
    read32(0xe000_0000 + u64::from(device << 15 | register))
}
