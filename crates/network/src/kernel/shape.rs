//! What goes out to a guest, slowed down by a token bucket (tc-tbf), as the kernel's messages tell it.

use rtnetlink::packet_core::{DefaultNla, Nla};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::definition::Rate;

/// Attributes of include/uapi/linux/pkt_sched.h.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `sizeof(struct tc_tbf_qopt)`: two rates of 12 bytes, and limit, buffer and mtu.
const PARMS: usize = 36;
/// Frames are not padded to cells of anything.
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// A tick of `buffer`, nanoseconds.
const TICK: u64 = 64;
const SECOND: u64 = 1_000_000_000;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes a second.
    pub(crate) rate: u64,
    /// Bytes.
    pub(crate) burst: u32,
}

impl From<Rate> for Shape {
    fn from(rate: Rate) -> Self {
        Self { rate: rate.bytes_per_second, burst: rate.burst() }
    }
}

impl Shape {
    /// Whether this is what the kernel tells after it was asked for `wanted`: it keeps the burst as time.
    pub(crate) fn is(&self, wanted: &Self) -> bool {
        let tick = wanted.rate.saturating_mul(TICK) / SECOND + 1;
        let near =
            u64::from(self.burst).abs_diff(u64::from(wanted.burst)) <= tick + u64::from(wanted.burst) / 500;
        self.rate == wanted.rate && near
    }

    /// What waits at most, bytes: a tenth of a second's, beyond the burst.
    fn limit(&self) -> u32 {
        u32::try_from(u64::from(self.burst).saturating_add(self.rate / 10)).unwrap_or(u32::MAX)
    }

    /// The message that makes this an interface's root.
    pub(crate) fn message(&self, link: u32) -> TcMessage {
        let mut parms = [0; PARMS];
        parms[1] = TC_LINKLAYER_ETHERNET;
        let narrow = u32::try_from(self.rate).unwrap_or(u32::MAX);
        parms[8..12].copy_from_slice(&narrow.to_ne_bytes());
        parms[24..28].copy_from_slice(&self.limit().to_ne_bytes());
        let option = |kind, value: &[u8]| TcOption::Other(DefaultNla::new(kind, value.to_vec()));
        let mut options =
            vec![option(TCA_TBF_PARMS, &parms), option(TCA_TBF_BURST, &self.burst.to_ne_bytes())];
        if self.rate > u64::from(u32::MAX) {
            options.push(option(TCA_TBF_RATE64, &self.rate.to_ne_bytes()));
        }
        let mut message = TcMessage::with_index(i32::try_from(link).unwrap_or(0));
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![TcAttribute::Kind("tbf".into()), TcAttribute::Options(options)];
        message
    }

    /// What a message tells of a token bucket.
    pub(crate) fn read(message: &TcMessage) -> Option<Self> {
        let bucket = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "tbf");
        if message.header.parent != TcHandle::ROOT || !message.attributes.iter().any(bucket) {
            return None;
        }
        let options = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.first(),
            _ => None,
        })?;
        let TcOption::Other(nested) = options else { return None };
        let mut bytes = vec![0; nested.value_len()];
        nested.emit_value(&mut bytes);
        let parms = attribute(&bytes, TCA_TBF_PARMS).filter(|parms| parms.len() >= PARMS)?;
        let narrow = u64::from(u32::from_ne_bytes(parms[8..12].try_into().ok()?));
        let wide = attribute(&bytes, TCA_TBF_RATE64).and_then(|value| value.try_into().ok());
        let rate = wide.map_or(narrow, u64::from_ne_bytes);
        let ticks = u64::from(u32::from_ne_bytes(parms[28..32].try_into().ok()?));
        let burst = u128::from(ticks) * u128::from(TICK) * u128::from(rate) / u128::from(SECOND);
        Some(Self { rate, burst: u32::try_from(burst).unwrap_or(u32::MAX) })
    }
}

/// The value of an attribute among others (include/uapi/linux/netlink.h, `struct nlattr`).
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    const HEADER: usize = 4;
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..HEADER)?.try_into().ok()?);
        let value = bytes.get(HEADER..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}
