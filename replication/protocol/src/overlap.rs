//! The overlap order (R6, R16): which ranges are busy, so that whatever touches the same blocks is
//! sequenced one after the other, and all replicas apply it in one order.

use lockstep_types::BlockRange;
use std::collections::BTreeMap;

/// Disjoint busy ranges, each with what occupies it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Overlap<T> {
    busy: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for Overlap<T> {
    fn default() -> Self {
        Self {
            busy: BTreeMap::new(),
        }
    }
}

impl<T: Copy> Overlap<T> {
    /// Whether nothing busy shares a block with the range.
    pub fn is_free(&self, range: BlockRange) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// What occupies blocks of the range, from the last to the first.
    pub fn overlapping(&self, range: BlockRange) -> impl Iterator<Item = T> + '_ {
        // The ranges are disjoint, so going down from the end their ends fall too.
        self.busy
            .range(..range.end())
            .rev()
            .take_while(move |(_, (end, _))| *end > range.start)
            .map(|(_, (_, what))| *what)
    }

    /// Occupies a free range.
    ///
    /// # Panics
    /// If it is not free.
    pub fn occupy(&mut self, range: BlockRange, what: T) {
        assert!(
            self.is_free(range),
            "an occupied range is not given away (R6)"
        );
        self.busy.insert(range.start, (range.end(), what));
    }

    /// Occupies without looking; for the mutation gate only, where two may share a start.
    pub fn occupy_anyway(&mut self, range: BlockRange, what: T) {
        self.busy.entry(range.start).or_insert((range.end(), what));
    }

    /// Frees a range that was occupied.
    pub fn free(&mut self, range: BlockRange) {
        self.busy.remove(&range.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_do_not_overlap() {
        let mut overlap = Overlap::default();
        overlap.occupy(BlockRange::new(10, 5), 1u32);
        overlap.occupy(BlockRange::new(15, 5), 2);
        assert!(overlap.is_free(BlockRange::new(5, 5)));
        assert!(overlap.is_free(BlockRange::new(20, 1)));
        assert_eq!(
            overlap
                .overlapping(BlockRange::new(14, 2))
                .collect::<Vec<_>>(),
            [2, 1]
        );
        overlap.free(BlockRange::new(10, 5));
        assert_eq!(
            overlap
                .overlapping(BlockRange::new(0, 100))
                .collect::<Vec<_>>(),
            [2]
        );
    }
}
