//! Agreeing on a version. A release speaks its own version N and N−1, so that a rolling upgrade
//! never stops a link. The hello itself is the same in all versions, for ever.

use crate::{Hello, WireError};
use std::fmt;

/// The version of frames that this release writes.
pub const VERSION: u16 = 1;
/// The version in the header of every hello; its layout never changes.
pub const HELLO_VERSION: u16 = 1;

/// A run of versions, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// What this release speaks: N and N−1, and 1 is the first there is.
    pub const SUPPORTED: Self = Self {
        oldest: if VERSION > 1 { VERSION - 1 } else { 1 },
        newest: VERSION,
    };

    /// Whether `version` is one of them.
    pub const fn contain(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

impl Hello {
    /// The versions that the speaker offers.
    pub const fn versions(&self) -> Versions {
        Versions {
            oldest: self.oldest,
            newest: self.newest,
        }
    }
}

/// The version two nodes speak from now on: the newest that both know. Both ends come to the same.
///
/// # Errors
/// [`WireError::NoCommonVersion`], also if one of the two is empty.
pub fn negotiate(mine: Versions, theirs: Versions) -> Result<u16, WireError> {
    let version = mine.newest.min(theirs.newest);
    match mine.contain(version) && theirs.contain(version) {
        true => Ok(version),
        false => Err(WireError::NoCommonVersion { mine, theirs }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn versions(oldest: u16, newest: u16) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn neighbours_agree_and_strangers_do_not() {
        let cases = [
            (versions(1, 1), versions(1, 1), Some(1)),
            (versions(1, 2), versions(1, 1), Some(1)),
            (versions(2, 3), versions(1, 2), Some(2)),
            (versions(3, 4), versions(1, 2), None),
            (versions(2, 1), versions(1, 2), None),
        ];
        for (a, b, expected) in cases {
            assert_eq!(negotiate(a, b).ok(), expected, "{a} with {b}");
            assert_eq!(negotiate(b, a).ok(), expected, "{b} with {a}");
        }
        let words = negotiate(versions(3, 4), versions(1, 2))
            .expect_err("nothing in common")
            .to_string();
        assert!(
            words.contains("3 to 4") && words.contains("1 to 2"),
            "{words}"
        );
    }
}
