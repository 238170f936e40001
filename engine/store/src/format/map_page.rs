//! A map page: who owns 126 physical extents, and which of their blocks are there. Two slots each.
//! Free space is never stored: an extent without an owner is free (S4).
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 64 | [page header](super::page), magic `LSma`, number = page index, generation, count 126 |
//! | 64 | 126 × 32 | entries: owner u32 (0 free), logical index u32, valid bitmap u64, newest sequence u64, birth u64 |

use super::page::{PageHeader, PageKind};
use super::{FormatError, PageBytes, PoolKey, Structure, Why};
use crate::geometry::EXTENTS_PER_MAP_PAGE;
use lockstep_types::{BLOCK, ExtentIndex, Sequence};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const KIND: PageKind = PageKind::new(Structure::Map, b"LSma", 1);
const ENTRIES: usize = EXTENTS_PER_MAP_PAGE as usize;

/// One physical extent. Default: free.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct MapEntry {
    /// The layer that owns it: slot + 1 for a head layer; 0 if free, and then all is zero.
    pub owner: u32,
    /// The logical extent of the volume.
    pub index: ExtentIndex,
    /// Bit i: block i is present.
    pub valid: u64,
    /// The highest sequence that touched it.
    pub newest: Sequence,
    /// The sequence of the record that created it: no older record is ever written into it (S3).
    pub birth: Sequence,
}

impl MapEntry {
    /// No owner, nothing in it.
    pub const FREE: Self = Self {
        owner: 0,
        index: 0,
        valid: 0,
        newest: Sequence::ZERO,
        birth: Sequence::ZERO,
    };

    /// Whether no layer owns it.
    pub const fn is_free(&self) -> bool {
        self.owner == 0
    }
}

/// A map page in one generation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MapPage {
    /// Which page: it describes extents from `page` × 126 on.
    pub page: u32,
    /// Rises by one with each write; lies in slot `generation & 1`. 0 as formatted.
    pub generation: u32,
    /// One an extent; those beyond the last extent of the pool are free.
    pub entries: Box<[MapEntry; ENTRIES]>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    owner: U32,
    index: U32,
    valid: U64,
    newest: U64,
    birth: U64,
}
const _: () = assert!(size_of::<RawEntry>() == 32);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    header: PageHeader,
    entries: [RawEntry; ENTRIES],
}
const _: () = assert!(size_of::<Raw>() == BLOCK);

impl MapPage {
    /// A page as it is formatted.
    pub fn empty(page: u32) -> Self {
        Self {
            page,
            generation: 0,
            entries: Box::new([MapEntry::FREE; ENTRIES]),
        }
    }

    /// The slot's bytes.
    ///
    /// # Panics
    /// If what was encoded does not decode again.
    pub fn encode(&self, key: &PoolKey) -> PageBytes {
        let page = self.to_page(key);
        let again = Self::decode(&page, key, self.page, self.generation);
        assert_eq!(again.as_ref(), Ok(self), "what is written can be read");
        page
    }

    /// Reads the slot of `page` in the generation that the directory records.
    ///
    /// # Errors
    /// If any byte is not as this version wrote it there, or the generation is another: then a write
    /// was lost, and the page is no good however sound it looks.
    pub fn decode(
        bytes: &[u8],
        key: &PoolKey,
        page: u32,
        generation: u32,
    ) -> Result<Self, FormatError> {
        let (header, raw) = KIND.open::<Raw>(bytes)?;
        KIND.check_pool(header, key.tag())?;
        KIND.check_number(header, page.into())?;
        let (expected, found) = (u64::from(generation), header.generation.get());
        if expected != found {
            return Err(FormatError::new(
                Structure::Map,
                Why::Generation { expected, found },
            ));
        }
        let entries: [MapEntry; ENTRIES] = std::array::from_fn(|i| raw.entries[i].decode());
        if entries
            .iter()
            .any(|entry| entry.is_free() && *entry != MapEntry::FREE)
        {
            return Err(KIND.field("free entry"));
        }
        let decoded = Self {
            page,
            generation,
            entries: Box::new(entries),
        };
        KIND.check_canonical(bytes, &decoded.to_page(key))?;
        Ok(decoded)
    }

    fn to_page(&self, key: &PoolKey) -> PageBytes {
        KIND.seal(&Raw {
            header: KIND.header(key.tag(), self.page.into(), self.generation.into(), ENTRIES),
            entries: std::array::from_fn(|i| RawEntry::of(&self.entries[i])),
        })
    }
}

impl RawEntry {
    fn of(entry: &MapEntry) -> Self {
        Self {
            owner: entry.owner.into(),
            index: entry.index.into(),
            valid: entry.valid.into(),
            newest: entry.newest.0.into(),
            birth: entry.birth.0.into(),
        }
    }

    fn decode(&self) -> MapEntry {
        MapEntry {
            owner: self.owner.get(),
            index: self.index.get(),
            valid: self.valid.get(),
            newest: Sequence(self.newest.get()),
            birth: Sequence(self.birth.get()),
        }
    }
}
