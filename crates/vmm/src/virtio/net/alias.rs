//! A card whose guest goes on in another one's memory, and knows the other one's addresses until somebody tells it its own.
//!
//! To the cable it is itself at once: what the guest sends under the other one's addresses bears its own there, and what comes for its own the guest
//! finds under the addresses that it knows. That is of Ethernet, ARP (RFC 826) and IPv4 (RFC 791); anything else waits until the guest has
//! sent a frame from the card's own hardware address, as it does when it has been told. From then on nothing is changed any more.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::HEADER;

/// Whose addresses a card's guest knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// The other one's hardware address.
    pub mac: [u8; 6],
    /// The other one's IPv4 address.
    pub ipv4: Ipv4Addr,
    /// The card's own one.
    pub own_ipv4: Ipv4Addr,
}

/// Where things are in a frame, behind the header of virtio.
const TO: usize = HEADER;
const FROM: usize = TO + 6;
const KIND: usize = FROM + 6;
const PACKET: usize = KIND + 2;

/// Kinds of frames.
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet and IPv4, the lengths of their addresses (RFC 826).
const ARP_OF_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// In ARP, behind the frame's own addresses: whose hardware and protocol addresses these are.
const ARP_SENDER: usize = PACKET + 8;
const ARP_TARGET: usize = ARP_SENDER + 10;
const ARP_END: usize = ARP_TARGET + 10;

/// In IPv4.
const FRAGMENT: usize = PACKET + 6;
const PROTOCOL: usize = PACKET + 9;
const CHECKSUM: usize = PACKET + 10;
const SOURCE: usize = PACKET + 12;
const DESTINATION: usize = PACKET + 16;

/// What IPv4 carries.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The flag of a frame whose checksum is that of its addresses only, for somebody to complete (virtio 1.2, 5.1.6).
const NEEDS_CSUM: u8 = 1;

/// An alias that a card has.
#[derive(Debug)]
pub(super) struct Translator {
    alias: Alias,
    own_mac: [u8; 6],
    /// Whether the guest knows who it is.
    over: bool,
    /// Whether the guest has told all that it has its own address.
    announced: bool,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// It goes on.
    Passes,
    /// It would be of the other one, or cannot be changed.
    Goes,
}

impl Translator {
    /// Of a card with the hardware address `own_mac`.
    pub fn new(alias: Alias, own_mac: [u8; 6]) -> Self {
        Self { alias, own_mac, over: false, announced: false }
    }

    /// Makes a frame of the guest's, with its header, one of this card's.
    pub fn outgoing(&mut self, frame: &mut [u8]) -> Fate {
        if frame.len() < PACKET {
            return Fate::Passes;
        }
        if self.over || frame[FROM..KIND] == self.own_mac {
            self.over = true;
            return fate(!self.is_first_announcement(frame));
        }
        if frame[FROM..KIND] != self.alias.mac {
            return Fate::Goes;
        }
        frame[FROM..KIND].copy_from_slice(&self.own_mac);
        let (known, own) = (self.alias.ipv4.octets(), self.alias.own_ipv4.octets());
        if is_arp(frame) {
            replace(frame, ARP_SENDER, &self.alias.mac, &self.own_mac);
            return fate(replace(frame, ARP_SENDER + 6, &known, &own));
        }
        fate(is_ipv4(frame) && !asks_for_address(frame) && replace_address(frame, SOURCE, known, own))
    }

    /// Whether it is the first frame with which the guest tells all of its own address (a gratuitous request, RFC 5944, 4.6). That is nothing new:
    /// the card has had that address all along. Of many guests that become themselves each would wake all others.
    fn is_first_announcement(&mut self, frame: &[u8]) -> bool {
        let own = self.alias.own_ipv4.octets();
        let is_one = !self.announced
            && is_arp(frame)
            && frame[ARP_SENDER + 6..ARP_TARGET] == own
            && frame[ARP_TARGET + 6..ARP_END] == own;
        self.announced |= is_one;
        is_one
    }

