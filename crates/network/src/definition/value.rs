//! Values as people write them, and what is wrong with one.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_path_to_error::Segment;
use utoipa::ToSchema;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, ToSchema)]
#[error("{pointer}: {value}: {detail}; {expected}")]
pub struct Fault {
    /// The field, as a JSON pointer (RFC 6901) from what was given.
    pub pointer: String,
    /// What it holds.
    pub value: String,
    /// What is wrong with that.
    pub detail: String,
    /// What would be right.
    pub expected: String,
}

impl Fault {
    pub(crate) fn new(
        pointer: impl Into<String>,
        value: impl fmt::Display,
        detail: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        let [pointer, detail, expected] = [pointer.into(), detail.into(), expected.into()];
        Self { pointer, value: value.to_string(), detail, expected }
    }

    /// The same fault of something that is part of something larger.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.pointer.insert_str(0, outer);
        self
    }
}

/// Reads a definition. What is wrong with the values themselves is found by `check`.
///
/// # Errors
/// Names the first field that is missing, unknown or of another type.
pub fn read<T: DeserializeOwned>(value: &serde_json::Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut pointer = String::new();
        for segment in error.path() {
            match segment {
                Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
                Segment::Enum { variant } => pointer.push_str(&format!("/{}", escape(variant))),
                Segment::Unknown => {}
            }
        }
        let found = value.pointer(&pointer).map_or_else(|| "nothing".into(), ToString::to_string);
        let told = error.inner().to_string();
        let (detail, expected) = told.split_once("; ").unwrap_or((&told, "see the API's description of it"));
        Fault::new(pointer, found, detail, expected)
    })
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The address of a network card (IEEE 802 MAC-48).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, format = "mac", example = "52:54:00:12:34:56")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it is of one station: neither of a group nor of nobody.
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no [`Mac`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no card's address; write six bytes as 52:54:00:12:34:56")]
pub struct NoMac;

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(NoMac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NoMac)?;
        }
        if parts.next().is_some() { Err(NoMac) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse(deserializer, &NoMac.to_string())
    }
}

pub(super) fn subnet4<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ipv4Net, D::Error> {
    parse(deserializer, "is no IPv4 subnet; write its first address and length as 10.10.0.0/24")
}

pub(super) fn subnet6<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ipv6Net, D::Error> {
    parse(deserializer, "is no IPv6 subnet; write its first address and length as fd00:10::/64")
}

pub(super) fn address4<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv4Addr>, D::Error> {
    if deserializer.is_human_readable() {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let wrong = |_| D::Error::custom("is no IPv4 address; write one as 10.10.0.5");
        return text.parse().map(Some).map_err(wrong);
    }
    Option::deserialize(deserializer)
}

fn parse<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D, wrong: &str) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(wrong))
}
