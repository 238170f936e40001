//! When to verify which extent: a scrub reads everything in turn, at a steady share of the device,
//! so that rot is found while another copy is still whole.
//!
//! Pure: no reading here. The caller asks with the time, reads the extent it is given, compares
//! checksums (S9 for those that miss), and keeps [`Scrub::position`] in the anchor now and then.

use lockstep_types::{EXTENT, Nanos, SECOND, millis};

/// Credit that unused time may leave, unless one extent is more: what a pause is made up for.
const BURST: Nanos = millis(100);
/// Extents looked at in one call at most, so that a pool of free ones holds nobody up.
const LOOKS: u32 = 4096;

/// How far a scrub has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ScrubPosition {
    /// Rounds completed over the whole pool.
    pub round: u32,
    /// The physical extent to look at next.
    pub extent: u32,
}

/// Hands out extents to verify, at most so many bytes a second.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Scrub {
    extents: u32,
    bytes_per_second: u64,
    position: ScrubPosition,
    /// Earned and not spent, in bytes × nanoseconds a second, so that nothing is lost to rounding.
    credit: u128,
    earned_until: Nanos,
}

impl Scrub {
    /// A scrub over `extents` physical extents that goes on from `position` (one beyond the pool
    /// starts over), with one extent's credit. A rate of 0 pauses it.
    ///
    /// # Panics
    /// If there are no extents.
    pub fn new(extents: u32, bytes_per_second: u64, position: ScrubPosition, now: Nanos) -> Self {
        assert!(extents > 0, "a pool has at least one extent");
        let extent = if position.extent < extents {
            position.extent
        } else {
            0
        };
        Self {
            extents,
            bytes_per_second,
            position: ScrubPosition { extent, ..position },
            credit: PRICE,
            earned_until: now,
        }
    }

    /// Where it stands: what to keep, and to go on from after a restart.
    pub const fn position(&self) -> ScrubPosition {
        self.position
    }

    /// Changes the rate from now on; 0 pauses.
    pub fn set_rate(&mut self, bytes_per_second: u64, now: Nanos) {
        self.earn(now);
        self.bytes_per_second = bytes_per_second;
        self.credit = self.credit.min(self.most_credit());
    }

    /// The extent to verify now, if one is due: the next that `in_use` says holds data. Free ones
    /// on the way are passed over; after [`LOOKS`] in a row it is `None`, and that look costs as
    /// much as an extent, so that an empty pool keeps nobody busy.
    pub fn next(&mut self, now: Nanos, mut in_use: impl FnMut(u32) -> bool) -> Option<u32> {
        self.earn(now);
        if self.bytes_per_second == 0 || self.credit < PRICE {
            return None;
        }
        self.credit -= PRICE;
        (0..LOOKS.min(self.extents))
            .map(|_| self.advance())
            .find(|extent| in_use(*extent))
    }

    /// When [`Self::next`] may give an extent again: for a timer. `None` while paused.
    pub fn due(&self) -> Option<Nanos> {
        let missing = PRICE.saturating_sub(self.credit);
        let wait = missing.checked_add(u128::from(self.bytes_per_second).checked_sub(1)?)?
            / u128::from(self.bytes_per_second);
        Some(
            self.earned_until
                .saturating_add(Nanos::try_from(wait).unwrap_or(Nanos::MAX)),
        )
    }

    /// Past the next extent, which it gives.
    fn advance(&mut self) -> u32 {
        let extent = self.position.extent;
        self.position.extent += 1;
        if self.position.extent == self.extents {
            self.position = ScrubPosition {
                round: self.position.round.wrapping_add(1),
                extent: 0,
            };
        }
        extent
    }

    /// Time that does not advance earns nothing.
    fn earn(&mut self, now: Nanos) {
        let elapsed = now.saturating_sub(self.earned_until);
        self.earned_until = self.earned_until.max(now);
        let earned = u128::from(elapsed) * u128::from(self.bytes_per_second);
        self.credit = self.credit.saturating_add(earned).min(self.most_credit());
    }

