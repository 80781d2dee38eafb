//! Numbers with units, as people write them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A number of bytes. In JSON it is written as a number, and read as one or as text: `"512MiB"`, `"1.5G"` (binary multiples; `M`,
/// `MB` and `MiB` mean the same).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Size(pub u64);

/// A text is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// They are bits, of which nothing here is a number.
    #[error("'{0}' is in bits, and a size is in bytes: 10 Mbit are 1220K, for example")]
    Bits(String),
    /// The letters after the number are no unit.
    #[error("'{0}' is not a unit of size: use K, M, G or T")]
    Unit(String),
    /// It is no number, or too large for 63 bits.
    #[error("'{0}' is not a size: write it as 512M or 4G")]
    Number(String),
}

/// What sizes are written in, the largest first.
const UNITS: [(u64, &str); 4] = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let shift = match unit.trim_start().to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            unit if unit.contains("BIT") => return Err(SizeError::Bits(text.to_owned())),
            _ => return Err(SizeError::Unit(unit.to_owned())),
        };
        let wrong = || SizeError::Number(text.to_owned());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.len() > 6 {
            return Err(wrong());
        }
        let unit = 1u128 << shift;
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let scale = 10u128.pow(fraction.len() as u32);
        let fraction: u64 = fraction.parse().map_err(|_| wrong())?;
        let bytes = u128::from(whole) * unit + u128::from(fraction) * unit / scale;
        u64::try_from(bytes).ok().filter(|bytes| *bytes <= i64::MAX as u64).map(Size).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) if self.0.is_multiple_of(*unit) => write!(f, "{}{name}", self.0 / unit),
            Some((unit, name)) => write!(f, "{:.1}{name}", self.0 as f64 / *unit as f64),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Size {
    /// The largest size that is no more and can be written as it is: what somebody is told that they may ask for they then get.
    pub fn at_most(self) -> String {
        self.whole(|bytes, unit| bytes / unit)
    }

    /// The same that is no less.
    pub fn at_least(self) -> String {
        self.whole(u64::div_ceil)
    }

    fn whole(self, parts: impl Fn(u64, u64) -> u64) -> String {
        let unit = [1u64 << 20, 1 << 10].into_iter().find(|unit| self.0 >= *unit).unwrap_or(1);
        let bytes = parts(self.0, unit).saturating_mul(unit);
        match UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
            Some((unit, name)) => format!("{}{name}", bytes / unit),
            None => format!("{bytes}B"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or text such as \"512MiB\"")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        if bytes > i64::MAX as u64 {
            return Err(E::invalid_value(de::Unexpected::Unsigned(bytes), &self));
        }
        Ok(Size(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes).map(Size).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }
}

impl PartialSchema for Size {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^[0-9]+(\.[0-9]{1,6})? ?([KMGTkmgt]([iI]?[bB])?|[bB])?$"))
            .build();
        OneOfBuilder::new()
            .item(number)
            .item(text)
            .description(Some("A number of bytes, or text such as \"512MiB\"; answers have the number."))
            .into()
    }
}

impl ToSchema for Size {
    fn name() -> Cow<'static, str> {
        "Size".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_multiples() {
        for (text, bytes) in
            [("512M", 512 << 20), ("4g", 4 << 30), ("1.5GiB", 3 << 29), ("4096", 4096), ("1T", 1 << 40)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bytes in [0, 1, 1023, 1025, 4 << 30, 12_345, 5_023_456_789, (4 << 30) - 1] {
            let read = |text: String| text.parse::<Size>().unwrap().0;
            let (most, least) = (read(Size(bytes).at_most()), read(Size(bytes).at_least()));
            assert!(most <= bytes && bytes <= least && least - most <= 1 << 20, "{most} {bytes} {least}");
        }
        assert_eq!(
            (Size(5_023_456_789).at_most(), Size(5_023_456_789).at_least()),
            ("4790M".into(), "4791M".into())
        );
        assert_eq!(
            (Size((4 << 30) + 1).at_most(), Size((4 << 30) - 1).at_least()),
            ("4G".into(), "4G".into())
        );
        assert!("10Mbit".parse::<Size>().unwrap_err().to_string().contains("in bits"));
        for text in ["", "M", "-1G", "1..5G", "1.G", "4X", "99999999999T", "1e9"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_as_a_person_writes_them() {
        assert_eq!(Size(512 << 20).to_string(), "512M");
        assert_eq!(Size(3 << 29).to_string(), "1.5G");
        assert_eq!(Size(100).to_string(), "100B");
    }

    #[test]
    fn json_has_sizes_as_numbers_and_takes_both() {
        assert_eq!(serde_json::to_string(&Size(1024)).unwrap(), "1024");
        assert_eq!(serde_json::from_str::<Size>("1024").unwrap(), Size(1024));
        assert_eq!(serde_json::from_str::<Size>("\"1 KiB\"").unwrap(), Size(1024));
        for bad in ["-1", "1.5", "\"x\"", "null", "[]", "18446744073709551615"] {
            assert!(serde_json::from_str::<Size>(bad).is_err(), "{bad}");
        }
    }
}
