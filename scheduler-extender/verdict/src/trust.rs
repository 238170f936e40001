//! How much news of a certain age is worth. Old news moves no pod as hard as fresh news does, and refuses
//! less: it never makes a place look better than fresh news would.

use lockstep_types::{Nanos, seconds};

/// Up to this age news counts in full: a few polls may fail.
pub const FRESH: Nanos = seconds(5);
/// News older than this refuses nothing that may have changed since: a cluster that cannot be asked must not
/// leave all pods pending.
pub const REFUSES: Nanos = seconds(30);
/// From here on scores have shrunk as far as they do.
pub const OLD: Nanos = seconds(60);
/// News older than this says nothing any more.
pub const GONE: Nanos = seconds(600);

/// What a score is multiplied with, at full trust.
pub const FULL: u32 = 1000;
/// The least, before it is nothing. A certified copy (8 at full trust) and any other (5 at most) still differ
/// by more than one point with this, so that rounding never makes them equal.
pub const LEAST: u32 = 400;

/// What is heard of a cluster, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trust {
    /// 0, or [`LEAST`] to [`FULL`]: by how many thousandths scores count.
    pub per_mille: u32,
    /// Whether what may change any moment may still refuse a node.
    pub refuses: bool,
}

impl Trust {
    /// Of news that was heard at a time, or never.
    pub fn at(now: Nanos, heard: Option<Nanos>) -> Self {
        let Some(heard) = heard else {
            return Self {
                per_mille: 0,
                refuses: false,
            };
        };
        // A clock that went backwards makes nothing older.
        let age = now.saturating_sub(heard);
        let per_mille = if age <= FRESH {
            FULL
        } else if age <= OLD {
            let lost = u64::from(FULL - LEAST) * (age - FRESH) / (OLD - FRESH);
            FULL - u32::try_from(lost).unwrap_or(FULL - LEAST)
        } else if age <= GONE {
            LEAST
        } else {
            0
        };
        Self {
            per_mille,
            refuses: age <= REFUSES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_only_shrinks_with_age() {
        let mut last = Trust::at(0, Some(0));
        assert_eq!((last.per_mille, last.refuses), (FULL, true));
        for age in 0..=700 {
            let trust = Trust::at(seconds(age), Some(0));
            assert!(trust.per_mille <= last.per_mille, "{age}");
            assert!(last.refuses || !trust.refuses, "{age}");
            assert!(
                trust.per_mille == 0 || (LEAST..=FULL).contains(&trust.per_mille),
                "{age}"
            );
            last = trust;
        }
        assert_eq!((last.per_mille, last.refuses), (0, false));
    }

    #[test]
    fn what_was_never_heard_says_nothing_and_a_clock_that_went_back_makes_nothing_old() {
        assert_eq!(Trust::at(seconds(1), None).per_mille, 0);
        assert!(!Trust::at(seconds(1), None).refuses);
        assert_eq!(Trust::at(0, Some(seconds(900))).per_mille, FULL);
    }

    #[test]
    fn certified_and_other_copies_differ_by_more_than_rounding_takes() {
        let (certified, other) = (8 * LEAST, 5 * LEAST);
        assert!(certified - other >= 1000);
    }
}
