//! What is sequenced, sent to every replica, journaled and replayed.

use crate::{BlockRange, Checksums, EXTENT_BLOCKS, MAX_DISCARD_BLOCKS, Stamp};
use bytes::Bytes;

/// Kinds of records. All are sequenced, reconciled and replayed alike (R8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// Payload for a range inside one extent.
    Write = 1,
    /// The range reads as zero from now on, and its space may be freed.
    Discard = 2,
    /// The range reads as zero from now on.
    WriteZeroes = 3,
    /// The volume is `range.start` blocks long from now on (`range.count` is 1); only grows.
    Resize = 4,
    /// Nothing; closes a sequence, for instance one that reconciling refuted.
    Nothing = 5,
}

impl RecordKind {
    /// From its number on disk or wire.
    pub const fn from_u8(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Write,
            2 => Self::Discard,
            3 => Self::WriteZeroes,
            4 => Self::Resize,
            5 => Self::Nothing,
            _ => return None,
        })
    }
}

/// A sequenced record of a volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// Its version.
    pub stamp: Stamp,
    /// What it does.
    pub kind: RecordKind,
    /// Where: inside one extent for a write, at most [`MAX_DISCARD_BLOCKS`] for the rest.
    pub range: BlockRange,
    /// One a block for writes; empty otherwise.
    pub checksums: Checksums,
    /// `range.bytes()` for writes; empty otherwise.
    pub payload: Bytes,
}

impl Record {
    /// Asserts what every maker of a record promises. The payload's content is checked against its
    /// checksums where it enters a node, not here.
    pub fn assert_valid(&self) {
        let blocks = u64::from(self.range.count);
        match self.kind {
            RecordKind::Write => {
                assert!(blocks <= EXTENT_BLOCKS && self.range.in_one_extent());
                assert_eq!(self.payload.len(), self.range.bytes());
                assert_eq!(self.checksums.len() as u64, blocks);
            }
            RecordKind::Discard | RecordKind::WriteZeroes => {
                assert!(blocks <= MAX_DISCARD_BLOCKS && self.payload.is_empty());
            }
            RecordKind::Resize | RecordKind::Nothing => {
                assert!(self.payload.is_empty());
            }
        }
    }

    /// The blocks whose content it changes.
    pub fn touches(&self) -> Option<BlockRange> {
        match self.kind {
            RecordKind::Write | RecordKind::Discard | RecordKind::WriteZeroes => Some(self.range),
            RecordKind::Resize | RecordKind::Nothing => None,
        }
    }
}
