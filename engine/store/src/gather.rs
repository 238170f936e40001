//! Payloads of a round that lie in the ring only: what lies side by side is read together.

use crate::index::EntryId;
use lockstep_types::{BlockRange, EXTENT};
use std::collections::VecDeque;

/// Bytes of one read at most.
const LONGEST: u64 = EXTENT as u64;
/// Bytes between two payloads that are read along: a header, and records that went elsewhere.
const GAP: u64 = 32 << 10;

/// Blocks of one record that belong to one extent of a round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Piece {
    /// The extent's place in the round.
    pub at: usize,
    /// The record.
    pub entry: EntryId,
    /// The blocks.
    pub range: BlockRange,
}

/// A piece, and where its bytes lie on the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Wanted {
    /// The byte offset on the device.
    pub offset: u64,
    /// What lies there.
    pub piece: Piece,
}

impl Wanted {
    /// The byte offset behind it.
    pub fn end(&self) -> u64 {
        self.offset + self.piece.range.bytes() as u64
    }
}

/// One read: from `offset` to the end of the last piece.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Gather {
    /// The byte offset on the device.
    pub offset: u64,
    /// What it reads, in order of offsets; never empty.
    pub wanted: Vec<Wanted>,
}

/// The reads that bring all pieces.
pub(crate) fn gather(mut wanted: Vec<Wanted>) -> VecDeque<Gather> {
    wanted.sort_unstable_by_key(|w| w.offset);
    let mut reads: VecDeque<Gather> = VecDeque::new();
    for next in wanted {
        if let Some(read) = reads.back_mut()
            && let Some(last) = read.wanted.last()
            && next.offset <= last.end() + GAP
            && next.end() - read.offset <= LONGEST
        {
            read.wanted.push(next);
            continue;
        }
        reads.push_back(Gather {
            offset: next.offset,
            wanted: vec![next],
        });
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(blocks: &[(u64, u32)]) -> Vec<Wanted> {
        let one = |(block, count): &(u64, u32)| Wanted {
            offset: block * 4096,
            piece: Piece {
                at: 0,
                entry: *block,
                range: BlockRange::new(0, *count),
            },
        };
        blocks.iter().map(one).collect()
    }

    fn shape(blocks: &[(u64, u32)]) -> Vec<(u64, usize)> {
        let reads = gather(wanted(blocks));
        let shape = reads.iter().map(|r| (r.offset / 4096, r.wanted.len()));
        shape.collect()
    }

    #[test]
    fn what_lies_side_by_side_is_one_read() {
        assert_eq!(shape(&[(3, 1), (1, 2), (5, 1)]), [(1, 3)]);
        assert_eq!(shape(&[(1, 1), (9, 1), (19, 1)]), [(1, 2), (19, 1)]);
        assert_eq!(shape(&[]), []);
    }

    #[test]
    fn no_read_is_longer_than_an_extent() {
        let blocks: Vec<(u64, u32)> = (0..200).map(|b| (b, 1)).collect();
        assert_eq!(shape(&blocks), [(0, 64), (64, 64), (128, 64), (192, 8)]);
        assert_eq!(shape(&[(0, 63), (63, 2)]), [(0, 1), (63, 1)]);
    }
}