    fn most_credit(&self) -> u128 {
        PRICE.max(u128::from(BURST) * u128::from(self.bytes_per_second))
    }
}

/// One extent.
const PRICE: u128 = EXTENT as u128 * SECOND as u128;

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_types::seconds;
    use proptest::prelude::*;

    const RATE: u64 = 10 * EXTENT as u64;

    fn start(extents: u32) -> Scrub {
        Scrub::new(extents, RATE, ScrubPosition::default(), 0)
    }

    #[test]
    fn every_extent_once_a_round() {
        let mut scrub = start(50);
        let given: Vec<_> = (0..50)
            .filter_map(|n| scrub.next(n * SECOND / 10, |_| true))
            .collect();
        assert_eq!(given, (0..50).collect::<Vec<_>>());
        assert_eq!(
            scrub.position(),
            ScrubPosition {
                round: 1,
                extent: 0
            }
        );
    }

    #[test]
    fn free_extents_are_passed_over_in_bounded_looks() {
        let mut scrub = start(1_000_000);
        let mut turns = 0;
        let found = loop {
            turns += 1;
            let now = scrub.due().expect("not paused");
            let mut looks = 0;
            let found = scrub.next(now, |extent| {
                looks += 1;
                extent == 500_000
            });
            assert!((1..=LOOKS).contains(&looks));
            if let Some(extent) = found {
                break extent;
            }
        };
        assert_eq!((found, turns), (500_000, 500_000 / LOOKS + 1));
    }

    #[test]
    fn an_empty_pool_keeps_nobody_busy() {
        let mut scrub = start(3);
        assert_eq!(scrub.next(0, |_| false), None);
        assert_eq!(scrub.due(), Some(SECOND / 10));
        assert_eq!(
            scrub.next(0, |_| panic!("not looked at before it is due")),
            None
        );
    }

    #[test]
    fn goes_on_where_it_stopped() {
        let mut first = start(100);
        (0..30).for_each(|n| assert_eq!(first.next(n * SECOND / 10, |_| true), Some(n as u32)));
        let mut second = Scrub::new(100, RATE, first.position(), seconds(90));
        assert_eq!(second.next(seconds(90), |_| true), Some(30));
        let beyond = ScrubPosition {
            round: 2,
            extent: 100,
        };
        assert_eq!(
            Scrub::new(100, RATE, beyond, 0).position(),
            ScrubPosition {
                round: 2,
                extent: 0
            }
        );
    }

    #[test]
    fn a_rate_of_zero_pauses() {
        let mut scrub = start(10);
        scrub.set_rate(0, 0);
        assert_eq!(
            (scrub.next(seconds(1000), |_| true), scrub.due()),
            (None, None)
        );
        scrub.set_rate(RATE, seconds(1000));
        assert_eq!(scrub.next(seconds(1000), |_| true), Some(0));
        assert_eq!(
            scrub.next(seconds(1000), |_| true),
            None,
            "the pause earned nothing"
        );
        assert_eq!(scrub.due(), Some(seconds(1000) + SECOND / 10));
    }

    proptest! {
        /// Over any stretch of time at most the rate, and the burst; never less if asked when due.
        #[test]
        fn keeps_to_its_budget(rate in 1u64..1 << 34, steps in proptest::collection::vec(0u64..3 * SECOND, 1..200)) {
            let mut scrub = Scrub::new(7, rate, ScrubPosition::default(), 0);
            let burst = (EXTENT as u128).max(u128::from(rate) / 10);
            let (mut now, mut bytes) = (0, 0u128);
            for step in steps {
                now += step;
                while scrub.next(now, |_| true).is_some() {
                    bytes += EXTENT as u128;
                }
                prop_assert!(bytes <= burst + u128::from(rate) * u128::from(now) / u128::from(SECOND) + 1);
                let due = scrub.due().expect("not paused");
                prop_assert!(due > now);
                prop_assert_eq!(scrub.clone().next(due - 1, |_| true), None);
                prop_assert!(scrub.clone().next(due, |_| true).is_some());
            }
        }
    }
}
