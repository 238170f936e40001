//! One record as a batch header names it: 64 bytes.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | slot of the replica in the table |
//! | 4 | 1 | [`RecordKind`] |
//! | 5 | 1 | flags: 1 copied forward, 2 copy, 4 direct, 8 void, 16 floor only |
//! | 6 | 2 | zero |
//! | 8 | 4 | blocks |
//! | 12 | 4 | physical extent, for direct writes; else zero |
//! | 16 | 8 | first block |
//! | 24 | 8 + 8 | stamp: epoch, sequence |
//! | 40 | 8 + 8 | floor of the volume: epoch, sequence (R11) |
//! | 56 | 8 | argument: order of a copy among all copies of the pool; void: batches below this number; else zero |

use super::{FormatError, Structure};
use lockstep_types::{
    BlockRange, Checksums, EXTENT_BLOCKS, Epoch, MAX_DISCARD_BLOCKS, MAX_VOLUME_BLOCKS, RecordKind,
    Sequence, Stamp,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What is special about a record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RecordFlags(u8);

impl RecordFlags {
    /// An ordinary record.
    pub const NONE: Self = Self(0);
    /// Appended again at the head under its own stamp (S5).
    pub const COPY_FORWARD: Self = Self(1);
    /// Copied from another replica by a resync or repair (R16), not sequenced here.
    pub const COPY: Self = Self(2);
    /// A whole extent whose data lies in its physical extent already, not in the batch (S1).
    pub const DIRECT: Self = Self(4);
    /// Records of the slot above the stamp's sequence in batches below the argument never count
    /// again.
    pub const VOID: Self = Self(8);
    /// Carries a floor and nothing else.
    pub const FLOOR_ONLY: Self = Self(16);

    const ALL: u8 = 31;

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One record of a batch, without its payload.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Descriptor {
    /// The replica's slot in the table.
    pub slot: u32,
    /// What it does; [`RecordKind::Nothing`] for voids and floors.
    pub kind: RecordKind,
    /// What is special.
    pub flags: RecordFlags,
    /// Where.
    pub range: BlockRange,
    /// Its version.
    pub stamp: Stamp,
    /// The volume's floor as known then (R11).
    pub floor: Stamp,
    /// The physical extent of a direct write; 0 otherwise.
    pub extent: u32,
    /// The order of a copy, the batch bound of a void; 0 otherwise.
    pub argument: u64,
    /// One a block for writes, direct ones too; empty otherwise. Not seeded.
    pub checksums: Checksums,
}

impl Descriptor {
    /// Payload blocks that follow the header for it.
    pub const fn payload_blocks(&self) -> u32 {
        if self.flags.has(RecordFlags::DIRECT) {
            0
        } else {
            self.checksum_count()
        }
    }

    /// Checksums it has.
    pub(super) const fn checksum_count(&self) -> u32 {
        if matches!(self.kind, RecordKind::Write) {
            self.range.count
        } else {
            0
        }
    }

    /// Asserts what every maker of one promises.
    ///
    /// # Panics
    /// If fields contradict each other.
    pub fn assert_valid(&self) {
        assert_eq!(
            self.checksums.len(),
            self.checksum_count() as usize,
            "one checksum a block"
        );
        assert_eq!(self.contradiction(), None, "the record is well-formed");
    }

    /// The first field that cannot be so.
    fn contradiction(&self) -> Option<&'static str> {
        let has = |flag| self.flags.has(flag);
        let blocks = u64::from(self.range.count);
        let inside = self.range.end() <= MAX_VOLUME_BLOCKS;
        let range_ok = match self.kind {
            RecordKind::Write => inside && self.range.in_one_extent(),
            RecordKind::Discard | RecordKind::WriteZeroes | RecordKind::Nothing => {
                inside && blocks <= MAX_DISCARD_BLOCKS
            }
            // The start is a length, so it may be the length of the largest volume.
            RecordKind::Resize => blocks == 1 && self.range.start <= MAX_VOLUME_BLOCKS,
        };
        let marker = has(RecordFlags::VOID) || has(RecordFlags::FLOOR_ONLY);
        let argument_ok = self.argument == 0 || has(RecordFlags::COPY) || has(RecordFlags::VOID);
        if self.flags.0 & !RecordFlags::ALL != 0 {
            Some("flags")
        } else if marker && self.kind != RecordKind::Nothing {
            Some("kind of a marker")
        } else if has(RecordFlags::VOID) && (has(RecordFlags::FLOOR_ONLY) || has(RecordFlags::COPY))
        {
            Some("flags of a marker")
        } else if has(RecordFlags::DIRECT)
            && !(self.kind == RecordKind::Write && self.range.is_whole_extent())
        {
            Some("direct write")
        } else if self.extent != 0 && !has(RecordFlags::DIRECT) {
            Some("extent")
        } else if !argument_ok {
            Some("argument")
        } else if !range_ok {
            Some("range")
        } else {
            None
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct RawDescriptor {
    slot: U32,
    kind: u8,
    flags: u8,
    reserved: U16,
    count: U32,
    extent: U32,
    start: U64,
    stamp: [U64; 2],
    floor: [U64; 2],
    argument: U64,
}
const _: () = assert!(size_of::<RawDescriptor>() == 64);
const _: () = assert!(EXTENT_BLOCKS == 64);

impl RawDescriptor {
    pub(super) fn of(record: &Descriptor) -> Self {
        Self {
            slot: record.slot.into(),
            kind: record.kind as u8,
            flags: record.flags.0,
            reserved: 0.into(),
            count: record.range.count.into(),
            extent: record.extent.into(),
            start: record.range.start.into(),
            stamp: [record.stamp.epoch.0.into(), record.stamp.sequence.0.into()],
            floor: [record.floor.epoch.0.into(), record.floor.sequence.0.into()],
            argument: record.argument.into(),
        }
    }

    /// The record, its checksums still missing.
    pub(super) fn decode(&self) -> Result<Descriptor, FormatError> {
        let bad = |field| Err(FormatError::field(Structure::Batch, field));
        let Some(kind) = RecordKind::from_u8(self.kind) else {
            return bad("kind");
        };
        let (start, count) = (self.start.get(), self.count.get());
        if count == 0 || start > MAX_VOLUME_BLOCKS {
            return bad("range");
        }
        let stamp =
            |[epoch, sequence]: [U64; 2]| Stamp::new(Epoch(epoch.get()), Sequence(sequence.get()));
        let record = Descriptor {
            slot: self.slot.get(),
            kind,
            flags: RecordFlags(self.flags),
            range: BlockRange::new(start, count),
            stamp: stamp(self.stamp),
            floor: stamp(self.floor),
            extent: self.extent.get(),
            argument: self.argument.get(),
            checksums: Checksums::none(),
        };
        match record.contradiction() {
            Some(field) => bad(field),
            None => Ok(record),
        }
    }
}
