//! The values that bodies are made of.
//!
//! | value | bytes | layout |
//! |---|---|---|
//! | id | 16 | u128 |
//! | epoch, sequence, incarnation, resync number, time | 8 | u64 |
//! | truth value, kind of record, gap | 1 | u8 |
//! | option | 1 + n | flag; the value, or n zeroes |
//! | stamp | 16 | epoch, sequence |
//! | range | 12 | start u64, count u32 (at least 1) |
//! | epoch start | 16 | epoch, base |
//! | cut | 32 | stamp, resync number, shadow from |
//! | error | 13 | 1 corrupt, 2 stale, 3 other resync, 4 full, 5 device; range (zeroes unless corrupt) |
//! | result | 1 + … | 0 and an error, or 1 and the value |
//! | checksums | 2 + 4 n | count u16, then u32 each |
//! | list | 4 + … | count u32, then the entries |
//! | record | 31 + 4 n | stamp, kind, range, checksums; its blocks in the payload |
//! | tail entry | 31 + 4 n | stamp, kind, range, checksums |
//! | extent | 12 | index u32, sequence |
//! | extent's content | 8 + 4 n | bits of the blocks present, u32 each |
//! | read | 2 + 5 p + checksums | count of pieces u16; blocks u32 and presence each; checksums; present pieces in the payload |
//! | beacon volume | 64 | volume, replica, incarnation, epoch, floor |
//! | beacon answer | 73 | volume, replica, incarnation, epoch, granted, promised, last |

use crate::codec::{
    Field, Fixed, Listed, MAX_BEACON_VOLUMES, MAX_EXTENTS, MAX_PAYLOAD_BLOCKS, MAX_TAIL, Reader,
    Writer,
};
use crate::message::*;
use crate::{MAX_BODY, WireError};
use bytes::Bytes;
use lockstep_types::{
    BlockRange, Checksums, ClusterId, Cut, EXTENT_BLOCKS, Epoch, EpochStart, ExtentIndex, Gap,
    Incarnation, MAX_DISCARD_BLOCKS, MAX_HISTORY, MAX_VOLUME_BLOCKS, NodeId, Record, RecordKind,
    ReplicaId, ResyncNumber, Sequence, Stamp, VolumeId,
};

macro_rules! ids {
    ($($name:ident),*) => {$(
        impl Field for $name {
            const LEAST: usize = 16;

            fn put(&self, writer: &mut Writer<'_>) {
                self.as_u128().put(writer);
            }

            fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                u128::take(reader).map(Self::from_u128)
            }
        }

        impl Fixed for $name {}
    )*};
}

ids!(ClusterId, NodeId, VolumeId, ReplicaId);

macro_rules! counters {
    ($($name:ident),*) => {$(
        impl Field for $name {
            const LEAST: usize = 8;

            fn put(&self, writer: &mut Writer<'_>) {
                self.0.put(writer);
            }

            fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                u64::take(reader).map(Self)
            }
        }

        impl Fixed for $name {}
    )*};
}

counters!(Epoch, Sequence, Incarnation, ResyncNumber);

/// Structs that are their fields one after another. The size is asserted at compile time.
macro_rules! structs {
    ($($name:ident = $size:literal { $($field:ident: $type:ty),* })*) => {$(
        impl Field for $name {
            const LEAST: usize = 0 $(+ <$type as Field>::LEAST)*;

            fn put(&self, writer: &mut Writer<'_>) {
                $(self.$field.put(writer);)*
            }

            fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                Ok(Self { $($field: Field::take(reader)?),* })
            }
        }

        const _: () = assert!(<$name as Field>::LEAST == $size);
    )*};
}

structs! {
    Stamp = 16 { epoch: Epoch, sequence: Sequence }
    EpochStart = 16 { epoch: Epoch, base: Sequence }
    Cut = 32 { stamp: Stamp, resync: ResyncNumber, shadow_from: Sequence }
    Header = 48 { volume: VolumeId, replica: ReplicaId, incarnation: Incarnation, epoch: Epoch }
    BeaconVolume = 64 { header: Header, floor: Stamp }
    BeaconAnswer = 73 { header: Header, granted: bool, promised: Epoch, last: Stamp }
    Hello = 44 { cluster: ClusterId, node: NodeId, boot: u64, oldest: u16, newest: u16 }
    Beacon = 12 { sent: u64, volumes: Vec<BeaconVolume> }
    BeaconReply = 12 { sent: u64, volumes: Vec<BeaconAnswer> }
    Sealed = 58 {
        gap: Gap, floor: Stamp, last: Stamp, blocks: u64, clear_in: u64, joining: bool,
        history: Vec<EpochStart>, tail: Vec<TailEntry>
    }
}

