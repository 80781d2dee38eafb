//! What guests are promised of what they share, and what they get of it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::share_in_bytes::usual_weight;
use crate::{BandwidthReport, Id, Invalid, MemoryReport, Name, ShareGroupInfo};

/// The most processors that anything here is about: more than any machine has.
const MOST: u32 = 100_000;

/// Processors of the host in steps of a thousandth: `0.05` is a twentieth of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Processors {
    thousandths: u32,
}

/// A number is none of processors.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0} is no number of processors: give one such as 0.5 or 2, in steps of 0.001")]
pub struct NotProcessors(String);

impl Processors {
    /// The least that can be promised, or be a limit, if it is anything.
    pub const LEAST: Self = Self { thousandths: 10 };

    /// The nearest to so many; nothing is less than none.
    pub fn nearest(processors: f64) -> Self {
        Self { thousandths: (processors.clamp(0.0, f64::from(MOST)) * 1000.0).round() as u32 }
    }

    /// How many they are.
    pub fn get(self) -> f64 {
        f64::from(self.thousandths) / 1000.0
    }

    /// Whether they are none.
    pub fn is_none(&self) -> bool {
        self.thousandths == 0
    }

    fn exactly(processors: f64) -> Result<Self, NotProcessors> {
        let nearest = Self::nearest(processors);
        match (nearest.get() - processors).abs() < 1e-7 {
            true => Ok(nearest),
            false => Err(NotProcessors(processors.to_string())),
        }
    }
}

impl FromStr for Processors {
    type Err = NotProcessors;

    fn from_str(text: &str) -> Result<Self, NotProcessors> {
        let wrong = || NotProcessors(format!("'{text}'"));
        text.parse::<f64>().map_err(|_| wrong()).and_then(|number| Self::exactly(number).map_err(|_| wrong()))
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl Serialize for Processors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.thousandths.is_multiple_of(1000) {
            true => serializer.serialize_u32(self.thousandths / 1000),
            false => serializer.serialize_f64(self.get()),
        }
    }
}

impl<'de> Deserialize<'de> for Processors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProcessorsVisitor)
    }
}

struct ProcessorsVisitor;

impl Visitor<'_> for ProcessorsVisitor {
    type Value = Processors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of processors such as 0.5 or 2")
    }

    fn visit_f64<E: de::Error>(self, processors: f64) -> Result<Processors, E> {
        Processors::exactly(processors).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, processors: u64) -> Result<Processors, E> {
        self.visit_f64(processors as f64)
    }

    fn visit_i64<E: de::Error>(self, processors: i64) -> Result<Processors, E> {
        self.visit_f64(processors as f64)
    }
}

impl PartialSchema for Processors {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(0))
            .maximum(Some(MOST))
            .description(Some("Processors of the host, in steps of 0.001: 0.05 is a twentieth of one."))
            .into()
    }
}

impl ToSchema for Processors {
    fn name() -> Cow<'static, str> {
        "Processors".into()
    }
}

/// What a guest is promised of the host's processors. Everyone has what they want of their reserve; what is left goes to those who want
/// more, by weight, none above their limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuShare {
    /// Always theirs when they want it: nothing, or at least 0.01. What all guests that run have reserved is never more than the host has.
    #[serde(default)]
    pub reserve: Processors,
    /// Their part of what is left, compared with others'; 1000 is usual.
    #[serde(default = "usual_weight")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub weight: u32,
    /// What they never pass: at least 0.01. They may have all there is if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Processors>,
    /// Whether they may pass the limit when nobody else wants more.
    #[serde(default)]
    pub soft: bool,
    /// Whether a guest has as many processors of the host to itself as it has processors: no other guest runs on them, and it has nothing of the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dedicated: bool,
}

impl Default for CpuShare {
    fn default() -> Self {
        Self {
            reserve: Processors::default(),
            weight: share::USUAL_WEIGHT,
            limit: None,
            soft: false,
            dedicated: false,
        }
    }
}

