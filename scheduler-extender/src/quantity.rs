//! Quantities of Kubernetes ("10Gi", "1.5T", "1e9") as whole bytes.

/// Digits read before the point at most; more is more than can be stored.
const MOST_DIGITS: usize = 30;

/// Bytes, rounded up; more than fits becomes the most that does. None if the text is no quantity, or negative.
pub fn bytes(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return None;
    }
    let (times, divided) = scale(suffix)?;
    if whole.trim_start_matches('0').len() > MOST_DIGITS {
        return Some(u64::MAX);
    }
    // What is behind the fifteenth digit after the point is less than a byte of any size there is.
    let fraction = &fraction[..fraction.len().min(15)];
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let shift = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let Some(scaled) = digits.checked_mul(times) else {
        return Some(u64::MAX);
    };
    let bytes = scaled.div_ceil(shift).div_ceil(divided);
    Some(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// What a suffix multiplies with and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let decimal = ["k", "M", "G", "T", "P", "E"];
    let small = ["m", "u", "n"];
    let power = |list: &[&str]| {
        list.iter()
            .position(|it| *it == suffix)
            .map(|at| at as u32 + 1)
    };
    if suffix.is_empty() {
        Some((1, 1))
    } else if let Some(power) = power(&binary) {
        Some((1 << (10 * power), 1))
    } else if let Some(power) = power(&decimal) {
        Some((1000_u128.pow(power), 1))
    } else if let Some(power) = power(&small) {
        Some((1, 1000_u128.pow(power)))
    } else {
        let exponent = suffix.strip_prefix(['e', 'E'])?;
        let exponent: i32 = exponent.parse().ok()?;
        // 10^20 is more bytes than can be counted.
        let power = 10_u128.pow(exponent.unsigned_abs().min(20));
        Some(if exponent < 0 { (1, power) } else { (power, 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("128974848000m", 128_974_848),
            ("123Mi", 128_974_848),
            ("10Gi", 10 << 30),
            ("1.5Gi", 3 << 29),
            (".5Ki", 512),
            ("1.Ki", 1024),
            ("1.0001", 2),
            ("1m", 1),
            ("1E", 1_000_000_000_000_000_000),
            ("1E3", 1000),
            ("25e-1", 3),
            ("15Ei", 15 << 60),
            ("99999999999Ei", u64::MAX),
            ("1e99", u64::MAX),
            (&"9".repeat(80), u64::MAX),
            (&format!("0.{}", "3".repeat(80)), 1),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in [
            "", ".", "-1", "1.2.3", "Gi", "1 Gi", "1GiB", "1e", "1ex", "ä", "1ä", "+",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
