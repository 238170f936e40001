//! Names that people give to clusters, nodes, sites, pools and volumes.

/// Longest name, in characters.
pub const MAX_LABEL: usize = 63;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// It is longer than a name may be.
    #[error(
        "a {what}'s name has at most {MAX_LABEL} characters, and this one has {length} characters: '{start}…'"
    )]
    TooLong {
        /// How it begins.
        start: String,
        /// Its characters.
        length: usize,
        /// What was to be named.
        what: &'static str,
    },
    /// It has characters that a name may not have, or none.
    #[error(
        "'{text}' cannot name a {what}: use 1 to {MAX_LABEL} lower-case letters, digits, '-', '.' or '_', beginning and ending with a letter or digit"
    )]
    Malformed {
        /// All of it.
        text: String,
        /// What was to be named.
        what: &'static str,
    },
}

/// Checks that `text` can name a `what` ("volume", "node", …): it may become part of a path, so
/// that nothing but letters, digits and inner `-._` is let in, and no two dots in a row.
///
/// # Errors
/// [`LabelError`] otherwise.
pub fn check(what: &'static str, text: &str) -> Result<(), LabelError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let length = text.chars().count();
    if length > MAX_LABEL {
        let start = text.chars().take(16).collect();
        return Err(LabelError::TooLong {
            start,
            length,
            what,
        });
    }
    let good = outer(bytes.first())
        && outer(bytes.last())
        && bytes.iter().all(|b| inner(*b))
        && !text.contains("..");
    if good {
        Ok(())
    } else {
        let text = text.to_owned();
        Err(LabelError::Malformed { text, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_a_name() {
        for good in ["a", "pg-1", "pvc-0a1b.c_d", &"x".repeat(63)] {
            assert_eq!(check("volume", good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "../etc",
            "a/b",
            "-a",
            "a-",
            "A",
            "a b",
            "a..b",
            "ü",
            &"x".repeat(64),
            &"x".repeat(300),
        ] {
            assert!(check("volume", bad).is_err(), "{bad}");
        }
        let long = check("volume", &"x".repeat(300)).expect_err("too long");
        assert!(long.to_string().contains("300 characters"), "{long}");
        assert!(long.to_string().len() < 120, "{long}");
    }
}
