//! The anchor: where recovery starts. Two slots, alternating; everything that changes about the pool
//! as a whole is here, so that the superblock never does.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 64 | [page header](super::page), magic `LSan`, number 0, generation from 1 |
//! | 64 | 8 | journal tail: bytes from the start of the ring |
//! | 72 | 8 | number of the batch there |
//! | 80 | 8 | its lap |
//! | 88 | 16 | its "previous" field: the MAC of the header before it |
//! | 104 | 8 | highest batch number known flushed (R24) |
//! | 112 | 8 | delta log tail: number of the oldest page still needed |
//! | 120 | 4 | directory generation |
//! | 124 | 1 | 1 after a clean shutdown |
//! | 125 | 3 | zero |
//! | 128 | 4 | scrub: the extent to verify next |
//! | 132 | 4 | scrub: rounds completed |
//! | 136 | 8 | delta log head: pages below this number were durable |
//! | 144 | 3952 | zero |

use super::batch::HeaderHash;
use super::page::{PageHeader, PageKind};
use super::{FormatError, PageBytes, PoolKey, Structure};
use crate::scrub::ScrubPosition;
use lockstep_types::BLOCK;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const KIND: PageKind = PageKind::new(Structure::Anchor, b"LSan", 1);

/// Where recovery starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Anchor {
    /// Rises by one with each write; lies in slot `generation & 1`. From 1.
    pub generation: u64,
    /// Bytes from the start of the ring to the oldest batch still needed; a multiple of 4096.
    pub tail_offset: u64,
    /// The number of that batch.
    pub tail_number: u64,
    /// The lap of that batch.
    pub tail_lap: u64,
    /// What that batch carries as the hash of the header before it: the chain starts here.
    pub tail_previous: HeaderHash,
    /// The highest batch number known flushed when this was written; a bad batch at or below it is
    /// corruption (R24).
    pub mark: u64,
    /// The number of the oldest delta page still needed.
    pub delta_tail: u64,
    /// Pages below this number were durable when this was written: a missing one is corruption, not the
    /// end of the log. From `delta_tail` on.
    pub delta_mark: u64,
    /// The generation that every directory page must have.
    pub directory_generation: u32,
    /// The pool was closed in order: the journal is empty from the tail on.
    pub clean: bool,
    /// How far the scrub has come; a little behind does no harm.
    pub scrub: ScrubPosition,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    header: PageHeader,
    tail_offset: U64,
    tail_number: U64,
    tail_lap: U64,
    tail_previous: [u8; 16],
    mark: U64,
    delta_tail: U64,
    directory_generation: U32,
    clean: u8,
    reserved0: [u8; 3],
    scrub_extent: U32,
    scrub_round: U32,
    delta_mark: U64,
    reserved1: [u8; 3952],
}
const _: () = assert!(size_of::<Raw>() == BLOCK);
const _: () = assert!(std::mem::offset_of!(Raw, scrub_extent) == 128);

impl Anchor {
    /// The slot's bytes.
    ///
    /// # Panics
    /// If what was encoded does not decode again.
    pub fn encode(&self, key: &PoolKey) -> PageBytes {
        let page = self.to_page(key);
        assert_eq!(
            Self::decode(&page, key),
            Ok(*self),
            "what is written can be read"
        );
        page
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// If any byte is not as this version wrote it for this pool.
    pub fn decode(page: &[u8], key: &PoolKey) -> Result<Self, FormatError> {
        let (header, raw) = KIND.open::<Raw>(page)?;
        KIND.check_pool(header, key.tag())?;
        KIND.check_number(header, 0)?;
        let anchor = Self {
            generation: header.generation.get(),
            tail_offset: raw.tail_offset.get(),
            tail_number: raw.tail_number.get(),
            tail_lap: raw.tail_lap.get(),
            tail_previous: HeaderHash(raw.tail_previous),
            mark: raw.mark.get(),
            delta_tail: raw.delta_tail.get(),
            delta_mark: raw.delta_mark.get(),
            directory_generation: raw.directory_generation.get(),
            clean: raw.clean == 1,
            scrub: ScrubPosition {
                round: raw.scrub_round.get(),
                extent: raw.scrub_extent.get(),
            },
        };
        if anchor.generation == 0 {
            return Err(KIND.field("generation"));
        }
        if !anchor.tail_offset.is_multiple_of(BLOCK as u64) {
            return Err(KIND.field("journal tail"));
        }
        if anchor.delta_mark < anchor.delta_tail {
            return Err(KIND.field("delta log head"));
        }
        KIND.check_canonical(page, &anchor.to_page(key))?;
        Ok(anchor)
    }

    fn to_page(self, key: &PoolKey) -> PageBytes {
        KIND.seal(&Raw {
            header: KIND.header(key.tag(), 0, self.generation, 0),
            tail_offset: self.tail_offset.into(),
            tail_number: self.tail_number.into(),
            tail_lap: self.tail_lap.into(),
            tail_previous: self.tail_previous.0,
            mark: self.mark.into(),
            delta_tail: self.delta_tail.into(),
            directory_generation: self.directory_generation.into(),
            clean: self.clean.into(),
            reserved0: [0; 3],
            scrub_extent: self.scrub.extent.into(),
            scrub_round: self.scrub.round.into(),
            delta_mark: self.delta_mark.into(),
            reserved1: [0; 3952],
        })
    }
}
