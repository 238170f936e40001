//! How many extents a resync has in work at a time: as many as leave clients' writes as fast as they are
//! without it, or nearly (safety.md, "Slow is a kind of dead").
//!
//! Additive increase, multiplicative decrease, by the mean latency of the writes of an interval against
//! that of writes while nothing is resynced. One extent is always in work: a resync that never ends leaves
//! the volume with a copy less.

use lockstep_types::{Nanos, millis};
use std::hash::{Hash, Hasher};

/// What is measured at a time.
const INTERVAL: Nanos = millis(200);
/// Writes in an interval below which nobody is disturbed.
const ENOUGH: u64 = 8;
/// Writes may take so many times what they take without a resync.
const BEARABLE: Nanos = 2;

/// Extents in work, and what decides it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pace {
    most: usize,
    allowed: usize,
    /// Mean latency while nothing is resynced, smoothed; none before it was measured.
    calm: Option<Nanos>,
    sum: Nanos,
    count: u64,
    ends: Nanos,
}

/// States of a model that differ in what was measured alone are one state: no rule depends on it.
impl Hash for Pace {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Pace {
    /// At most so many extents at a time.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            allowed: most,
            calm: None,
            sum: 0,
            count: 0,
            ends: 0,
        }
    }

    /// A client's write completed after so long.
    pub fn observe(&mut self, latency: Nanos) {
        self.sum += latency;
        self.count += 1;
    }

    /// How many extents may be in work now; `resyncing`: whether any are, or were since the last question.
    pub fn allowed(&mut self, now: Nanos, resyncing: bool) -> usize {
        if now < self.ends {
            return self.allowed;
        }
        self.ends = now + INTERVAL;
        let mean = (self.count >= ENOUGH).then(|| self.sum / self.count);
        (self.sum, self.count) = (0, 0);
        match (mean, self.calm) {
            (Some(mean), calm) if !resyncing => {
                self.calm = Some(calm.map_or(mean, |calm| (7 * calm + mean) / 8));
            }
            (Some(mean), Some(calm)) if mean > BEARABLE * calm => {
                self.allowed = (self.allowed / 2).max(1);
            }
            _ => self.allowed = (self.allowed + 1).min(self.most),
        }
        self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds an interval of writes of one latency, and asks.
    fn after(pace: &mut Pace, now: &mut Nanos, latency: Nanos, resyncing: bool) -> usize {
        *now += INTERVAL;
        for _ in 0..ENOUGH {
            pace.observe(latency);
        }
        pace.allowed(*now, resyncing)
    }

    #[test]
    fn it_gives_way_to_writes_and_comes_back() {
        let (mut pace, mut now) = (Pace::new(4), 0);
        for _ in 0..3 {
            assert_eq!(after(&mut pace, &mut now, millis(1), false), 4);
        }
        assert_eq!(after(&mut pace, &mut now, millis(3), true), 2);
        assert_eq!(after(&mut pace, &mut now, millis(3), true), 1);
        assert_eq!(after(&mut pace, &mut now, millis(3), true), 1, "never none");
        assert_eq!(after(&mut pace, &mut now, millis(2), true), 2);
        assert_eq!(after(&mut pace, &mut now, millis(1), true), 3);
    }

    #[test]
    fn without_writes_or_a_measure_it_takes_what_there_is() {
        let (mut pace, mut now) = (Pace::new(4), 0);
        assert_eq!(after(&mut pace, &mut now, millis(900), true), 4);
        after(&mut pace, &mut now, millis(1), false);
        assert_eq!(after(&mut pace, &mut now, millis(9), true), 2);
        now += INTERVAL;
        assert_eq!(pace.allowed(now, true), 3);
        assert_eq!(pace.allowed(now + 1, true), 3, "once an interval");
    }
}
