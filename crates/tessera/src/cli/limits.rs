//! Limits of disks and network cards as people write them: `bps=10M:64M,iops=500` and `rx=10M,tx_pps=1000`.

use std::str::FromStr;

use api::{Disk, Limit, Nic, Size, merge};
use host::supervisor::limits;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use vmm::control::{DiskLimits, NetLimits};

use crate::failure::{Failure, Result};

/// What of a limit a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Bytes,
    Operations,
}

/// A word's key, the field of a definition that it is in, and what of that it says.
type Key = (&'static str, &'static str, Of);

const DISK: [Key; 6] = [
    ("bps", "limit", Of::Bytes),
    ("bps_rd", "read_limit", Of::Bytes),
    ("bps_wr", "write_limit", Of::Bytes),
    ("iops", "limit", Of::Operations),
    ("iops_rd", "read_limit", Of::Operations),
    ("iops_wr", "write_limit", Of::Operations),
];

const CARD: [Key; 4] = [
    ("rx", "receive_limit", Of::Bytes),
    ("tx", "send_limit", Of::Bytes),
    ("rx_pps", "receive_limit", Of::Operations),
    ("tx_pps", "send_limit", Of::Operations),
];

/// How a disk's limits are written.
pub const DISK_WORDS: &str = "bps|bps_rd|bps_wr=SIZE[:BURST]|none, iops|iops_rd|iops_wr=N[:BURST]|none";
/// How a card's limits are written.
pub const CARD_WORDS: &str = "rx|tx=SIZE[:BURST]|none, rx_pps|tx_pps=N[:BURST]|none";

/// One word: a rate and a burst, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    field: &'static str,
    of: Of,
    rate: Option<(u64, Option<u64>)>,
}

fn number(of: Of, text: &str) -> std::result::Result<u64, String> {
    match of {
        Of::Bytes => text.parse::<Size>().map(|size| size.0).map_err(|error| error.to_string()),
        Of::Operations => text.parse().map_err(|_| format!("'{text}' is no number")),
    }
}

impl Word {
    /// Reads `KEY=RATE[:BURST]` or `KEY=none`; none if it is not about a limit.
    fn read(keys: &[Key], text: &str) -> std::result::Result<Option<Self>, String> {
        let Some((key, value)) = text.split_once('=') else { return Ok(None) };
        let Some((_, field, of)) = keys.iter().find(|(known, ..)| *known == key).copied() else {
            return Ok(None);
        };
        let rate = match value {
            "none" => None,
            _ => {
                let told = |error| match of {
                    Of::Bytes => {
                        format!(
                            "'{text}': {error}: write so many bytes each second as 10M, with a burst as 10M:64M"
                        )
                    }
                    Of::Operations => {
                        format!(
                            "'{text}': {error}: write so many each second as 500, with a burst as 500:1000"
                        )
                    }
                };
                let (rate, burst) =
                    value.split_once(':').map_or((value, None), |(rate, burst)| (rate, Some(burst)));
                let rate = number(of, rate).map_err(told)?;
                Some((rate, burst.map(|burst| number(of, burst)).transpose().map_err(told)?))
            }
        };
        Ok(Some(Self { field, of, rate }))
    }
}

/// The merge patch of a definition that some words are: what they do not say stays.
fn patch(words: &[Word]) -> Value {
    let mut fields = Map::new();
    for word in words {
        let (rate, burst) = word.rate.map_or((None, None), |(rate, burst)| (Some(rate), burst));
        let (name, at_once) = match word.of {
            Of::Bytes => ("bytes", "bytes_burst"),
            Of::Operations => ("operations", "operations_burst"),
        };
        let field = fields.entry(word.field).or_insert_with(|| json!({}));
        (field[name], field[at_once]) = (json!(rate), json!(burst));
    }
    Value::Object(fields)
}

/// A definition with what the words say.
fn limited<T: Serialize + DeserializeOwned>(definition: &T, words: &[Word]) -> Result<T> {
    let told = |error: serde_json::Error| Failure::internal(error.to_string());
    let mut value = serde_json::to_value(definition).map_err(told)?;
    merge(&mut value, patch(words));
    serde_json::from_value(value).map_err(told)
}

