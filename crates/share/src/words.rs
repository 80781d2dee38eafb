//! Shares in the words of other systems.

use crate::{Amount, Limit, Share, USUAL_WEIGHT};

/// vSphere's presets ("vSphere Resource Management", Resource Allocation Shares): 4:2:1 for each virtual processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Twice the usual.
    High,
    /// The usual.
    Normal,
    /// Half the usual.
    Low,
}

impl Level {
    /// The weight of something of which a guest has so many, one at least.
    pub fn weight(self, of: u32) -> u32 {
        let each = match self {
            Self::High => 2 * USUAL_WEIGHT,
            Self::Normal => USUAL_WEIGHT,
            Self::Low => USUAL_WEIGHT / 2,
        };
        each.saturating_mul(of.max(1)).min(crate::MOST_WEIGHT)
    }
}

/// PowerVM's usual weight of an uncapped partition, and its largest.
const POWER: (u32, u32) = (128, 255);
/// z/VM's usual relative share, and its largest.
const ZVM: (u32, u32) = (100, 10_000);

/// Something is not in the words of the system that it is said in.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unknown {
    /// The number is none of those that there are.
    #[error("{what} {given}: give {least} to {most}; {usual} is usual")]
    Weight {
        /// What it is.
        what: &'static str,
        /// What was given.
        given: u32,
        /// The least there is.
        least: u32,
        /// The most there is.
        most: u32,
        /// What is usual.
        usual: u32,
    },
    /// The part is none of a whole.
    #[error("an absolute share of {0} %: give more than 0 and at most 100")]
    Percent(f64),
}

fn scaled(given: u32, usual: u32) -> u32 {
    let weight = (u64::from(given) * u64::from(USUAL_WEIGHT) + u64::from(usual / 2)) / u64::from(usual);
    u32::try_from(weight).unwrap_or(crate::MOST_WEIGHT).max(1)
}

/// PowerVM: an entitled capacity, and an uncapped weight of 0 to 255; none is capped. An uncapped partition of weight 0 is capped
/// ("IBM PowerVM Virtualization Introduction and Configuration", 2.3.4).
///
/// # Errors
/// If the weight is none.
pub fn power(entitlement: Amount, uncapped: Option<u32>) -> Result<Share, Unknown> {
    let (usual, most) = POWER;
    match uncapped {
        None | Some(0) => Ok(Share::capped(entitlement)),
        Some(given) if given > most => {
            Err(Unknown::Weight { what: "an uncapped weight of", given, least: 0, most, usual })
        }
        Some(given) => Ok(Share { reserve: entitlement, weight: scaled(given, usual), limit: Limit::None }),
    }
}

/// How a share of z/VM is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZvmLimit {
    /// NOLIMIT
    #[default]
    None,
    /// LIMITSOFT
    Soft,
    /// LIMITHARD
    Hard,
}

/// z/VM: SHARE ABSOLUTE, a part of all that there is ("z/VM CP Commands and Utilities Reference", SET SHARE).
///
/// # Errors
/// If the part is none.
pub fn absolute(percent: f64, limit: ZvmLimit, of: Amount) -> Result<Share, Unknown> {
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(Unknown::Percent(percent));
    }
    let reserve = of * percent / 100.0;
    let limit = match limit {
        ZvmLimit::None => Limit::None,
        ZvmLimit::Soft => Limit::Soft(reserve),
        ZvmLimit::Hard => Limit::Hard(reserve),
    };
    Ok(Share { reserve, limit, ..Share::default() })
}

/// z/VM: SHARE RELATIVE, 1 to 10000.
///
/// # Errors
/// If the share is none.
pub fn relative(given: u32) -> Result<Share, Unknown> {
    let (usual, most) = ZVM;
    if !(1..=most).contains(&given) {
        return Err(Unknown::Weight { what: "a relative share of", given, least: 1, most, usual });
    }
    Ok(Share { weight: scaled(given, usual), ..Share::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_is_the_same_in_all_words() {
        let usual = Share::default();
        assert_eq!(Level::Normal.weight(1), usual.weight);
        assert_eq!(power(0.0, Some(128)), Ok(usual));
        assert_eq!(relative(100), Ok(usual));
    }

    #[test]
    fn each_system_keeps_its_proportions() {
        assert_eq!([Level::High, Level::Normal, Level::Low].map(|level| level.weight(2)), [4000, 2000, 1000]);
        let weights = [150, 50, 100].map(|weight| power(0.1, Some(weight)).unwrap().weight);
        assert_eq!(weights, [1172, 391, 781]);
        assert_eq!(power(0.3, None), Ok(Share::capped(0.3)));
        assert_eq!(power(0.3, Some(0)), Ok(Share::capped(0.3)));
        let hard = absolute(30.0, ZvmLimit::Hard, 2.0).unwrap();
        assert_eq!((hard.reserve, hard.limit), (0.6, Limit::Hard(0.6)));
        assert_eq!(absolute(30.0, ZvmLimit::Soft, 1.0).unwrap().limit, Limit::Soft(0.3));
        assert_eq!(relative(10_000).unwrap().weight, 100_000);
    }

    #[test]
    fn what_a_system_has_no_word_for_is_refused_with_what_it_has() {
        let said = power(0.1, Some(256)).unwrap_err().to_string();
        assert_eq!(said, "an uncapped weight of 256: give 0 to 255; 128 is usual");
        assert_eq!(
            relative(0).unwrap_err().to_string(),
            "a relative share of 0: give 1 to 10000; 100 is usual"
        );
        assert!(
            absolute(0.0, ZvmLimit::None, 1.0).is_err() && absolute(f64::NAN, ZvmLimit::None, 1.0).is_err()
        );
        assert!(absolute(100.1, ZvmLimit::None, 1.0).is_err());
    }
}
