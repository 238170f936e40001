//! What a store must hold: every record in order of arrival, and which of them count.

use lockstep_types::{
    BLOCK, BlockRange, EXTENT_BLOCKS, Epoch, RecordKind, ReplicaId, Sequence, Stamp,
};
use std::collections::BTreeMap;

/// One record or copy.
#[derive(Clone, Debug)]
pub struct Op {
    /// Order of arrival.
    pub id: u64,
    pub stamp: Stamp,
    pub kind: RecordKind,
    pub range: BlockRange,
    pub salt: u64,
    pub copy: bool,
    pub durable: bool,
    /// Never counts (again).
    pub dead: bool,
    /// A later epoch took its sequence, or a void its right, while it was alive.
    pub superseded: bool,
    /// The floor that came with it.
    pub floor: Stamp,
}

/// One block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell {
    Hole,
    Data(u64),
}

impl Cell {
    pub fn bytes(self, block: u64) -> Vec<u8> {
        match self {
            Self::Hole => vec![0; BLOCK],
            Self::Data(salt) => super::content(salt, BlockRange::new(block, 1)).to_vec(),
        }
    }
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Replica {
    pub id: ReplicaId,
    pub ops: Vec<Op>,
    /// The highest floor told.
    pub floor: Stamp,
    /// The highest floor that must survive.
    pub floor_known: Stamp,
    pub epoch: Epoch,
    /// The sequence of the next record.
    pub next: Sequence,
    pub blocks: u64,
    /// No crash since the last discard that may have freed an extent.
    pub holes_known: bool,
}

impl Replica {
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            ops: Vec::new(),
            floor: Stamp::ZERO,
            floor_known: Stamp::ZERO,
            epoch: Epoch(1),
            next: Sequence(1),
            blocks: 0,
            holes_known: true,
        }
    }

    pub fn live(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| !op.dead)
    }

    /// Sequenced records that count.
    pub fn records(&self) -> impl Iterator<Item = &Op> {
        self.live().filter(|op| !op.copy)
    }

    /// What blocks hold, by the records that arrived before `until`.
    pub fn cells(&self, range: BlockRange, until: u64) -> Vec<Cell> {
        let mut cells = vec![(Cell::Hole, (Sequence(0), Epoch(0), 0)); range.count as usize];
        for op in self.live().filter(|op| op.id < until && !op.superseded) {
            let cell = match op.kind {
                RecordKind::Write => Cell::Data(op.salt),
                RecordKind::Discard | RecordKind::WriteZeroes => Cell::Hole,
                _ => continue,
            };
            let Some(part) = op.range.intersection(range) else {
                continue;
            };
            let rank = (op.stamp.sequence, op.stamp.epoch, op.id);
            for block in part.start..part.end() {
                let held = &mut cells[(block - range.start) as usize];
                if rank >= held.1 {
                    *held = (cell, rank);
                }
            }
        }
        cells.into_iter().map(|(cell, _)| cell).collect()
    }

    /// The newest sequence that touched an extent.
    pub fn newest(&self, extent: u32) -> Sequence {
        let whole = BlockRange::of_extent(extent);
        self.live()
            .filter(|op| {
                !op.superseded
                    && !matches!(op.kind, RecordKind::Resize | RecordKind::Nothing)
                    && op.range.overlaps(whole)
            })
            .map(|op| op.stamp.sequence)
            .max()
            .unwrap_or_default()
    }

    /// The last record appended.
    pub fn last(&self) -> Stamp {
        let above = self
            .records()
            .filter(|op| op.stamp.sequence > self.floor.sequence);
        let newest = above.max_by_key(|op| (op.stamp.sequence, op.stamp.epoch));
        newest.map_or(self.floor, |op| op.stamp)
    }

    /// The versions of each sequence above one, by sequence.
    pub fn above(&self, sequence: Sequence) -> BTreeMap<Sequence, Vec<&Op>> {
        let mut found: BTreeMap<Sequence, Vec<&Op>> = BTreeMap::new();
        for op in self.records().filter(|op| op.stamp.sequence > sequence) {
            found.entry(op.stamp.sequence).or_default().push(op);
        }
        found
    }

    /// The last stamp without a gap from the floor on, each in its newest version, all durable.
    pub fn durable_prefix(&self) -> Stamp {
        let mut last = self.floor;
        for (sequence, versions) in self.above(self.floor.sequence) {
            let newest = versions
                .iter()
                .max_by_key(|op| op.stamp.epoch)
                .expect("not empty");
            if sequence != last.sequence.next() || !newest.durable {
                break;
            }
            last = newest.stamp;
        }
        last
    }

    /// Bytes of the ring that records above the floor pin, at least.
    pub fn pinned(&self) -> u64 {
        let pinned = self
            .live()
            .filter(|op| op.stamp.sequence > self.floor.sequence);
        pinned
            .map(|op| match op.kind {
                RecordKind::Write if op.range.is_whole_extent() && !op.copy => 512,
                RecordKind::Write => op.range.bytes() as u64 + 512,
                _ => 512,
            })
            .sum()
    }

    /// Extents that any record ever touched.
    pub fn extents(&self) -> u32 {
        let end = self.ops.iter().map(|op| match op.kind {
            RecordKind::Resize => 0,
            _ => op.range.end(),
        });
        end.max().unwrap_or(0).div_ceil(EXTENT_BLOCKS) as u32
    }
}
