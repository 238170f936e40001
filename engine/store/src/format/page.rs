//! What all 4 KiB pages share: 64 bytes in front.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic, "LS" and two letters |
//! | 4 | 2 | version |
//! | 6 | 2 | zero |
//! | 8 | 4 | length, 4096 |
//! | 12 | 4 | CRC32C of the page with this field zero |
//! | 16 | 8 | pool tag, of the pool key: leftovers of an earlier format are refused |
//! | 24 | 8 | number: which page of its area, so that a write gone astray is seen |
//! | 32 | 8 | generation |
//! | 40 | 4 | entries used |
//! | 44 | 20 | zero |
//!
//! Every page is canonical: what decodes encodes to the same bytes, so a byte without a meaning in
//! this version is refused when it is not zero.

use super::{FormatError, Structure, Why};
use lockstep_types::BLOCK;
use std::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One block of the disk.
pub type PageBytes = [u8; BLOCK];

/// The pool's random key: authenticates batch headers against imitations by guests (S8), and tells
/// the pages of this format of the device from older ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey(pub [u8; 16]);

impl PoolKey {
    /// What pages of this pool carry.
    pub fn tag(&self) -> u64 {
        siphasher::sip128::SipHasher24::new_with_key(&self.0)
            .hash(b"lockstep page")
            .as_u64()
            .0
    }
}

impl fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolKey(..)")
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct PageHeader {
    magic: U32,
    version: U16,
    reserved0: U16,
    length: U32,
    checksum: U32,
    pub(crate) pool: U64,
    pub(crate) number: U64,
    pub(crate) generation: U64,
    pub(crate) count: U32,
    reserved1: [u8; 20],
}

pub(crate) const HEADER_BYTES: usize = 64;
const CHECKSUM_AT: usize = 12;
const _: () = assert!(size_of::<PageHeader>() == HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(PageHeader, checksum) == CHECKSUM_AT);

/// What tells one kind of page from another.
#[derive(Clone, Copy)]
pub(crate) struct PageKind {
    pub(crate) structure: Structure,
    pub(crate) magic: u32,
    pub(crate) version: u16,
}

impl PageKind {
    pub(crate) const fn new(structure: Structure, magic: &[u8; 4], version: u16) -> Self {
        Self {
            structure,
            magic: u32::from_le_bytes(*magic),
            version,
        }
    }

    /// A header for this kind, its checksum still missing.
    pub(crate) fn header(
        self,
        pool: u64,
        number: u64,
        generation: u64,
        count: usize,
    ) -> PageHeader {
        PageHeader {
            magic: self.magic.into(),
            version: self.version.into(),
            reserved0: 0.into(),
            length: (BLOCK as u32).into(),
            checksum: 0.into(),
            pool: pool.into(),
            number: number.into(),
            generation: generation.into(),
            count: u32::try_from(count)
                .expect("a page has at most 4096 entries")
                .into(),
            reserved1: [0; 20],
        }
    }

    /// The bytes of a page whose header [`Self::header`] made, with its checksum.
    pub(crate) fn seal<T: IntoBytes + Immutable>(self, raw: &T) -> PageBytes {
        let mut page: PageBytes = raw
            .as_bytes()
            .try_into()
            .expect("pages are 4096 bytes (asserted where defined)");
        let sum = page_checksum(&page);
        page[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// The page as its raw struct, after magic, version, length and checksum were found right.
    pub(crate) fn open<T: FromBytes + Immutable + KnownLayout + Unaligned>(
        self,
        page: &[u8],
    ) -> Result<(&PageHeader, &T), FormatError> {
        let fail = |why| Err(FormatError::new(self.structure, why));
        let Ok(bytes) = <&PageBytes>::try_from(page) else {
            return fail(Why::Length {
                expected: BLOCK,
                found: page.len(),
            });
        };
        let (header, _) =
            PageHeader::ref_from_prefix(bytes).expect("a page is longer than its header");
        if header.magic.get() != self.magic {
            return fail(Why::Magic(header.magic.get()));
        }
        if page_checksum(bytes) != header.checksum.get() {
            return fail(Why::Checksum);
        }
        if header.version.get() != self.version {
            return fail(Why::Version(header.version.get()));
        }
        if header.length.get() as usize != BLOCK {
            return fail(Why::Length {
                expected: BLOCK,
                found: header.length.get() as usize,
            });
        }
        let raw =
            T::ref_from_bytes(bytes).expect("raw pages are 4096 bytes (asserted where defined)");
        Ok((header, raw))
    }

    /// Refuses pages of another pool.
    pub(crate) fn check_pool(self, header: &PageHeader, pool: u64) -> Result<(), FormatError> {
        if header.pool.get() == pool {
            Ok(())
        } else {
            Err(FormatError::new(self.structure, Why::Pool))
        }
    }

    /// Refuses a page that belongs elsewhere.
    pub(crate) fn check_number(
        self,
        header: &PageHeader,
        expected: u64,
    ) -> Result<(), FormatError> {
        let found = header.number.get();
        if found == expected {
            Ok(())
        } else {
            Err(FormatError::new(
                self.structure,
                Why::Number { expected, found },
            ))
        }
    }

    /// Refuses what this version would have written otherwise.
    pub(crate) fn check_canonical(self, page: &[u8], again: &PageBytes) -> Result<(), FormatError> {
        if page == again {
            Ok(())
        } else {
            Err(self.field("reserved"))
        }
    }

    pub(crate) const fn field(self, field: &'static str) -> FormatError {
        FormatError::field(self.structure, field)
    }
}

fn page_checksum(page: &PageBytes) -> u32 {
    let sum = crc32c::crc32c(&page[..CHECKSUM_AT]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, &page[CHECKSUM_AT + 4..])
}

/// Of two slots, the good one of the higher generation; the reason of the first if neither is good.
/// One that a newer Lockstep wrote is the newer of the two: the older one would take back what was
/// promised since (R3), so it is refused with it.
///
/// # Errors
/// If both slots are bad, or one is sound and not for this version.
pub fn newest<T>(
    slots: [Result<T, FormatError>; 2],
    generation: impl Fn(&T) -> u64,
) -> Result<T, FormatError> {
    match slots {
        [Ok(a), Ok(b)] => Ok(if generation(&b) > generation(&a) {
            b
        } else {
            a
        }),
        [_, Err(other)] | [Err(other), _] if other.why.is_of_a_newer_one() => Err(other),
        [Ok(good), Err(_)] | [Err(_), Ok(good)] => Ok(good),
        [Err(why), Err(_)] => Err(why),
    }
}