impl Fixed for Stamp {}
impl Fixed for Cut {}

macro_rules! listed {
    ($($type:ty: $what:literal up to $cap:expr;)*) => {$(
        impl Listed for $type {
            const CAP: usize = $cap;
            const WHAT: &'static str = $what;
        }
    )*};
}

listed! {
    EpochStart: "epoch starts" up to MAX_HISTORY;
    TailEntry: "records of a tail" up to MAX_TAIL;
    (ExtentIndex, Sequence): "extents" up to MAX_EXTENTS;
    BeaconVolume: "volumes in a beacon" up to MAX_BEACON_VOLUMES;
    BeaconAnswer: "volumes in a beacon's reply" up to MAX_BEACON_VOLUMES;
}

// The longest message of every list stays inside a body, with room for what stands before it.
const _: () = {
    const MOST_OF_TAIL_ENTRY: usize = TailEntry::LEAST + 4 * MAX_PAYLOAD_BLOCKS;
    assert!(1024 + MAX_TAIL * MOST_OF_TAIL_ENTRY + MAX_HISTORY * EpochStart::LEAST <= MAX_BODY);
    assert!(1024 + MAX_EXTENTS * <(ExtentIndex, Sequence)>::LEAST <= MAX_BODY);
    assert!(1024 + MAX_BEACON_VOLUMES * BeaconAnswer::LEAST <= MAX_BODY);
};

impl Field for (ExtentIndex, Sequence) {
    const LEAST: usize = 12;

    fn put(&self, writer: &mut Writer<'_>) {
        self.0.put(writer);
        self.1.put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((Field::take(reader)?, Field::take(reader)?))
    }
}

impl Field for RecordKind {
    const LEAST: usize = 1;

    fn put(&self, writer: &mut Writer<'_>) {
        (*self as u8).put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let raw = u8::take(reader)?;
        Self::from_u8(raw).ok_or(WireError::WrongValue {
            what: "a record's kind",
            value: raw.into(),
        })
    }
}

impl Field for Gap {
    const LEAST: usize = 1;

    fn put(&self, writer: &mut Writer<'_>) {
        let raw: u8 = match self {
            Self::None => 0,
            Self::Torn => 1,
            Self::Corrupt => 2,
            Self::Suspect => 3,
        };
        raw.put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match u8::take(reader)? {
            0 => Self::None,
            1 => Self::Torn,
            2 => Self::Corrupt,
            3 => Self::Suspect,
            other => {
                return Err(WireError::WrongValue {
                    what: "a gap",
                    value: other.into(),
                });
            }
        })
    }
}

impl Field for BlockRange {
    const LEAST: usize = 12;

    fn put(&self, writer: &mut Writer<'_>) {
        assert!(self.count > 0, "a range is never empty");
        self.start.put(writer);
        self.count.put(writer);
    }

    /// Not empty, and its end no more than one past the largest volume's: a Resize to that length
    /// has its first block there.
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (start, count) = (u64::take(reader)?, u32::take(reader)?);
        if count == 0 {
            return Err(WireError::WrongValue {
                what: "a range's count",
                value: 0,
            });
        }
        match start
            .checked_add(count.into())
            .is_some_and(|end| end <= MAX_VOLUME_BLOCKS + 1)
        {
            true => Ok(Self { start, count }),
            false => Err(WireError::WrongValue {
                what: "a range's start",
                value: start,
            }),
        }
    }
}

impl Field for Checksums {
    const LEAST: usize = 2;

    fn put(&self, writer: &mut Writer<'_>) {
        assert!(
            self.len() <= MAX_PAYLOAD_BLOCKS,
            "one checksum a block of a payload"
        );
        (self.len() as u16).put(writer);
        self.as_slice().iter().for_each(|sum| sum.put(writer));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u16::take(reader)?.into();
        let count = reader.count(count, MAX_PAYLOAD_BLOCKS, 4, "checksums")?;
        let bytes = reader.bytes(4 * count)?.as_chunks::<4>().0;
        Ok(bytes.iter().map(|sum| u32::from_le_bytes(*sum)).collect())
    }
}

impl Field for TailEntry {
    const LEAST: usize = 31;

