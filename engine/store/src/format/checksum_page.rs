//! A checksum page: the stored (seeded) CRC32C of each block of 15 physical extents. Two slots each.
//! Where a block is not valid in the map its checksum means nothing.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 64 | [page header](super::page), magic `LScs`, number = page index, generation, count 15 |
//! | 64 | 192 | zero |
//! | 256 | 15 × 256 | one extent each: 64 × u32 |

use super::page::{PageHeader, PageKind};
use super::{FormatError, PageBytes, PoolKey, Structure, Why};
use crate::geometry::EXTENTS_PER_CHECKSUM_PAGE;
use lockstep_types::{BLOCK, EXTENT_BLOCKS};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const KIND: PageKind = PageKind::new(Structure::Checksum, b"LScs", 1);
const EXTENTS: usize = EXTENTS_PER_CHECKSUM_PAGE as usize;
const BLOCKS: usize = EXTENT_BLOCKS as usize;

/// A checksum page in one generation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ChecksumPage {
    /// Which page: it describes extents from `page` × 15 on.
    pub page: u32,
    /// Rises by one with each write; lies in slot `generation & 1`. 0 as formatted.
    pub generation: u32,
    /// As stored, one a block, of each extent.
    pub sums: Box<[[u32; BLOCKS]; EXTENTS]>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    header: PageHeader,
    reserved: [u8; 192],
    sums: [[U32; BLOCKS]; EXTENTS],
}
const _: () = assert!(size_of::<Raw>() == BLOCK);
const _: () = assert!(std::mem::offset_of!(Raw, sums) == 256);

impl ChecksumPage {
    /// A page as it is formatted.
    pub fn empty(page: u32) -> Self {
        Self {
            page,
            generation: 0,
            sums: Box::new([[0; BLOCKS]; EXTENTS]),
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
                Structure::Checksum,
                Why::Generation { expected, found },
            ));
        }
        let sums = Box::new(raw.sums.map(|extent| extent.map(U32::get)));
        let decoded = Self {
            page,
            generation,
            sums,
        };
        KIND.check_canonical(bytes, &decoded.to_page(key))?;
        Ok(decoded)
    }

    fn to_page(&self, key: &PoolKey) -> PageBytes {
        KIND.seal(&Raw {
            header: KIND.header(key.tag(), self.page.into(), self.generation.into(), EXTENTS),
            reserved: [0; 192],
            sums: self.sums.map(|extent| extent.map(U32::new)),
        })
    }
}