impl CpuShare {
    /// Whether it is that of a guest of which nothing is said.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// What a guest with so many processors is promised by it: one that has them to itself has reserved all of them.
    pub fn of(self, cpus: u32) -> Self {
        let reserve = if self.dedicated { Processors::nearest(f64::from(cpus)) } else { self.reserve };
        Self { reserve, ..self }
    }

    /// The same for whoever divides.
    pub fn share(&self) -> share::Share {
        let limit = match self.limit {
            None => share::Limit::None,
            Some(limit) if self.soft => share::Limit::Soft(limit.get()),
            Some(limit) => share::Limit::Hard(limit.get()),
        };
        share::Share { reserve: self.reserve.get(), weight: self.weight, limit }
    }

    /// What is wrong with it by itself.
    pub fn check(&self) -> Vec<Invalid> {
        let at = |field: &str| format!("/cpu_share/{field}");
        let told = |wrong: share::Wrong| {
            let (field, value) = match wrong {
                share::Wrong::Weight(weight) => ("weight", serde_json::Value::from(weight)),
                share::Wrong::Limit(limit) => ("limit", limit.into()),
                share::Wrong::Reserve(reserve) | share::Wrong::Above { reserve, .. } => {
                    ("reserve", reserve.into())
                }
            };
            Invalid::new(at(field), value, wrong.to_string())
        };
        let mut wrong: Vec<_> = self.share().check().into_iter().map(told).collect();
        let is_too_little = |amount: Processors| !amount.is_none() && amount < Processors::LEAST;
        for (field, amount) in [("reserve", Some(self.reserve)), ("limit", self.limit)] {
            if let Some(amount) = amount.filter(|amount| is_too_little(*amount)) {
                let detail = format!("{amount} of a processor is too little: at least {}", Processors::LEAST);
                wrong.push(Invalid::new(at(field), amount.get(), detail));
            }
        }
        if self.dedicated && (!self.reserve.is_none() || self.limit.is_some()) {
            let detail = "whoever has processors to itself has all of these: give it no reserve and no limit";
            wrong.push(Invalid::new(at("dedicated"), true, detail));
        }
        if self.soft && self.limit.is_none() {
            let detail = "there is no limit that could be soft: give one";
            wrong.push(Invalid::new(at("soft"), true, detail));
        }
        wrong
    }
}

/// What a guest is promised, wants and gets of what it shares with others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShareReport {
    /// Processors.
    pub cpu: CpuReport,
    /// Memory.
    pub memory: MemoryReport,
    /// The storage pools that its disks are on.
    #[serde(default)]
    pub disks: BandwidthReport,
    /// The networks that its cards are on.
    #[serde(default)]
    pub networks: BandwidthReport,
}

/// What a guest is promised, wants and gets of the host's processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CpuReport {
    /// What it is promised.
    pub promised: CpuShare,
    /// The groups that it is in, the nearest first.
    #[serde(default)]
    pub groups: Vec<ShareGroupInfo>,
    /// What it got and wanted, while it runs and has been looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<CpuNow>,
    /// What there is.
    pub host: CpuHost,
    /// The other guests that got the most in the last 10 s, as far as the one who asks may see them.
    pub others: Vec<CpuOther>,
    /// What the guests got in the last 10 s that are not among these, processors.
    pub rest: f64,
    /// Why what is promised cannot be held to here; nothing if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_enforced: Option<String>,
}

/// What a guest that runs wants and gets of the host's processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CpuNow {
    /// What it would have taken in the last window if nobody else had been there, processors.
    pub asked: f64,
    /// What it is to have by what all are promised and want, processors.
    pub target: f64,
    /// What it got in the last window, processors.
    pub got: f64,
    /// What it got in the last 10 s, processors.
    pub got_10s: f64,
    /// What keeps it from having more.
    pub bound: CpuBound,
    /// Processors of the host that it has to itself, by their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<u32>,
}