    fn put(&self, writer: &mut Writer<'_>) {
        check_shape(self.kind, self.range, &self.checksums).expect("a tail has valid records");
        self.stamp.put(writer);
        self.kind.put(writer);
        self.range.put(writer);
        self.checksums.put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let entry = Self {
            stamp: Field::take(reader)?,
            kind: Field::take(reader)?,
            range: Field::take(reader)?,
            checksums: Field::take(reader)?,
        };
        check_shape(entry.kind, entry.range, &entry.checksums)?;
        Ok(entry)
    }
}

impl Field for Record {
    const LEAST: usize = 31;

    fn put(&self, writer: &mut Writer<'_>) {
        self.assert_valid();
        check_shape(self.kind, self.range, &self.checksums)
            .expect("a valid record has a valid shape");
        self.stamp.put(writer);
        self.kind.put(writer);
        self.range.put(writer);
        self.checksums.put(writer);
        writer.payload(&self.payload);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let TailEntry {
            stamp,
            kind,
            range,
            checksums,
        } = Field::take(reader)?;
        let payload = reader.payload(checksums.len())?;
        Ok(Self {
            stamp,
            kind,
            range,
            checksums,
            payload,
        })
    }
}

/// What [`Record::assert_valid`] asserts, of a record that came from outside.
fn check_shape(
    kind: RecordKind,
    range: BlockRange,
    checksums: &Checksums,
) -> Result<(), WireError> {
    let wrong = |what, value| Err(WireError::WrongValue { what, value });
    let blocks = u64::from(range.count);
    let (longest, sums) = match kind {
        RecordKind::Write => (EXTENT_BLOCKS, range.count as usize),
        RecordKind::Discard | RecordKind::WriteZeroes => (MAX_DISCARD_BLOCKS, 0),
        RecordKind::Resize => (1, 0),
        RecordKind::Nothing => (u64::MAX, 0),
    };
    if blocks > longest {
        return wrong("a record's count of blocks", blocks);
    }
    if kind != RecordKind::Resize && range.end() > MAX_VOLUME_BLOCKS {
        return wrong("a record's end", range.end());
    }
    if kind == RecordKind::Write && !range.in_one_extent() {
        return wrong("the start of a write inside one extent", range.start);
    }
    match checksums.len() == sums {
        true => Ok(()),
        false => wrong("a record's count of checksums", checksums.len() as u64),
    }
}

/// A flag, then the record if there is one: a record is too long to stand in zeroes for.
impl Field for Option<Record> {
    const LEAST: usize = 1;

    fn put(&self, writer: &mut Writer<'_>) {
        self.is_some().put(writer);
        self.iter().for_each(|record| record.put(writer));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match bool::take(reader)? {
            true => Record::take(reader).map(Some),
            false => Ok(None),
        }
    }
}

/// A range inside one extent: of a read.
pub(crate) struct InExtent {
    pub range: BlockRange,
}

impl Field for InExtent {
    const LEAST: usize = 12;

    fn put(&self, writer: &mut Writer<'_>) {
        assert!(
            self.range.in_one_extent(),
            "front-ends and resync read inside one extent"
        );
        self.range.put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let range = BlockRange::take(reader)?;
        match range.in_one_extent() && range.end() <= MAX_VOLUME_BLOCKS {
            true => Ok(Self { range }),
            false => Err(WireError::WrongValue {
                what: "the start of a read inside one extent",
                value: range.start,
            }),
        }
    }
}

/// The content of a copy: a Write or a Discard inside one extent (R16).
pub(crate) struct CopyContent {
    pub kind: RecordKind,
    pub range: BlockRange,
    pub checksums: Checksums,
    pub payload: Bytes,
}

impl CopyContent {
    fn check(&self) -> Result<(), WireError> {
        if !matches!(self.kind, RecordKind::Write | RecordKind::Discard) {
            return Err(WireError::WrongValue {
                what: "a copy's kind",
                value: self.kind as u64,
            });
        }
        if !self.range.in_one_extent() {
            return Err(WireError::WrongValue {
                what: "the start of a copy inside one extent",
                value: self.range.start,
            });
        }
        check_shape(self.kind, self.range, &self.checksums)
    }
}

impl Field for CopyContent {
    const LEAST: usize = 15;

    fn put(&self, writer: &mut Writer<'_>) {
        self.check()
            .expect("a copy is a Write or a Discard inside one extent");
        assert_eq!(
            self.payload.len(),
            self.checksums.len() * lockstep_types::BLOCK
        );
        self.kind.put(writer);
        self.range.put(writer);
        self.checksums.put(writer);
        writer.payload(&self.payload);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut copy = Self {
            kind: Field::take(reader)?,
            range: Field::take(reader)?,
            checksums: Field::take(reader)?,
            payload: Bytes::new(),
        };
        copy.check()?;
        copy.payload = reader.payload(copy.checksums.len())?;
        Ok(copy)
    }
}

