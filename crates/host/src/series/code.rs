//! Values in two bytes each: floating-point numbers without a sign, with 10 bits of mantissa and 6 of exponent, in steps of 1/4096 near zero.
//! From 0 to beyond 2^50 they are off by at most 1 in 2048, which nobody sees in a chart.

/// Nothing is known.
const NOTHING: u16 = u16::MAX;
/// Steps of one.
const STEPS: f64 = 4096.0;
const MANTISSA: u32 = 10;

/// A value as it is stored. What is below zero or no number is nothing.
pub fn encode(value: Option<f64>) -> u16 {
    let Some(value) = value.filter(|value| *value >= 0.0) else { return NOTHING };
    // What is larger than a u64 becomes the largest one.
    let steps = value * STEPS;
    let bits = u64::BITS - (steps as u64).leading_zeros();
    let shift = bits.saturating_sub(MANTISSA + 1);
    let whole = (steps / f64::from(shift).exp2()).round().min(f64::from(2 << MANTISSA)) as u32;
    if whole < 1 << MANTISSA {
        return whole as u16;
    }
    // What rounds up to one bit more has the next exponent.
    let code = ((shift + 1) << MANTISSA) + (whole - (1 << MANTISSA));
    code as u16
}

/// What was stored.
pub fn decode(code: u16) -> Option<f64> {
    if code == NOTHING {
        return None;
    }
    let (exponent, mantissa) = (code >> MANTISSA, u64::from(code & ((1 << MANTISSA) - 1)));
    let steps = match exponent.checked_sub(1) {
        None => mantissa as f64,
        Some(shift) => (mantissa + (1 << MANTISSA)) as f64 * f64::from(shift).exp2(),
    };
    Some(steps / STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_within_a_two_thousandth() {
        let mut value = 0.0001_f64;
        while value < 1e15 {
            let back = decode(encode(Some(value))).unwrap();
            let most = (value / 2047.0).max(0.5 / STEPS);
            assert!((back - value).abs() <= most, "{value} came back as {back}");
            value *= 1.0137;
        }
        for exact in [0.0, 0.25, 1.0, 1024.0, (1u64 << 40) as f64] {
            assert_eq!(decode(encode(Some(exact))), Some(exact));
        }
    }

    #[test]
    fn larger_values_have_larger_codes_and_nothing_stays_nothing() {
        let codes: Vec<_> = (0..4000).map(|n| encode(Some(f64::from(n) * 0.37))).collect();
        assert!(codes.is_sorted());
        assert!(encode(Some(f64::MAX)) < NOTHING);
        for none in [None, Some(f64::NAN), Some(-1.0)] {
            assert_eq!(decode(encode(none)), None);
        }
        // Whatever a damaged file holds is a value or nothing.
        assert!((0..=u16::MAX).filter_map(decode).all(|value| value.is_finite() && value >= 0.0));
    }
}
