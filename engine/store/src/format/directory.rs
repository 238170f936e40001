//! A page of the directory: the generation of every map page and, after those, of every checksum
//! page. An older slot than it says is a lost write, not a good page.
//!
//! A checkpoint writes the whole directory in the next generation, all pages alike (1.25 MiB a TiB),
//! flushes, and then names that generation in the anchor. So a directory page that was lost shows
//! like any other: its generation is not the anchor's.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 64 | [page header](super::page), magic `LSdi`, number = page index, generation, count = generations used |
//! | 64 | 1008 × 4 | generations; the unused ones zero |

use super::page::{PageHeader, PageKind};
use super::{FormatError, PageBytes, PoolKey, Structure, Why};
use crate::geometry::GENERATIONS_PER_DIRECTORY_PAGE;
use lockstep_types::BLOCK;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const KIND: PageKind = PageKind::new(Structure::Directory, b"LSdi", 1);
const ENTRIES: usize = GENERATIONS_PER_DIRECTORY_PAGE as usize;

/// A directory page in one generation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DirectoryPage {
    /// Which page: it describes metadata pages from `page` × 1008 on.
    pub page: u32,
    /// The generation of the whole directory; lies in slot `generation & 1`. 0 as formatted.
    pub generation: u32,
    /// At most 1008.
    pub generations: Vec<u32>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    header: PageHeader,
    generations: [U32; ENTRIES],
}
const _: () = assert!(size_of::<Raw>() == BLOCK);

impl DirectoryPage {
    /// The slot's bytes.
    ///
    /// # Panics
    /// If it holds more than 1008, or what was encoded does not decode again.
    pub fn encode(&self, key: &PoolKey) -> PageBytes {
        let page = self.to_page(key);
        let again = Self::decode(&page, key, self.page, self.generation);
        assert_eq!(again.as_ref(), Ok(self), "what is written can be read");
        page
    }

    /// Reads the slot of `page` in the generation that the anchor names.
    ///
    /// # Errors
    /// If any byte is not as this version wrote it there, or the generation is another: then a write
    /// was lost.
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
                Structure::Directory,
                Why::Generation { expected, found },
            ));
        }
        let used = raw
            .generations
            .get(..header.count.get() as usize)
            .ok_or(KIND.field("count"))?;
        let generations = used.iter().map(|generation| generation.get()).collect();
        let decoded = Self {
            page,
            generation,
            generations,
        };
        KIND.check_canonical(bytes, &decoded.to_page(key))?;
        Ok(decoded)
    }

    fn to_page(&self, key: &PoolKey) -> PageBytes {
        let list = &self.generations;
        assert!(list.len() <= ENTRIES);
        KIND.seal(&Raw {
            header: KIND.header(
                key.tag(),
                self.page.into(),
                self.generation.into(),
                list.len(),
            ),
            generations: std::array::from_fn(|i| list.get(i).copied().unwrap_or(0).into()),
        })
    }
}