impl Field for ReplicaError {
    const LEAST: usize = 13;

    fn put(&self, writer: &mut Writer<'_>) {
        let raw: u8 = match self {
            Self::Corrupt(_) => 1,
            Self::Stale => 2,
            Self::OtherResync => 3,
            Self::Full => 4,
            Self::Device => 5,
        };
        raw.put(writer);
        match self {
            Self::Corrupt(range) => range.put(writer),
            _ => writer.zeroes(BlockRange::LEAST),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let plain = match u8::take(reader)? {
            1 => return BlockRange::take(reader).map(Self::Corrupt),
            2 => Self::Stale,
            3 => Self::OtherResync,
            4 => Self::Full,
            5 => Self::Device,
            other => {
                return Err(WireError::WrongValue {
                    what: "a replica's error",
                    value: other.into(),
                });
            }
        };
        reader.zeroes(BlockRange::LEAST).map(|()| plain)
    }
}

impl<T: Field> Field for Result<T, ReplicaError> {
    const LEAST: usize = 1 + if T::LEAST < ReplicaError::LEAST {
        T::LEAST
    } else {
        ReplicaError::LEAST
    };

    fn put(&self, writer: &mut Writer<'_>) {
        self.is_ok().put(writer);
        match self {
            Ok(value) => value.put(writer),
            Err(error) => error.put(writer),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match bool::take(reader)? {
            true => Ok(T::take(reader)?),
            false => Err(ReplicaError::take(reader)?),
        })
    }
}

impl Field for () {
    const LEAST: usize = 0;

    fn put(&self, _: &mut Writer<'_>) {}

    fn take(_: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(())
    }
}

impl Field for ExtentContent {
    const LEAST: usize = 8;

    fn put(&self, writer: &mut Writer<'_>) {
        assert_eq!(
            self.checksums.len(),
            self.present.count_ones() as usize,
            "one checksum a present block"
        );
        self.present.put(writer);
        self.checksums.iter().for_each(|sum| sum.put(writer));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let present = u64::take(reader)?;
        let bytes = reader
            .bytes(4 * present.count_ones() as usize)?
            .as_chunks::<4>()
            .0;
        Ok(Self {
            present,
            checksums: bytes.iter().map(|sum| u32::from_le_bytes(*sum)).collect(),
        })
    }
}

impl Field for ReadPieces {
    const LEAST: usize = 4;

    fn put(&self, writer: &mut Writer<'_>) {
        let blocks: usize = self.pieces.iter().map(|(blocks, _)| *blocks as usize).sum();
        assert!(
            (1..=MAX_PAYLOAD_BLOCKS).contains(&blocks),
            "a read of {blocks} blocks"
        );
        assert_eq!(
            self.checksums.len(),
            blocks,
            "one checksum a block, holes included"
        );
        (self.pieces.len() as u16).put(writer);
        for (blocks, bytes) in &self.pieces {
            assert!(*blocks > 0, "a piece is never empty");
            blocks.put(writer);
            bytes.is_some().put(writer);
            if let Some(bytes) = bytes {
                assert_eq!(
                    bytes.len(),
                    *blocks as usize * lockstep_types::BLOCK,
                    "a piece is as long as it says"
                );
                writer.payload(bytes);
            }
        }
        self.checksums.put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u16::take(reader)?.into();
        let count = reader.count(count, MAX_PAYLOAD_BLOCKS, 5, "pieces of a read")?;
        let mut pieces = Vec::with_capacity(count);
        let mut total = 0;
        for _ in 0..count {
            let blocks = u32::take(reader)?;
            if blocks == 0 || blocks as usize > MAX_PAYLOAD_BLOCKS - total {
                return Err(WireError::WrongValue {
                    what: "a piece's count of blocks",
                    value: blocks.into(),
                });
            }
            total += blocks as usize;
            let bytes = match bool::take(reader)? {
                true => Some(reader.payload(blocks as usize)?),
                false => None,
            };
            pieces.push((blocks, bytes));
        }
        let checksums = Checksums::take(reader)?;
        match total > 0 && checksums.len() == total {
            true => Ok(Self { pieces, checksums }),
            false => Err(WireError::WrongValue {
                what: "a read's count of checksums",
                value: checksums.len() as u64,
            }),
        }
    }
}