/// What is wrong with words that say nothing about a limit.
fn unknown(text: &str, words: &str) -> String {
    format!("'{text}' is no limit: use {words}")
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident, $keys:ident, $words:ident) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name(Vec<Word>);

        impl $name {
            /// Takes a word in; false if it is not about a limit.
            ///
            /// # Errors
            /// If it is, and says something that cannot be.
            pub fn take(&mut self, text: &str) -> std::result::Result<bool, String> {
                let word = Word::read(&$keys, text)?;
                self.0.extend(word);
                Ok(word.is_some())
            }

            /// The merge patch that they are.
            pub fn patch(&self) -> Value {
                patch(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = String;

            /// Reads words with commas between, or `none` for no limit at all.
            fn from_str(text: &str) -> std::result::Result<Self, String> {
                if text == "none" {
                    return Ok(Self($keys.map(|(_, field, of)| Word { field, of, rate: None }).to_vec()));
                }
                let mut words = Self::default();
                for part in text.split(',') {
                    if !words.take(part)? {
                        return Err(unknown(part, $words));
                    }
                }
                Ok(words)
            }
        }
    };
}

words! {
    /// Limits of a disk.
    DiskWords, DISK, DISK_WORDS
}

words! {
    /// Limits of a network card.
    CardWords, CARD, CARD_WORDS
}

impl DiskWords {
    /// A disk with them.
    ///
    /// # Errors
    /// Never: it is plain data.
    pub fn on(&self, disk: &Disk) -> Result<Disk> {
        limited(disk, &self.0)
    }

    /// What they are for a machine of this process's own.
    ///
    /// # Errors
    /// If they cannot be.
    pub fn limits(&self) -> Result<DiskLimits> {
        let disk = self.on(&Disk::of(api::DiskSource::Size(Size(0))))?;
        let limits = limits::of_disk(&disk);
        limits.check().map_err(Failure::input)?;
        Ok(limits)
    }
}

impl CardWords {
    /// A card with them.
    ///
    /// # Errors
    /// Never: it is plain data.
    pub fn on(&self, nic: &Nic) -> Result<Nic> {
        limited(nic, &self.0)
    }

    /// What they are for a machine of this process's own.
    ///
    /// # Errors
    /// If they cannot be.
    pub fn limits(&self) -> Result<NetLimits> {
        let nic = self.on(&Nic::default())?;
        let limits = limits::of_card(&nic);
        limits.check().map_err(Failure::input)?;
        Ok(limits)
    }
}

/// Limits as a list shows them; `names` are those of the fields.
pub fn shown<const N: usize>(limits: [(&str, Option<Limit>); N], names: [&str; N]) -> String {
    let there = limits.into_iter().zip(names).filter_map(|((_, limit), name)| Some((limit?, name)));
    let words: Vec<_> = there.map(|(limit, name)| format!("{name}{limit}")).collect();
    if words.is_empty() { "-".to_owned() } else { words.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_leave_alone_what_they_do_not_say() {
        let words: DiskWords = "bps=10M:64M,iops_wr=500,bps_rd=none".parse().unwrap();
        let patch = words.patch();
        assert_eq!(patch["limit"], json!({ "bytes": 10 << 20, "bytes_burst": 64 << 20 }));
        assert_eq!(patch["write_limit"], json!({ "operations": 500, "operations_burst": null }));
        assert_eq!(patch["read_limit"], json!({ "bytes": null, "bytes_burst": null }));
        let disk = words.on(&Disk::of(api::DiskSource::Size(Size(1 << 20)))).unwrap();
        assert_eq!(shown(disk.limits(), ["", "read ", "write "]), "10M/s burst 64M; write 500 ops/s");
        assert_eq!(
            "none".parse::<DiskWords>().unwrap().on(&disk).unwrap().limits().map(|(_, limit)| limit),
            [None; 3]
        );
        let card: CardWords = "rx=1M,tx_pps=7:9".parse().unwrap();
        let limits = card.limits().unwrap();
        assert_eq!(limits.receive.bytes.unwrap().per_second, 1 << 20);
        assert_eq!(limits.send.operations.unwrap().burst, Some(9));
    }

    #[test]
    fn what_cannot_be_is_told_with_what_would_be_right() {
        for (text, part) in [
            ("bps=fast", "as 10M"),
            ("bps=10Mbit", "in bits"),
            ("iops=1.5", "as 500"),
            ("iops=500:", "as 500:1000"),
            ("rate=5", "bps_rd"),
            ("bps", "bps_rd"),
            ("", "bps_rd"),
        ] {
            let error = text.parse::<DiskWords>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!("tx=1M,bps=1M".parse::<CardWords>().unwrap_err().contains("rx_pps"));
        assert!("rx_pps=0".parse::<CardWords>().unwrap().limits().is_err());
    }
}
