//! Blocks and extents. All block arithmetic of the data path is here.

/// Bytes in a block, the unit of every address.
pub const BLOCK: usize = 4096;
/// Blocks in an extent.
pub const EXTENT_BLOCKS: u64 = 64;
/// Bytes in an extent: 256 KiB.
pub const EXTENT: usize = BLOCK * EXTENT_BLOCKS as usize;
/// Blocks one discard or write-zeroes record may cover: 64 MiB. Front-ends split larger ones, so
/// that the work of one record is bounded (S11).
pub const MAX_DISCARD_BLOCKS: u64 = 256 * EXTENT_BLOCKS;
/// Blocks of the largest volume: 2^32 extents, 1 PiB.
pub const MAX_VOLUME_BLOCKS: u64 = EXTENT_BLOCKS << 32;

/// The index of an extent inside a volume.
pub type ExtentIndex = u32;

/// A run of blocks. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockRange {
    /// The first block.
    pub start: u64,
    /// How many; at least 1.
    pub count: u32,
}

impl BlockRange {
    /// A range of at least one block.
    pub const fn new(start: u64, count: u32) -> Self {
        assert!(count > 0);
        Self { start, count }
    }

    /// The block after the last.
    pub const fn end(self) -> u64 {
        self.start + self.count as u64
    }

    /// Length in bytes.
    pub const fn bytes(self) -> usize {
        self.count as usize * BLOCK
    }

    /// Whether the two share a block.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Whether `other` lies inside.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The part that both share.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self::new(start, (end - start) as u32))
    }

    /// The extent of the first block.
    pub const fn extent(self) -> ExtentIndex {
        (self.start / EXTENT_BLOCKS) as ExtentIndex
    }

    /// The extents touched, first to last.
    pub fn extents(self) -> std::ops::RangeInclusive<ExtentIndex> {
        self.extent()..=((self.end() - 1) / EXTENT_BLOCKS) as ExtentIndex
    }

    /// Whether all blocks lie in one extent: every record with a payload does.
    pub const fn in_one_extent(self) -> bool {
        self.start / EXTENT_BLOCKS == (self.end() - 1) / EXTENT_BLOCKS
    }

    /// Whether this is exactly one whole extent.
    pub const fn is_whole_extent(self) -> bool {
        self.start.is_multiple_of(EXTENT_BLOCKS) && self.count as u64 == EXTENT_BLOCKS
    }

    /// The range of a whole extent.
    pub const fn of_extent(index: ExtentIndex) -> Self {
        Self {
            start: index as u64 * EXTENT_BLOCKS,
            count: EXTENT_BLOCKS as u32,
        }
    }

    /// The part inside one extent, as bits of that extent's bitmap (bit 0 its first block).
    pub fn bits_in(self, index: ExtentIndex) -> u64 {
        match self.intersection(Self::of_extent(index)) {
            None => 0,
            Some(part) => {
                let shift = part.start % EXTENT_BLOCKS;
                (u64::MAX >> (EXTENT_BLOCKS - part.count as u64)) << shift
            }
        }
    }

    /// The pieces, one an extent, in order.
    pub fn split_by_extent(self) -> impl Iterator<Item = Self> {
        self.extents().map(move |index| {
            self.intersection(Self::of_extent(index))
                .expect("an extent of the range meets it")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_cover_the_part_inside() {
        assert_eq!(BlockRange::new(0, 64).bits_in(0), u64::MAX);
        assert_eq!(BlockRange::new(62, 4).bits_in(0), 0b11 << 62);
        assert_eq!(BlockRange::new(62, 4).bits_in(1), 0b11);
        assert_eq!(BlockRange::new(62, 4).bits_in(2), 0);
    }

    #[test]
    fn pieces_tile_the_range() {
        let range = BlockRange::new(60, 140);
        let pieces: Vec<_> = range.split_by_extent().collect();
        assert_eq!(pieces.first().map(|p| p.start), Some(60));
        assert_eq!(pieces.iter().map(|p| u64::from(p.count)).sum::<u64>(), 140);
        assert!(pieces.iter().all(|p| p.in_one_extent()));
        assert!(pieces.windows(2).all(|w| w[0].end() == w[1].start));
    }
}
