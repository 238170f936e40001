//! Sizes as people write them: `4KiB`, `256MiB`, `10GiB`, `1TiB`, or bytes.

use anyhow::{Context, bail};

const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];

/// Bytes.
///
/// # Errors
/// It is none of these forms, or larger than any disk.
pub fn parse(text: &str) -> anyhow::Result<u64> {
    let text = text.trim();
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    let Ok(number) = number.trim().parse::<u64>() else {
        bail!("'{text}' is no size; write it as 4KiB, 256MiB, 10GiB or in bytes");
    };
    number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number)
        .with_context(|| format!("'{text}' is more than any disk holds"))
}

/// In the largest unit that leaves no rest.
pub fn text(bytes: u64) -> String {
    let mut units = UNITS[..4].iter().rev();
    let fitting = units.find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    match fitting {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (written, bytes) in [("4KiB", 4096), ("10GiB", 10 << 30), ("17B", 17)] {
            assert_eq!(parse(written).expect("a size"), bytes);
            assert_eq!(text(bytes), written);
        }
        assert_eq!(parse(" 8192 ").expect("bytes"), 8192);
        assert_eq!(text(1 << 40), "1TiB");
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in ["", "GiB", "-1", "4kb", "1.5GiB", "99999999TiB"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