    /// Makes a frame for this card, with its header, one for its guest.
    pub fn incoming(&self, frame: &mut [u8]) -> Fate {
        if self.over || frame.len() < PACKET {
            return Fate::Passes;
        }
        replace(frame, TO, &self.own_mac, &self.alias.mac);
        let (known, own) = (self.alias.ipv4.octets(), self.alias.own_ipv4.octets());
        if is_arp(frame) {
            replace(frame, ARP_TARGET, &self.own_mac, &self.alias.mac);
            // The other one may be there, too: the guest is not to answer for it, or to take it for somebody with its address.
            let of_other = frame[ARP_SENDER + 6..ARP_TARGET] == known;
            return fate(!of_other && replace(frame, ARP_TARGET + 6, &own, &known));
        }
        if !is_ipv4(frame) {
            return Fate::Goes;
        }
        let is_for_many = frame[TO] & 1 != 0;
        fate(replace_address(frame, DESTINATION, own, known) || is_for_many)
    }
}

fn fate(passes: bool) -> Fate {
    if passes { Fate::Passes } else { Fate::Goes }
}

fn is_arp(frame: &[u8]) -> bool {
    frame.len() >= ARP_END && frame[KIND..PACKET] == ARP && frame[PACKET..PACKET + 6] == ARP_OF_IPV4
}

/// Whether it is IPv4 with a whole header, as long as it says.
fn is_ipv4(frame: &[u8]) -> bool {
    frame.len() >= DESTINATION + 4
        && frame[KIND..PACKET] == IPV4
        && frame[PACKET] >> 4 == 4
        && frame[PACKET] & 0xf >= 5
        && frame.len() >= payload(frame)
}

/// Whether a client of DHCP sends it (RFC 2131, 4.1): in it are the other one's addresses, and what is answered would be the other one's.
fn asks_for_address(frame: &[u8]) -> bool {
    frame[PROTOCOL] == UDP && frame[payload(frame)..].starts_with(&68u16.to_be_bytes())
}

/// Where what IPv4 carries begins.
fn payload(frame: &[u8]) -> usize {
    PACKET + usize::from(frame[PACKET] & 0xf) * 4
}

/// Writes `new` where `old` is; whether it was.
fn replace(frame: &mut [u8], at: usize, old: &[u8], new: &[u8]) -> bool {
    let place = &mut frame[at..at + old.len()];
    let found = place == old;
    if found {
        place.copy_from_slice(new);
    }
    found
}

/// The same for an address of IPv4, and in the checksums that it is part of.
fn replace_address(frame: &mut [u8], at: usize, old: [u8; 4], new: [u8; 4]) -> bool {
    if !replace(frame, at, &old, &new) {
        return false;
    }
    let sum = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let header = !exchanged(!sum(frame, CHECKSUM), old, new);
    frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&header.to_be_bytes());
    let is_first = u16::from_be_bytes([frame[FRAGMENT], frame[FRAGMENT + 1]]) & 0x1fff == 0;
    let (udp, place) = match frame[PROTOCOL] {
        TCP => (false, payload(frame) + 16),
        UDP => (true, payload(frame) + 6),
        _ => return true,
    };
    if !is_first || frame.len() < place + 2 {
        return true;
    }
    let before = sum(frame, place);
    let after = match frame[0] & NEEDS_CSUM != 0 {
        true => exchanged(before, old, new),
        // UDP may go without (RFC 768).
        false if udp && before == 0 => return true,
        false => match !exchanged(!before, old, new) {
            0 if udp => 0xffff,
            sum => sum,
        },
    };
    frame[place..place + 2].copy_from_slice(&after.to_be_bytes());
    true
}

