//! What our things are called in the kernel: by their names alone, each host knows its own from anybody else's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which host owns a thing: four lower-case letters or digits, drawn once and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner([u8; 4]);

/// Why a text is no [`Owner`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no owner of networks; it has four lower-case letters or digits")]
pub struct NoOwner(String);

/// 32 signs that can stand in an interface's name.
const SIGNS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl Owner {
    /// The owner that a random number makes.
    pub fn from_number(number: u32) -> Self {
        Self(std::array::from_fn(|at| SIGNS[(number >> (5 * at)) as usize % 32]))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The bridge of a network.
    pub fn bridge(&self, network: &str) -> String {
        self.interface('b', network)
    }

    /// The tap of a port.
    pub fn tap(&self, port: &str) -> String {
        self.interface('p', port)
    }

    /// What begins the names of all its taps.
    pub fn taps(&self) -> String {
        format!("t{self}p")
    }

    /// Its tables of rules.
    pub fn table(&self) -> String {
        format!("tessera_{self}")
    }

    /// Whether an interface is one of its own.
    pub fn owns(&self, interface: &str) -> bool {
        let rest = interface.strip_prefix('t').and_then(|rest| rest.strip_prefix(self.text()));
        let Some(rest) = rest.filter(|rest| rest.len() == 10) else { return false };
        rest.starts_with(['b', 'p']) && rest.bytes().skip(1).all(|b| SIGNS.contains(&b))
    }

    /// The card's address of a network's bridge: local, and the same each time.
    pub(crate) fn bridge_mac(&self, network: &str) -> [u8; 6] {
        let hash = hash(&[&self.0, b"b", network.as_bytes()]).to_be_bytes();
        [0x02, hash[0], hash[1], hash[2], hash[3], hash[4]]
    }

    /// Fifteen characters, as many as the kernel takes, of which nine name what it is for: 45 bits.
    fn interface(&self, kind: char, of: &str) -> String {
        let hash = hash(&[of.as_bytes()]);
        let rest = (0..9).map(|at| char::from(SIGNS[(hash >> (5 * at)) as usize % 32]));
        format!("t{self}{kind}{}", rest.collect::<String>())
    }
}

/// FNV-1a, 64 bits, and a last mix: these names outlive the program that made them, so the function must never change.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = parts.iter().copied().flatten().fold(0xcbf2_9ce4_8422_2325, step);
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for Owner {
    type Err = NoOwner;

    fn from_str(text: &str) -> Result<Self, NoOwner> {
        let wrong = || NoOwner(text.to_owned());
        let bytes = <[u8; 4]>::try_from(text.as_bytes()).map_err(|_| wrong())?;
        let good = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        good.then_some(Self(bytes)).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Owner {
    type Error = NoOwner;

    fn try_from(text: String) -> Result<Self, NoOwner> {
        text.parse()
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_known_by_their_names_and_fit_the_kernel() {
        let owner: Owner = "ab1z".parse().unwrap();
        for name in [owner.bridge("lan"), owner.tap("web/0")] {
            assert_eq!(name.len(), 15);
            assert!(owner.owns(&name));
            assert!(!Owner::from_number(7).owns(&name));
        }
        assert_ne!(owner.bridge("lan")[6..], owner.tap("lan2")[6..]);
        for foreign in ["eth0", "tab1zb", "tab1zbUPPERCASE", "tab1zxaaaaaaaaa", "tab1"] {
            assert!(!owner.owns(foreign), "{foreign}");
        }
    }

    #[test]
    fn names_never_change() {
        let owner: Owner = "ab1z".parse().unwrap();
        assert_eq!(owner.bridge("lan"), "tab1zbn3tdb6kqz");
    }

    #[test]
    fn an_owner_has_four_signs() {
        for wrong in ["", "abc", "abcde", "ABCD", "a-b1"] {
            assert!(wrong.parse::<Owner>().is_err(), "{wrong}");
        }
        assert_eq!(Owner::from_number(0).to_string(), "aaaa");
    }
}
