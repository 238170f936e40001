//! Pseudo-random numbers from a seed: xoshiro256**, seeded by splitmix64.

/// A stream of numbers; the same seed gives the same stream for ever.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Dice {
    state: [u64; 4],
}

impl Dice {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let word = |index: u64| mix(seed.wrapping_add((index + 1).wrapping_mul(GAMMA)));
        Self {
            state: [word(0), word(1), word(2), word(3)],
        }
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// A number below `bound`, which is above 0. The bias is below bound / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        ((u128::from(self.roll()) * u128::from(bound)) >> 64) as u64
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }
}

/// The odd constant by which splitmix64 counts.
pub(crate) const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// splitmix64's finalizer.
pub(crate) const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_frozen() {
        let mut dice = Dice::new(0);
        // The first output of xoshiro256** seeded by splitmix64(0), as published.
        assert_eq!(dice.roll(), 0x99ec_5f36_cb75_f2b4);
        assert_eq!(Dice::new(1), Dice::new(1));
        assert_ne!(Dice::new(1), Dice::new(2));
    }

    #[test]
    fn below_covers_its_range() {
        let mut dice = Dice::new(3);
        let mut seen = [0; 7];
        (0..7000).for_each(|_| seen[dice.below(7) as usize] += 1);
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
    }
}
