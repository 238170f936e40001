//! A page of the metadata delta log: what changed in map and checksum pages since they were last
//! written. Pages are numbered from 1 and lie at number modulo the area's pages, so an older number
//! than its place calls for is the end of the log.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 64 | [page header](super::page), magic `LSde`, number of the page, count = deltas used |
//! | 64 | 126 × 32 | deltas, the unused ones zero |
//!
//! A delta:
//!
//! | offset | bytes | block written (1) | mapped (2) | freed (3) | valid (4) |
//! |---:|---:|---|---|---|---|
//! | 0 | 1 | 1 | 2 | 3 | 4 |
//! | 1 | 1 | block in the extent | zero | zero | zero |
//! | 2 | 2 | zero | zero | zero | zero |
//! | 4 | 4 | extent | extent | extent | extent |
//! | 8 | 4 | stored checksum | owner | zero | bitmap, low half |
//! | 12 | 4 | zero | logical index | zero | bitmap, high half |
//! | 16 | 8 | zero | birth | zero | zero |
//! | 24 | 8 | sequence | sequence | zero | sequence |

use super::page::{PageHeader, PageKind};
use super::{FormatError, PageBytes, PoolKey, Structure};
use lockstep_types::{BLOCK, EXTENT_BLOCKS, ExtentIndex, Sequence};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const KIND: PageKind = PageKind::new(Structure::Delta, b"LSde", 1);
/// Deltas one page holds.
pub const DELTAS_PER_PAGE: usize = 126;

/// One change of metadata. Applied in order; a page that already contains some of them ends the same
/// when they are applied again from an earlier point of the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Delta {
    /// A block of an extent was written: its bit is set, its checksum is this, and the extent's
    /// newest sequence is at least this.
    BlockWritten {
        /// The physical extent.
        extent: u32,
        /// The block inside it, below 64.
        block: u8,
        /// The checksum as stored: seeded (see [`super::seed`]).
        stored: u32,
        /// The record's sequence.
        sequence: Sequence,
    },
    /// A free extent was given to a layer; no block is valid yet.
    Mapped {
        /// The physical extent.
        extent: u32,
        /// The layer, never 0 ([`super::ReplicaEntry::owner`]).
        owner: u32,
        /// The logical extent of the volume.
        index: ExtentIndex,
        /// The sequence of the record that created it: no older record is ever written into it (S3).
        birth: Sequence,
        /// The newest sequence in it.
        sequence: Sequence,
    },
    /// An extent has no owner any more.
    Freed {
        /// The physical extent.
        extent: u32,
    },
    /// Exactly these blocks are valid: blocks were dropped by a discard, or many written at once.
    Valid {
        /// The physical extent.
        extent: u32,
        /// Bit i: block i is present.
        bitmap: u64,
        /// The newest sequence in it.
        sequence: Sequence,
    },
}

/// One page of the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeltaPage {
    /// Rises by one with each page, from 1.
    pub number: u64,
    /// At most [`DELTAS_PER_PAGE`], in order.
    pub deltas: Vec<Delta>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawDelta {
    kind: u8,
    block: u8,
    reserved: U16,
    extent: U32,
    first: U32,
    second: U32,
    birth: U64,
    sequence: U64,
}
const _: () = assert!(size_of::<RawDelta>() == 32);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    header: PageHeader,
    deltas: [RawDelta; DELTAS_PER_PAGE],
}
const _: () = assert!(size_of::<Raw>() == BLOCK);

impl DeltaPage {
    /// The page's bytes.
    ///
    /// # Panics
    /// If it holds too many deltas, or what was encoded does not decode again.
    pub fn encode(&self, key: &PoolKey) -> PageBytes {
        let page = self.to_page(key);
        assert_eq!(
            Self::decode(&page, key).as_ref(),
            Ok(self),
            "what is written can be read"
        );
        page
    }

    /// Reads a page. Whether its number is the one wanted is for the caller to say: an older one is
    /// how the log ends.
    ///
    /// # Errors
    /// If any byte is not as this version wrote it for this pool.
    pub fn decode(page: &[u8], key: &PoolKey) -> Result<Self, FormatError> {
        let (header, raw) = KIND.open::<Raw>(page)?;
        KIND.check_pool(header, key.tag())?;
        let used = raw
            .deltas
            .get(..header.count.get() as usize)
            .ok_or(KIND.field("count"))?;
        let deltas = used
            .iter()
            .map(RawDelta::decode)
            .collect::<Result<Vec<_>, _>>()?;
        let decoded = Self {
            number: header.number.get(),
            deltas,
        };
        if decoded.number == 0 {
            return Err(KIND.field("number"));
        }
        KIND.check_canonical(page, &decoded.to_page(key))?;
        Ok(decoded)
    }

    fn to_page(&self, key: &PoolKey) -> PageBytes {
        assert!(self.deltas.len() <= DELTAS_PER_PAGE);
        KIND.seal(&Raw {
            header: KIND.header(key.tag(), self.number, 0, self.deltas.len()),
            deltas: std::array::from_fn(|i| {
                self.deltas.get(i).map_or(RawDelta::ZERO, RawDelta::of)
            }),
        })
    }
}

impl RawDelta {
    const ZERO: Self = Self {
        kind: 0,
        block: 0,
        reserved: U16::ZERO,
        extent: U32::ZERO,
        first: U32::ZERO,
        second: U32::ZERO,
        birth: U64::ZERO,
        sequence: U64::ZERO,
    };

    fn of(delta: &Delta) -> Self {
        match *delta {
            Delta::BlockWritten {
                extent,
                block,
                stored,
                sequence,
            } => Self {
                kind: 1,
                block,
                extent: extent.into(),
                first: stored.into(),
                sequence: sequence.0.into(),
                ..Self::ZERO
            },
            Delta::Mapped {
                extent,
                owner,
                index,
                birth,
                sequence,
            } => Self {
                kind: 2,
                extent: extent.into(),
                first: owner.into(),
                second: index.into(),
                birth: birth.0.into(),
                sequence: sequence.0.into(),
                ..Self::ZERO
            },
            Delta::Freed { extent } => Self {
                kind: 3,
                extent: extent.into(),
                ..Self::ZERO
            },
            Delta::Valid {
                extent,
                bitmap,
                sequence,
            } => Self {
                kind: 4,
                extent: extent.into(),
                first: (bitmap as u32).into(),
                second: ((bitmap >> 32) as u32).into(),
                sequence: sequence.0.into(),
                ..Self::ZERO
            },
        }
    }

    fn decode(&self) -> Result<Delta, FormatError> {
        let extent = self.extent.get();
        let sequence = Sequence(self.sequence.get());
        let (first, second) = (self.first.get(), self.second.get());
        Ok(match self.kind {
            1 if u64::from(self.block) < EXTENT_BLOCKS => Delta::BlockWritten {
                extent,
                block: self.block,
                stored: first,
                sequence,
            },
            2 if first != 0 => {
                let birth = Sequence(self.birth.get());
                Delta::Mapped {
                    extent,
                    owner: first,
                    index: second,
                    birth,
                    sequence,
                }
            }
            3 => Delta::Freed { extent },
            4 => Delta::Valid {
                extent,
                bitmap: u64::from(first) | u64::from(second) << 32,
                sequence,
            },
            _ => return Err(KIND.field("delta")),
        })
    }
}
