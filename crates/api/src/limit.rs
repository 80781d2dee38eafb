//! How much a disk or a network card may do.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::{OneOfBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::{Invalid, Size};

/// Less than that each second, or at once, is nothing that a system gets on with.
const LEAST_BYTES: Size = Size(4096);

/// How much may pass each second. It is written whole, and read whole or as a number of bytes each second alone: `"10MiB"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// See [`Rates`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// See [`Rates`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_burst: Option<Size>,
    /// See [`Rates`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// See [`Rates`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations_burst: Option<u64>,
}

/// How much may pass each second. What is not said has no limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Bytes each second, 4096 or more.
    #[serde(default)]
    bytes: Option<Size>,
    /// Bytes at once after a silence, 4096 or more: a tenth of a second's unless told.
    #[serde(default)]
    bytes_burst: Option<Size>,
    /// Operations each second: requests of a disk, frames of a network card.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 9223372036854775807i64)]
    operations: Option<u64>,
    /// Operations at once after a silence: a tenth of a second's unless told.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 9223372036854775807i64)]
    operations_burst: Option<u64>,
}

impl Limit {
    /// So many bytes each second.
    pub fn bytes(bytes: Size) -> Self {
        Self { bytes: Some(bytes), ..Self::default() }
    }

    /// Whether it says nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it, if it is at `pointer`.
    pub(crate) fn check(&self, pointer: &str) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        for (field, value) in [("bytes", self.bytes), ("bytes_burst", self.bytes_burst)] {
            if let Some(bytes) = value.filter(|bytes| *bytes < LEAST_BYTES) {
                let detail = "a limit is in bytes, and 4096 (4 KiB) or more: write 10M for 10 MiB each second, \
                              and leave it out for no limit";
                wrong.push(Invalid::new(format!("{pointer}/{field}"), bytes.0, detail));
            }
        }
        for (field, value) in [("operations", self.operations), ("operations_burst", self.operations_burst)] {
            if let Some(count) = value.filter(|count| !(1..=i64::MAX as u64).contains(count)) {
                let detail = "1 or more each second; leave it out for no limit";
                wrong.push(Invalid::new(format!("{pointer}/{field}"), count, detail));
            }
        }
        if let (None, Some(burst)) = (self.bytes, self.bytes_burst) {
            let detail = "a burst is what passes at once beyond a rate: give bytes, too";
            wrong.push(Invalid::new(format!("{pointer}/bytes_burst"), burst.0, detail));
        }
        if let (None, Some(burst)) = (self.operations, self.operations_burst) {
            let detail = "a burst is what passes at once beyond a rate: give operations, too";
            wrong.push(Invalid::new(format!("{pointer}/operations_burst"), burst, detail));
        }
        wrong
    }
}

/// As people write it on the command line: `10M/s burst 64M, 500 ops/s`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let burst = |burst: Option<String>| burst.map(|burst| format!(" burst {burst}")).unwrap_or_default();
        let bytes = self
            .bytes
            .map(|bytes| format!("{bytes}/s{}", burst(self.bytes_burst.map(|burst| burst.to_string()))));
        let operations = self.operations.map(|count| {
            format!("{count} ops/s{}", burst(self.operations_burst.map(|burst| burst.to_string())))
        });
        f.write_str(&bytes.into_iter().chain(operations).collect::<Vec<_>>().join(", "))
    }
}

/// Reads a limit that may not be there; one that says nothing is none.
pub(crate) fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit>, D::Error> {
    Ok(Option::<Limit>::deserialize(deserializer)?.filter(|limit| !limit.is_none()))
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LimitVisitor)
    }
}

struct LimitVisitor;

impl<'de> Visitor<'de> for LimitVisitor {
    type Value = Limit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a number of bytes each second, text such as \"10MiB\", or bytes and operations each second",
        )
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Limit, E> {
        Size::deserialize(de::value::U64Deserializer::new(bytes)).map(Limit::bytes)
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Limit, E> {
        Size::deserialize(de::value::I64Deserializer::new(bytes)).map(Limit::bytes)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Limit, E> {
        text.parse().map(Limit::bytes).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limit, A::Error> {
        let Rates { bytes, bytes_burst, operations, operations_burst } =
            Rates::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Limit { bytes, bytes_burst, operations, operations_burst })
    }
}

impl PartialSchema for Limit {
    fn schema() -> RefOr<Schema> {
        let of = |name: &str| RefOr::Ref(Ref::from_schema_name(name));
        OneOfBuilder::new()
            .item(of("Rates"))
            .item(of("Size"))
            .description(Some(
                "How much may pass each second; a number of bytes alone, too, such as \"10MiB\". Answers have all of it.",
            ))
            .into()
    }
}

impl ToSchema for Limit {
    fn name() -> Cow<'static, str> {
        "Limit".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("Rates".into(), Rates::schema()));
        schemas.push(("Size".into(), Size::schema()));
        Rates::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(limit: Value) -> Vec<String> {
        let limit: Limit = serde_json::from_value(limit).unwrap();
        limit.check("/disks/0/limit").into_iter().map(|wrong| wrong.pointer).collect()
    }

    #[test]
    fn a_limit_is_read_as_bytes_or_whole_and_written_whole() {
        for (text, whole) in [
            (json!("10MiB"), json!({ "bytes": 10 << 20 })),
            (json!(65536), json!({ "bytes": 65536 })),
            (
                json!({ "bytes": "1M", "bytes_burst": "4M", "operations": 100, "operations_burst": 7 }),
                json!({ "bytes": 1 << 20, "bytes_burst": 4 << 20, "operations": 100, "operations_burst": 7 }),
            ),
            (json!({ "operations": null }), json!({})),
        ] {
            let limit: Limit = serde_json::from_value(text).unwrap();
            assert_eq!(serde_json::to_value(limit).unwrap(), whole);
        }
        for bad in [json!(-1), json!("10Mbit"), json!([]), json!({ "rate": 1 }), json!({ "operations": 0.5 })]
        {
            assert!(serde_json::from_value::<Limit>(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_nobody_means_is_refused_by_its_field() {
        assert_eq!(wrong(json!("4K")), [""; 0]);
        assert_eq!(wrong(json!({ "operations": 1, "operations_burst": 1, "bytes": "9000T" })), [""; 0]);
        assert_eq!(wrong(json!(0)), ["/disks/0/limit/bytes"]);
        assert_eq!(wrong(json!("10")), ["/disks/0/limit/bytes"]);
        assert_eq!(wrong(json!({ "bytes_burst": "1M" })), ["/disks/0/limit/bytes_burst"]);
        assert_eq!(wrong(json!({ "bytes": "1M", "bytes_burst": 0 })), ["/disks/0/limit/bytes_burst"]);
        assert_eq!(wrong(json!({ "operations": 0 })), ["/disks/0/limit/operations"]);
        assert_eq!(wrong(json!({ "operations_burst": 5 })), ["/disks/0/limit/operations_burst"]);
        assert_eq!(wrong(json!({ "operations": u64::MAX })), ["/disks/0/limit/operations"]);
    }

    #[test]
    fn a_limit_is_shown_as_people_say_it() {
        let limit: Limit =
            serde_json::from_value(json!({ "bytes": "10M", "bytes_burst": "64M", "operations": 500 }))
                .unwrap();
        assert_eq!(limit.to_string(), "10M/s burst 64M, 500 ops/s");
    }
}
