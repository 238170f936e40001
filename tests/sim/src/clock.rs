//! A node's clock: CLOCK_BOOTTIME of a machine that started at some moment and drifts.

use lockstep_types::Nanos;

/// Turns the world's time into a node's and back. Drift is constant within a boot (R13 allows ±1 %).
#[derive(Clone, Debug)]
pub struct Clock {
    /// The world's time at which this clock showed `shown`.
    anchor: Nanos,
    shown: Nanos,
    /// Parts in a million that it runs fast.
    drift_ppm: i32,
}

impl Clock {
    /// A clock that shows `shown` at the world's `now`.
    pub fn new(now: Nanos, shown: Nanos, drift_ppm: i32) -> Self {
        Self {
            anchor: now,
            shown,
            drift_ppm,
        }
    }

    /// What it shows at the world's `now`.
    pub fn local(&self, now: Nanos) -> Nanos {
        let elapsed = i128::from(now - self.anchor);
        self.shown + (elapsed + elapsed * i128::from(self.drift_ppm) / 1_000_000) as u64
    }

    /// The first moment of the world at which it shows at least `local`.
    pub fn world(&self, local: Nanos) -> Nanos {
        let Some(ahead) = local.checked_sub(self.shown) else {
            return self.anchor;
        };
        let rate = (1_000_000 + i64::from(self.drift_ppm)) as u128;
        let guess = self.anchor + (u128::from(ahead) * 1_000_000 / rate) as u64;
        (guess.saturating_sub(1)..guess + 3)
            .find(|t| *t >= self.anchor && self.local(*t) >= local)
            .expect("division is off by one nanosecond at most")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for drift in [-10_000, -1, 0, 3, 9_999] {
            let clock = Clock::new(1_000, 77, drift);
            for local in [0, 77, 78, 1_000_000_007, 987_654_321_012] {
                let world = clock.world(local);
                assert!(clock.local(world) >= local);
                assert!(
                    world == 1_000 || clock.local(world - 1) < local,
                    "{drift} {local}"
                );
            }
        }
    }
}