/// What keeps a guest from having more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CpuBound {
    /// Nothing: it has what it wants.
    Nothing,
    /// Its own limit.
    Limit,
    /// The limit of a group that it is in: others in that group want more, too.
    Group,
    /// Others want more, too.
    Others,
}

/// What the host has of processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CpuHost {
    /// That guests may use.
    pub processors: Processors,
    /// That guests that run, or are about to again, have reserved.
    pub reserved: Processors,
    /// That all guests got in the last 10 s.
    pub guests: f64,
    /// That everything else on the machine got in the last 10 s.
    pub besides: f64,
}

/// Another guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CpuOther {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it is promised.
    pub promised: CpuShare,
    /// What it got in the last 10 s, processors.
    pub got_10s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CpuShare, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn processors_are_numbers_in_thousandths() {
        for (text, thousandths) in
            [("0.05", 50), ("2", 2000), ("0.1", 100), ("0.3", 300), ("1.0", 1000), ("64.125", 64_125)]
        {
            let read: Processors = serde_json::from_str(text).unwrap();
            assert_eq!(read, Processors { thousandths }, "{text}");
            assert_eq!(text.parse(), Ok(read));
        }
        let share = CpuShare {
            reserve: "0.05".parse().unwrap(),
            limit: Some("2".parse().unwrap()),
            ..CpuShare::default()
        };
        let text = serde_json::to_string(&share).unwrap();
        assert_eq!(text, r#"{"reserve":0.05,"weight":1000,"limit":2,"soft":false}"#);
        assert_eq!(read(&text), Ok(share));
        for text in ["-1", "0.0005", "1e9", "\"1\"", "null", "[]"] {
            assert!(serde_json::from_str::<Processors>(text).is_err(), "{text}");
        }
        for text in ["", "x", "30%", "nan", "inf", "-0.1"] {
            assert!(text.parse::<Processors>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_wrong_field_of_a_share_is_named_with_what_would_be_right() {
        for (text, pointer, detail) in [
            (
                r#"{"reserve": 0.5, "limit": 0.25}"#,
                "reserve",
                "the reserve 0.5 is above the limit 0.25: at most 0.25 can be reserved",
            ),
            (r#"{"weight": 0}"#, "weight", "the weight 0 is none: give 1 to 1000000; 1000 is usual"),
            (
                r#"{"weight": 1000000000}"#,
                "weight",
                "the weight 1000000000 is none: give 1 to 1000000; 1000 is usual",
            ),
            (r#"{"limit": 0}"#, "limit", "the limit 0 is no amount: give more than 0, or none"),
            (r#"{"reserve": 0.005}"#, "reserve", "0.005 of a processor is too little: at least 0.01"),
            (r#"{"limit": 0.009}"#, "limit", "0.009 of a processor is too little: at least 0.01"),
            (
                r#"{"dedicated": true, "limit": 1}"#,
                "dedicated",
                "whoever has processors to itself has all of these: give it no reserve and no limit",
            ),
            (r#"{"soft": true}"#, "soft", "there is no limit that could be soft: give one"),
        ] {
            let wrong = read(text).unwrap().check();
            assert_eq!(wrong.len(), 1, "{text}: {wrong:?}");
            assert_eq!(
                (wrong[0].pointer.as_str(), wrong[0].detail.as_str()),
                (format!("/cpu_share/{pointer}").as_str(), detail)
            );
        }
        assert!(read(r#"{"reserve": 0.01, "limit": 0.01, "soft": true}"#).unwrap().check().is_empty());
        let said = read(r#"{"reserve": 0.0004}"#).unwrap_err();
        assert!(
            said.starts_with(
                "0.0004 is no number of processors: give one such as 0.5 or 2, in steps of 0.001"
            ),
            "{said}"
        );
    }
}
