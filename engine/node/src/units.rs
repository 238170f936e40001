//! Sizes and lengths of time as people write them: "256KiB", "10GiB", "500ms", "3s".

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// A length of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

/// Why a text is no size or length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {what}: {hint}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    hint: &'static str,
}

const SIZE_HINT: &str =
    "write a whole number and a unit, like 4096, 256KiB, 10GiB or 1TiB (powers of 1024)";
const SPAN_HINT: &str = "write a whole number and a unit, like 500ms, 3s, 10m or 2h";

impl std::str::FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError {
            text: text.chars().take(64).collect(),
            what: "size",
            hint: SIZE_HINT,
        };
        let (number, unit) = split(text).ok_or_else(bad)?;
        let shift = match unit {
            "" | "B" => 0,
            "KiB" | "Ki" | "K" => 10,
            "MiB" | "Mi" | "M" => 20,
            "GiB" | "Gi" | "G" => 30,
            "TiB" | "Ti" | "T" => 40,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, unit) in units {
            let one = 1u64 << shift;
            if self.0 >= one {
                // Whole numbers are printed whole, so that what is printed can be read back.
                return if self.0.is_multiple_of(one) {
                    write!(f, "{}{unit}", self.0 >> shift)
                } else {
                    write!(f, "{:.1}{unit}", self.0 as f64 / one as f64)
                };
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl std::str::FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError {
            text: text.chars().take(64).collect(),
            what: "length of time",
            hint: SPAN_HINT,
        };
        let (number, unit) = split(text).ok_or_else(bad)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        number
            .checked_mul(millis)
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(bad)
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

macro_rules! from_text {
    ($type:ident, $expecting:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

from_text!(Size, "a size with its unit in quotes, like \"256KiB\"");
from_text!(
    Span,
    "a length of time with its unit in quotes, like \"3s\""
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("256KiB", 256 << 10),
            (" 10 GiB", 10 << 30),
            ("1Ti", 1 << 40),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in [
            "",
            "KiB",
            "1.5GiB",
            "-1",
            "1kb",
            "1GB",
            "99999999999TiB",
            "1 0",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        assert_eq!(Size(3 << 29).to_string(), "1.5GiB");
        assert_eq!(Size(256 << 10).to_string(), "256KiB");
    }

    #[test]
    fn spans() {
        assert_eq!("500ms".parse(), Ok(Span(Duration::from_millis(500))));
        assert_eq!("2h".parse(), Ok(Span(Duration::from_secs(7200))));
        for bad in ["3", "s", "3 fortnights", ""] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
