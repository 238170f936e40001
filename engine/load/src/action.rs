//! What a client does.

use crate::stamp::Stamp;
use bytes::{Bytes, BytesMut};
use lockstep_types::{BLOCK, BlockRange, VolumeId};

/// One thing to do to a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Read the range and have it verified.
    Read(BlockRange),
    /// Write stamped blocks.
    Write(BlockRange),
    /// Discard: reads as zero afterwards.
    Discard(BlockRange),
    /// Write zeroes.
    Zeroes(BlockRange),
    /// Flush.
    Flush,
}

impl Action {
    /// The blocks concerned; none for a flush.
    pub fn range(&self) -> Option<BlockRange> {
        match *self {
            Self::Read(range) | Self::Write(range) | Self::Discard(range) | Self::Zeroes(range) => {
                Some(range)
            }
            Self::Flush => None,
        }
    }
}

/// An action that has begun. Its number is unique for its oracle.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[must_use = "every operation that begins ends: acknowledged, verified or failed"]
pub struct Operation {
    /// Counts up from 1.
    pub number: u64,
    /// Whose it is.
    pub client: u32,
    /// What it does.
    pub action: Action,
}

impl Operation {
    /// Fills `target`, as long as the range, with the stamped blocks of this write. Panics for
    /// anything but a write.
    pub fn fill(&self, volume: VolumeId, target: &mut [u8]) {
        let Action::Write(range) = self.action else {
            panic!("{:?} has no payload", self.action);
        };
        assert_eq!(
            target.len(),
            range.bytes(),
            "a payload is as long as its range"
        );
        for (block, bytes) in (range.start..).zip(target.chunks_exact_mut(BLOCK)) {
            let stamp = Stamp {
                volume,
                block,
                operation: self.number,
                client: self.client,
            };
            stamp.fill(bytes);
        }
    }

    /// The stamped blocks of this write. Panics for anything but a write.
    pub fn payload(&self, volume: VolumeId) -> Bytes {
        let length = self.action.range().map_or(0, |range| range.bytes());
        let mut bytes = BytesMut::zeroed(length);
        self.fill(volume, &mut bytes);
        bytes.freeze()
    }
}