/// A sum in which one address is exchanged for another (RFC 1624).
fn exchanged(sum: u16, old: [u8; 4], new: [u8; 4]) -> u16 {
    let halves = |address: [u8; 4]| {
        [u16::from_be_bytes([address[0], address[1]]), u16::from_be_bytes([address[2], address[3]])]
    };
    let without = halves(old).map(|half| u32::from(!half));
    let with = halves(new).map(u32::from);
    let mut sum = u32::from(sum) + without.iter().chain(&with).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
    const PEER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 9];
    const MANY: [u8; 6] = [0xff; 6];
    const KNOWN_IP: [u8; 4] = [10, 0, 0, 5];
    const OWN_IP: [u8; 4] = [10, 0, 200, 77];
    const PEER_IP: [u8; 4] = [10, 0, 0, 1];

    fn translator() -> Translator {
        let alias = Alias { mac: KNOWN, ipv4: KNOWN_IP.into(), own_ipv4: OWN_IP.into() };
        Translator::new(alias, OWN)
    }

    fn ethernet(to: [u8; 6], from: [u8; 6], kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
        [&[0; HEADER][..], &to, &from, &kind, packet].concat()
    }

    fn arp(to: [u8; 6], from: [u8; 6], sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Vec<u8> {
        let packet = [&ARP_OF_IPV4[..], &[0, 1], &sender.0, &sender.1, &target.0, &target.1].concat();
        ethernet(to, from, ARP, &packet)
    }

    /// The sum of all halves, as RFC 1071 has it: of what is right it is all ones.
    fn sum(bytes: &[u8]) -> u16 {
        let halves = bytes
            .chunks(2)
            .map(|half| u32::from(half[0]) << 8 | half.get(1).map_or(0, |low| u32::from(*low)));
        let mut sum: u32 = halves.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn pseudo_header(protocol: u8, from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
        [&from[..], &to, &[0, protocol], &(len as u16).to_be_bytes()].concat()
    }

    /// IPv4 between two with right checksums; `place` is where that of what it carries is.
    fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], place: Option<usize>, payload: &[u8]) -> Vec<u8> {
        let mut payload = payload.to_vec();
        if let Some(place) = place {
            let all = [pseudo_header(protocol, from, to, payload.len()), payload.clone()].concat();
            payload[place..place + 2].copy_from_slice(&(!sum(&all)).to_be_bytes());
        }
        let len = (20 + payload.len()) as u16;
        let mut header =
            [&[0x45, 0][..], &len.to_be_bytes(), &[1, 2, 0x40, 0, 64, protocol, 0, 0], &from, &to].concat();
        let check = !sum(&header);
        header[10..12].copy_from_slice(&check.to_be_bytes());
        [header, payload].concat()
    }

    #[test]
    fn a_question_for_its_address_is_one_for_the_address_that_it_knows_and_the_answer_is_its_own() {
        let mut translator = translator();
        let mut asked = arp(MANY, PEER, (PEER, PEER_IP), ([0; 6], OWN_IP));
        assert_eq!(translator.incoming(&mut asked), Fate::Passes);
        assert_eq!(asked, arp(MANY, PEER, (PEER, PEER_IP), ([0; 6], KNOWN_IP)));
        let mut answer = arp(PEER, KNOWN, (KNOWN, KNOWN_IP), (PEER, PEER_IP));
        assert_eq!(translator.outgoing(&mut answer), Fate::Passes);
        assert_eq!(answer, arp(PEER, OWN, (OWN, OWN_IP), (PEER, PEER_IP)));
        let mut answer = arp(OWN, PEER, (PEER, PEER_IP), (OWN, OWN_IP));
        assert_eq!(translator.incoming(&mut answer), Fate::Passes);
        assert_eq!(answer, arp(KNOWN, PEER, (PEER, PEER_IP), (KNOWN, KNOWN_IP)));
    }

    #[test]
    fn it_neither_answers_for_the_other_one_nor_says_anything_of_it() {
        let mut translator = translator();
        for mut frame in [
            arp(MANY, PEER, (PEER, PEER_IP), ([0; 6], KNOWN_IP)),
            arp(MANY, KNOWN, (KNOWN, KNOWN_IP), ([0; 6], OWN_IP)),
            ethernet(OWN, PEER, IPV4, &ipv4(1, PEER_IP, KNOWN_IP, None, &[8, 0, 1, 2])),
            ethernet(MANY, PEER, [0x86, 0xdd], &[0x60; 60]),
            ethernet(OWN, PEER, ARP, &[0; 10]),
        ] {
            assert_eq!(translator.incoming(&mut frame), Fate::Goes, "{frame:x?}");
        }
        let lease = [&68u16.to_be_bytes()[..], &67u16.to_be_bytes(), &[0, 12, 0, 0, 1, 2, 3, 4]].concat();
        for mut frame in [
            ethernet(PEER, PEER, IPV4, &ipv4(1, KNOWN_IP, PEER_IP, None, &[8, 0])),
            ethernet(PEER, KNOWN, IPV4, &ipv4(1, PEER_IP, KNOWN_IP, None, &[8, 0])),
            ethernet(MANY, KNOWN, IPV4, &ipv4(17, KNOWN_IP, [255; 4], Some(6), &lease)),
            ethernet(MANY, KNOWN, [0x86, 0xdd], &[0x60; 60]),
        ] {
            assert_eq!(translator.outgoing(&mut frame), Fate::Goes, "{frame:x?}");
        }
    }

    #[test]
    fn checksums_are_right_whoever_completes_them() {
        let tcp: Vec<u8> = (0..33).collect();
        let udp = [&[1, 2, 3, 4, 0, 16, 0, 0][..], b"datagram"].concat();
        for (protocol, place, payload) in
            [(TCP, Some(16), &tcp[..]), (UDP, Some(6), &udp), (1, None, b"ping")]
        {
            let to_guest = |to, ip| ethernet(to, PEER, IPV4, &ipv4(protocol, PEER_IP, ip, place, payload));
            let mut frame = to_guest(OWN, OWN_IP);
            assert_eq!(translator().incoming(&mut frame), Fate::Passes);
            assert_eq!(frame, to_guest(KNOWN, KNOWN_IP));
            let of_guest =
                |from, ip| ethernet(PEER, from, IPV4, &ipv4(protocol, ip, PEER_IP, place, payload));
            let mut frame = of_guest(KNOWN, KNOWN_IP);
            assert_eq!(translator().outgoing(&mut frame), Fate::Passes);
            assert_eq!(frame, of_guest(OWN, OWN_IP));
        }
        // One that somebody is to complete has the sum of its addresses in it.
        let partial = |from, ip: [u8; 4]| {
            let mut frame = ethernet(PEER, from, IPV4, &ipv4(TCP, ip, PEER_IP, None, &tcp));
            frame[0] = NEEDS_CSUM;
            let place = PACKET + 20 + 16;
            frame[place..place + 2]
                .copy_from_slice(&sum(&pseudo_header(TCP, ip, PEER_IP, tcp.len())).to_be_bytes());
            frame
        };
        let mut frame = partial(KNOWN, KNOWN_IP);
        assert_eq!(translator().outgoing(&mut frame), Fate::Passes);
        assert_eq!(frame, partial(OWN, OWN_IP));
        // No checksum stays none, and a fragment behind the first has none.
        let none = |ip| ethernet(PEER, OWN, IPV4, &ipv4(UDP, ip, PEER_IP, None, &udp));
        let mut frame = none(KNOWN_IP);
        frame[FROM..KIND].copy_from_slice(&KNOWN);
        assert_eq!(translator().outgoing(&mut frame), Fate::Passes);
        assert_eq!(frame, none(OWN_IP));
        let mut frame = ethernet(PEER, KNOWN, IPV4, &ipv4(TCP, KNOWN_IP, PEER_IP, Some(16), &tcp));
        frame[FRAGMENT + 1] = 7;
        assert_eq!(translator().outgoing(&mut frame), Fate::Passes);
        assert_eq!(
            frame[PACKET + 20..],
            ethernet(PEER, KNOWN, IPV4, &ipv4(TCP, KNOWN_IP, PEER_IP, Some(16), &tcp))[PACKET + 20..]
        );
    }

    #[test]
    fn what_is_cut_short_harms_nobody() {
        let whole = ethernet(OWN, PEER, IPV4, &ipv4(TCP, PEER_IP, OWN_IP, Some(16), &[0; 20]));
        let question = arp(OWN, PEER, (PEER, PEER_IP), (OWN, OWN_IP));
        for frame in [whole, question] {
            for len in 0..frame.len() {
                let _ = translator().incoming(&mut frame[..len].to_vec());
                let mut sent = frame[..len].to_vec();
                if len >= PACKET {
                    sent[FROM..KIND].copy_from_slice(&KNOWN);
                }
                let _ = translator().outgoing(&mut sent);
            }
        }
    }

    #[test]
    fn nothing_is_changed_any_more_when_the_guest_has_sent_from_its_own_address() {
        let mut translator = translator();
        let asked = arp(MANY, OWN, (OWN, OWN_IP), ([0; 6], PEER_IP));
        let told = arp(MANY, OWN, (OWN, OWN_IP), ([0; 6], OWN_IP));
        // It tells of itself as if it was new, once for each address.
        let of_other = arp(MANY, OWN, (OWN, KNOWN_IP), ([0; 6], KNOWN_IP));
        for (frame, fate) in
            [(&of_other, Fate::Passes), (&told, Fate::Goes), (&told, Fate::Passes), (&asked, Fate::Passes)]
        {
            let mut sent = frame.clone();
            assert_eq!((translator.outgoing(&mut sent), &sent), (fate, frame));
        }
        for frame in [
            told,
            ethernet(MANY, PEER, [0x86, 0xdd], &[0x60; 60]),
            arp(MANY, PEER, (PEER, PEER_IP), ([0; 6], OWN_IP)),
        ] {
            let mut came = frame.clone();
            assert_eq!((translator.incoming(&mut came), &came), (Fate::Passes, &frame));
        }
    }
}
