//! Entries of the mapping tables (QEMU, docs/interop/qcow2.rst, "Cluster mapping").

use super::header::Header;

/// Bits 55:9 of an entry: an offset.
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Entries of the first table: bits that must be zero.
pub const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Entries of the second: bits that must be zero (bit 0 says "zeroes" since version 3), and compressed data.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const L2_ZERO: u64 = 1;
const L2_COMPRESSED: u64 = 1 << 62;

/// What an entry of a table of the second level says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// The image has nothing: what it is based on shows.
    Nothing,
    /// Zeroes; a place that is kept for the cluster does not matter.
    Zeroes {
        /// The place.
        kept: Option<u64>,
    },
    /// The cluster lies there.
    Data(u64),
    /// Compressed data begin there.
    Compressed(u64),
}

/// What an entry of a table of the second level says; nothing if it makes no sense.
pub fn read(entry: u64, header: &Header) -> Option<Mapping> {
    if entry & L2_COMPRESSED != 0 {
        let offset_bits = 62 - (header.cluster_bits - 8);
        return Some(Mapping::Compressed(entry & ((1 << offset_bits) - 1)));
    }
    let reserved = if header.version == 2 { L2_RESERVED | L2_ZERO } else { L2_RESERVED };
    let at = entry & OFFSET;
    if entry & reserved != 0 || !at.is_multiple_of(header.cluster()) {
        return None;
    }
    Some(match at {
        _ if entry & L2_ZERO != 0 => Mapping::Zeroes { kept: (at != 0).then_some(at) },
        0 => Mapping::Nothing,
        at => Mapping::Data(at),
    })
}
