//! Addresses for who names none.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{Ipv4, Ipv6, Mac};

/// All addresses are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address is free; make the range or the subnet larger, or remove what is not needed")]
pub struct NoneFree;

/// An address for a card: the same again for the same card wherever nobody has taken it meanwhile.
///
/// # Errors
/// If all of the range is taken.
pub fn free_address(
    ipv4: &Ipv4,
    mac: Mac,
    taken: impl IntoIterator<Item = Ipv4Addr>,
) -> Result<Ipv4Addr, NoneFree> {
    let taken: HashSet<_> = taken.into_iter().chain([ipv4.gateway()]).collect();
    let range = ipv4.range();
    let (first, last) = (u32::from(range.first), u32::from(range.last));
    let count = last.checked_sub(first).and_then(|less| less.checked_add(1)).ok_or(NoneFree)?;
    let start = mac.0.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    (0..count)
        .map(|step| Ipv4Addr::from(first + ((u64::from(start) + u64::from(step)) % u64::from(count)) as u32))
        .find(|address| !taken.contains(address))
        .ok_or(NoneFree)
}

/// The IPv6 address that a card's own address makes in a subnet (RFC 4291, appendix A): free wherever the card is the only
/// one of its address.
pub fn free_address6(ipv6: &Ipv6, mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let own = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from(u128::from(ipv6.subnet.network()) | u128::from(own))
}

/// A subnet of 254 guests in 10.0.0.0/8 that overlaps none of `taken`: the host's own and the other networks'.
///
/// # Errors
/// If there is none.
pub fn free_subnet(taken: &[Ipv4Net]) -> Result<Ipv4Net, NoneFree> {
    // Low numbers are what everyone else uses for something.
    let middle = (64..=255u8).chain(0..64).flat_map(|second| (0..=255u8).map(move |third| (second, third)));
    middle
        .filter_map(|(second, third)| Ipv4Net::new(Ipv4Addr::new(10, second, third, 0), 24).ok())
        .find(|subnet| !taken.iter().any(|other| overlap4(subnet, other)))
        .ok_or(NoneFree)
}

pub(crate) fn overlap4(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

pub(crate) fn overlap6(one: &Ipv6Net, other: &Ipv6Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}
