//! What to do next, drawn from a seed.

use crate::{Action, Dice};
use lockstep_types::BlockRange;

/// Whether operations in flight may touch the same blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Overlap {
    /// They may: the order is the volume's.
    Allowed,
    /// They may not, as under a file system.
    Refused,
}

/// The shape of a load.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Profile {
    /// Blocks of the volume.
    pub blocks: u64,
    /// Most blocks of one operation.
    pub longest: u32,
    /// Weights of reads, writes, discards, zeroes and flushes; not all 0.
    pub weights: [u32; 5],
    /// Per cent of operations that go to the hot spot.
    pub hot_percent: u32,
    /// Blocks of the hot spot; it lies where the seed says.
    pub hot_blocks: u64,
    /// Whether operations may overlap.
    pub overlap: Overlap,
}

impl Profile {
    /// A mixed load on a volume of so many blocks.
    pub fn new(blocks: u64) -> Self {
        Self {
            blocks,
            longest: 16,
            weights: [40, 50, 4, 4, 2],
            hot_percent: 20,
            hot_blocks: 16,
            overlap: Overlap::Allowed,
        }
    }
}

/// Draws actions. The same seed and the same answers to `busy` give the same actions.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Generator {
    dice: Dice,
    profile: Profile,
    hot_start: u64,
}

/// Places tried before saying that all are busy.
const TRIES: u32 = 32;

impl Generator {
    /// The load of `seed`. Panics on a profile without blocks or weights.
    pub fn new(seed: u64, mut profile: Profile) -> Self {
        assert!(
            profile.blocks > 0 && profile.longest > 0,
            "a load needs blocks"
        );
        assert!(
            profile.weights.iter().any(|weight| *weight > 0),
            "a load needs something to do"
        );
        let mut dice = Dice::new(seed);
        profile.hot_blocks = profile.hot_blocks.clamp(1, profile.blocks);
        let hot_start = dice.below(profile.blocks - profile.hot_blocks + 1);
        Self {
            dice,
            profile,
            hot_start,
        }
    }

    /// The next action. `busy` says whether a range is touched by an operation in flight, and is
    /// asked where overlap is refused; `None` if every place tried was.
    pub fn next(&mut self, busy: impl Fn(BlockRange) -> bool) -> Option<Action> {
        let kind = self.kind();
        if kind == 4 {
            return Some(Action::Flush);
        }
        let free = |range: &BlockRange| self.profile.overlap == Overlap::Allowed || !busy(*range);
        let mut dice = self.dice.clone();
        let range = (0..TRIES).map(|_| self.range(&mut dice)).find(free);
        self.dice = dice;
        range.map(|range| match kind {
            0 => Action::Read(range),
            1 => Action::Write(range),
            2 => Action::Discard(range),
            _ => Action::Zeroes(range),
        })
    }

    fn kind(&mut self) -> usize {
        let total: u64 = self
            .profile
            .weights
            .iter()
            .map(|weight| u64::from(*weight))
            .sum();
        let mut drawn = self.dice.below(total);
        for (kind, weight) in self.profile.weights.iter().enumerate() {
            match drawn.checked_sub(u64::from(*weight)) {
                None => return kind,
                Some(rest) => drawn = rest,
            }
        }
        unreachable!("what is drawn is below the total")
    }

    fn range(&self, dice: &mut Dice) -> BlockRange {
        let profile = &self.profile;
        let start = if dice.chance(profile.hot_percent) {
            self.hot_start + dice.below(profile.hot_blocks)
        } else {
            dice.below(profile.blocks)
        };
        // Half of all operations are one block, the size that counts.
        let longest = u64::from(profile.longest).min(profile.blocks - start);
        let count = if dice.chance(50) {
            1
        } else {
            1 + dice.below(longest)
        };
        BlockRange::new(start, u32::try_from(count).expect("not above the longest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_inside_and_mixes_everything() {
        let mut generator = Generator::new(5, Profile::new(100));
        let mut kinds = [0; 5];
        for _ in 0..10_000 {
            let action = generator.next(|_| true).expect("overlap is allowed");
            kinds[match action {
                Action::Read(_) => 0,
                Action::Write(_) => 1,
                Action::Discard(_) => 2,
                Action::Zeroes(_) => 3,
                Action::Flush => 4,
            }] += 1;
            if let Some(range) = action.range() {
                assert!(range.end() <= 100 && range.count <= 16);
            }
        }
        assert!(kinds.iter().all(|count| *count > 100), "{kinds:?}");
    }

    #[test]
    fn refuses_what_is_busy() {
        let profile = Profile {
            overlap: Overlap::Refused,
            ..Profile::new(100)
        };
        let mut generator = Generator::new(5, profile);
        let taken = BlockRange::new(0, 90);
        for _ in 0..1000 {
            let action = generator.next(|range| range.overlaps(taken));
            let range = action.and_then(|action| action.range());
            assert!(range.is_none_or(|range| range.start >= 90));
        }
        let drawn = (0..100)
            .filter_map(|_| generator.next(|_| true))
            .collect::<Vec<_>>();
        assert!(drawn.iter().all(|action| *action == Action::Flush));
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed| {
            let mut generator = Generator::new(seed, Profile::new(1000));
            (0..50)
                .map(|_| generator.next(|_| false))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
