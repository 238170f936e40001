//! Back-pressure. Destaging may fall behind the writes for as long as the ring has room; where it stays behind,
//! a full ring would stop every write until a round has ended. So from half a ring on batches keep a distance
//! from each other that grows with the fill: whoever writes much is slowed to what is destaged well before
//! the ring is full, and whoever has one write under way hardly notices.

use lockstep_types::{Nanos, millis};

/// The fill, in 1/65536, from which on batches keep a distance.
const FROM: u32 = 65536 / 2;
/// The distance at a full ring.
const LONGEST: Nanos = millis(16);

/// The least time from one batch of records to the next at a fill of so many 1/65536: it rises with the third
/// power of what is above [`FROM`], from nothing to [`LONGEST`].
pub(crate) fn distance(fill: u32) -> Nanos {
    let span = u64::from(65536 - FROM);
    let over = u64::from(fill.saturating_sub(FROM)).min(span);
    LONGEST * over / span * over / span * over / span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_without_a_step() {
        assert_eq!(distance(0), 0);
        assert_eq!(distance(FROM), 0);
        assert_eq!(distance(65536), LONGEST);
        assert_eq!(distance(70_000), LONGEST);
        let curve: Vec<Nanos> = (FROM..=65536).step_by(256).map(distance).collect();
        assert!(
            curve
                .windows(2)
                .all(|w| w[0] <= w[1] && w[1] - w[0] < millis(1))
        );
        assert_eq!(distance(65536 / 4 * 3), LONGEST / 8);
    }
}
