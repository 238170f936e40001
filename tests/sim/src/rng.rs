//! The dice: xoshiro256++, seeded through splitmix64, and split by name, so that a new draw in one
//! part of the world does not move those of another.

/// A seeded generator. The same seed gives the same numbers on every machine; no floating point.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A generator of a seed.
    pub fn new(seed: u64) -> Self {
        let mut s = seed;
        Self {
            state: [
                splitmix(&mut s),
                splitmix(&mut s),
                splitmix(&mut s),
                splitmix(&mut s),
            ],
        }
    }

    /// An independent generator for the part of this name.
    pub fn split(&mut self, name: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self::new(self.state[0].rotate_left(23) ^ hash ^ self.state[3])
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// 128 random bits, never 0: an id.
    pub fn id(&mut self) -> u128 {
        (u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())).max(1)
    }

    /// Uniform in `0..n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "nothing lies below 0");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `ppm` of a million draws.
    pub fn chance(&mut self, ppm: u32) -> bool {
        // No draw for 0: a fault that is switched off leaves the other draws where they were.
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// True in `n` of a hundred draws.
    pub fn per_cent(&mut self, n: u32) -> bool {
        self.chance(n * 10_000)
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// About exponential with this mean: halves are drawn by leading zeroes, the rest is linear.
    pub fn about(&mut self, mean: u64) -> u64 {
        let bits = self.next_u64();
        let halves = u128::from((bits | 1 << 20).leading_zeros());
        let part = u128::from(bits & 0xffff);
        // mean × ln 2 × (halves + part), whose expectation is mean × 0.69 × 1.5 ≈ mean.
        ((u128::from(mean) * 693 * ((halves << 16) + part) / 1000) >> 16) as u64
    }

    /// A rate drawn for a seed: 0 half of the time, otherwise up to `max` with small ones likelier.
    pub fn rate(&mut self, max: u32) -> u32 {
        if self.per_cent(50) {
            return 0;
        }
        let ceiling = max >> self.below(6);
        self.below(u64::from(ceiling.max(1)) + 1) as u32
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen() {
        // A changed generator changes what every recorded seed means.
        let mut rng = Rng::new(4711);
        let first: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        let mut again = Rng::new(4711);
        assert_eq!(first, (0..3).map(|_| again.next_u64()).collect::<Vec<_>>());
        assert_ne!(
            Rng::new(4711).split("a").next_u64(),
            Rng::new(4711).split("b").next_u64()
        );
    }

    #[test]
    fn about_has_its_mean() {
        let mut rng = Rng::new(1);
        let mean = (0..100_000).map(|_| rng.about(1000)).sum::<u64>() / 100_000;
        assert!((900..1150).contains(&mean), "{mean}");
    }
}
