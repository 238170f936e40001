//! Where the newest content of each block of a range lies.

use crate::index::{EntryId, Place};
use crate::store::Store;
use bytes::Bytes;
use lockstep_types::{BLOCK, BlockRange, EXTENT_BLOCKS, RecordKind};

/// Blocks that lie side by side in one place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Part {
    pub range: BlockRange,
    pub from: Source,
    pub data: Option<Bytes>,
    /// Raw checksums that the data must have; none while their page is being read.
    pub expected: Option<Vec<u32>>,
}

/// Where they lie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Source {
    Hole,
    Memory,
    Ring(u64),
    /// Data of a journaled direct write.
    Direct {
        extent: u32,
        offset: u64,
    },
    Mapped {
        extent: u32,
        offset: u64,
    },
}

impl Store {
    /// Where each piece of a replica's range lies now: in one record only, or wherever it is newest.
    pub(crate) fn locate(
        &mut self,
        slot: u32,
        range: BlockRange,
        only: Option<EntryId>,
    ) -> Vec<Part> {
        let mut parts = Vec::new();
        for piece in range.split_by_extent() {
            match only {
                Some(id) => parts.push(self.part_of_entry(id, piece)),
                None => self.locate_piece(slot, piece, &mut parts),
            }
        }
        parts
    }

    fn locate_piece(&mut self, slot: u32, piece: BlockRange, parts: &mut Vec<Part>) {
        let index = piece.extent();
        let base = u64::from(index) * EXTENT_BLOCKS;
        let (winners, left) = self.index.winners(slot, index, piece.bits_in(index));
        let owner = self.slots[&slot].owner();
        let mapped = self.extents.find(owner, index);
        let valid = mapped.map_or(0, |e| self.extents.get(e).valid);
        let mut at = piece.start;
        while at < piece.end() {
            let bit = |block: u64| 1u64 << (block - base);
            let winner = winners.iter().find(|w| w.bits & bit(at) != 0).copied();
            let mut end = at + 1;
            while end < piece.end() {
                let same = match winner {
                    Some(w) => w.bits & bit(end) != 0,
                    None => {
                        left & bit(end) != 0 && (valid & bit(end) != 0) == (valid & bit(at) != 0)
                    }
                };
                if !same {
                    break;
                }
                end += 1;
            }
            let range = BlockRange::new(at, (end - at) as u32);
            let part = match (winner, mapped) {
                (Some(w), _) => self.part_of_entry(w.entry, range),
                (None, Some(extent)) if valid & bit(at) != 0 => {
                    let offset = self.geometry.extent_offset(extent) + (at - base) * BLOCK as u64;
                    Part::new(range, Source::Mapped { extent, offset })
                }
                _ => Part::new(range, Source::Hole),
            };
            parts.push(part);
            at = end;
        }
    }

    fn part_of_entry(&self, id: EntryId, range: BlockRange) -> Part {
        let entry = self.index.get(id).expect("winners are live");
        if entry.kind != RecordKind::Write {
            return Part::new(range, Source::Hole);
        }
        let first = (range.start - entry.range.start) as usize;
        let count = range.count as usize;
        let expected = entry.checksums.as_slice()[first..first + count].to_vec();
        let skip = (first * BLOCK) as u64;
        let mut part = match (&entry.payload, entry.place) {
            (Some(payload), _) => {
                let mut part = Part::new(range, Source::Memory);
                part.data = Some(payload.slice(first * BLOCK..(first + count) * BLOCK));
                part
            }
            (None, Place::Ring(at)) => Part::new(range, Source::Ring(at + skip)),
            (None, Place::Extent(extent)) => {
                let offset = self.geometry.extent_offset(extent) + skip;
                Part::new(range, Source::Direct { extent, offset })
            }
            (None, Place::Memory) => unreachable!("a record in memory has its payload"),
        };
        part.expected = Some(expected);
        part
    }
}

impl Part {
    fn new(range: BlockRange, from: Source) -> Self {
        Self {
            range,
            from,
            data: None,
            expected: None,
        }
    }
}
