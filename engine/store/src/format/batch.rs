//! The header of a journal batch: 1 to 16 blocks, followed by the payload blocks of its records in
//! order. Authenticated with the pool's key, so that a guest's block that imitates a header is
//! refused (S8), and chained to the header before it.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `LSjb` |
//! | 4 | 2 | version, 1 |
//! | 6 | 1 | header blocks, 1 to 16 |
//! | 7 | 1 | zero |
//! | 8 | 4 | records |
//! | 12 | 4 | payload blocks that follow the header |
//! | 16 | 8 | number: rises by one with each batch, from 1 |
//! | 24 | 8 | lap around the ring |
//! | 32 | 8 | mark: highest batch known flushed when this was written (R24) |
//! | 40 | 8 | number of the oldest batch still needed |
//! | 48 | 16 | MAC of the header before (zero for the first) |
//! | 64 | 8 | total length in bytes: header and payload |
//! | 72 | 40 | zero |
//! | 112 | 16 | MAC: SipHash-2-4-128 under the pool key of all header blocks with this field zero |
//! | 128 | 64 × records | [descriptors](super::descriptor) |
//! | then | 4 × blocks | CRC32C of each block of each write, in order, also of direct ones |
//! | then | | zero up to the end of the header |
//!
//! Magic, version, header blocks, number and MAC keep their place and meaning in every version to
//! come: by them a Lockstep tells a batch of a newer one from bytes that are no batch.

use super::descriptor::{Descriptor, RawDescriptor};
use super::page::PoolKey;
use super::{FormatError, Structure, Why};
use bytes::Bytes;
use lockstep_types::{BLOCK, Checksums};
use siphasher::sip128::SipHasher24;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: u32 = u32::from_le_bytes(*b"LSjb");
const VERSION: u16 = 1;
/// Blocks a header has at most.
pub const MAX_HEADER_BLOCKS: usize = 16;
const FIXED: usize = 128;
const DESCRIPTOR: usize = size_of::<RawDescriptor>();
const MAC_AT: usize = 112;

/// The MAC of a header, by which the next one refers to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HeaderHash(pub [u8; 16]);

/// What a header says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Batch {
    /// Rises by one with each batch, from 1.
    pub number: u64,
    /// How often the ring has wrapped.
    pub lap: u64,
    /// The highest batch known flushed when this one was made (R24); below `number`.
    pub mark: u64,
    /// The oldest batch still needed; at most `number`.
    pub tail_number: u64,
    /// The MAC of the batch before.
    pub previous: HeaderHash,
    /// What it carries, in order.
    pub records: Vec<Descriptor>,
}

/// A header that was found authentic.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ParsedBatch {
    /// What it says.
    pub batch: Batch,
    /// Its own MAC: what the next header must name.
    pub hash: HeaderHash,
    /// How long it is.
    pub shape: BatchShape,
}

/// An authentic header that this Lockstep cannot read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UnknownBatch {
    /// The version it says.
    pub version: u16,
    /// Its number.
    pub number: u64,
}

/// How many blocks a batch takes on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BatchShape {
    /// Header blocks, 1 to [`MAX_HEADER_BLOCKS`].
    pub header_blocks: u32,
    /// Payload blocks after them.
    pub payload_blocks: u32,
}

impl BatchShape {
    /// Bytes on disk, header and payload.
    pub const fn bytes(self) -> u64 {
        (self.header_blocks as u64 + self.payload_blocks as u64) * BLOCK as u64
    }

    /// Bytes of the header.
    pub const fn header_bytes(self) -> usize {
        self.header_blocks as usize * BLOCK
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFixed {
    magic: U32,
    version: U16,
    header_blocks: u8,
    reserved0: u8,
    record_count: U32,
    payload_blocks: U32,
    number: U64,
    lap: U64,
    mark: U64,
    tail_number: U64,
    previous: [u8; 16],
    total: U64,
    reserved1: [u8; 40],
    mac: [u8; 16],
}
const _: () = assert!(size_of::<RawFixed>() == FIXED);
const _: () = assert!(std::mem::offset_of!(RawFixed, mac) == MAC_AT);
const _: () = assert!(DESCRIPTOR == 64);

/// Records of one block each that a header of so many blocks can name.
pub const fn max_records_for(header_blocks: usize) -> usize {
    (header_blocks * BLOCK - FIXED) / (DESCRIPTOR + 4)
}

/// Blocks a header needs for so many records with so many block checksums in all; `None` beyond
/// [`MAX_HEADER_BLOCKS`].
pub const fn header_blocks_for(records: usize, checksums: usize) -> Option<usize> {
    let blocks = (FIXED + records * DESCRIPTOR + checksums * 4).div_ceil(BLOCK);
    if blocks <= MAX_HEADER_BLOCKS {
        Some(blocks)
    } else {
        None
    }
}

/// Collects records for one batch within limits.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct BatchBuilder {
    records: Vec<Descriptor>,
    checksums: usize,
    payload_blocks: usize,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The shape with `next` added, or as it is; `None` if `next` does not fit into a header.
    pub fn shape_with(&self, next: Option<&Descriptor>) -> Option<BatchShape> {
        let (records, checksums, payload) = next.map_or((0, 0, 0), |d| {
            (1, d.checksums.len(), d.payload_blocks() as usize)
        });
        let header = header_blocks_for(self.records.len() + records, self.checksums + checksums)?;
        Some(BatchShape {
            header_blocks: header as u32,
            payload_blocks: (self.payload_blocks + payload) as u32,
        })
    }

    /// Adds a record.
    ///
    /// # Panics
    /// If it does not fit ([`Self::shape_with`] tells) or contradicts itself.
    pub fn push(&mut self, record: Descriptor) {
        record.assert_valid();
        assert!(
            self.shape_with(Some(&record)).is_some(),
            "the caller asks whether it fits"
        );
        self.checksums += record.checksums.len();
        self.payload_blocks += record.payload_blocks() as usize;
        self.records.push(record);
    }

    /// The batch, with what only its writer knows.
    pub fn finish(
        self,
        number: u64,
        lap: u64,
        mark: u64,
        tail_number: u64,
        previous: HeaderHash,
    ) -> Batch {
        Batch {
            number,
            lap,
            mark,
            tail_number,
            previous,
            records: self.records,
        }
    }
}

impl Batch {
    /// How long it is on disk.
    ///
    /// # Panics
    /// If the records need more than [`MAX_HEADER_BLOCKS`]; a [`BatchBuilder`] never makes such.
    pub fn shape(&self) -> BatchShape {
        let checksums = self.records.iter().map(|d| d.checksums.len()).sum();
        let header = header_blocks_for(self.records.len(), checksums)
            .expect("the builder keeps headers short");
        let payload: u32 = self.records.iter().map(Descriptor::payload_blocks).sum();
        BatchShape {
            header_blocks: header as u32,
            payload_blocks: payload,
        }
    }

    /// Each record with the byte at which its payload starts, counted from the start of the batch;
    /// `None` for records without payload here.
    pub fn places(&self) -> impl Iterator<Item = (&Descriptor, Option<u64>)> {
        let mut at = self.shape().header_bytes() as u64;
        self.records.iter().map(move |record| {
            let blocks = record.payload_blocks();
            let place = (blocks > 0).then_some(at);
            at += u64::from(blocks) * BLOCK as u64;
            (record, place)
        })
    }

    /// Whether `payload`, all that follows the header, has the checksums the records carry.
    pub fn payload_matches(&self, payload: &[u8]) -> bool {
        let mut rest = payload;
        self.records
            .iter()
            .filter(|record| record.payload_blocks() > 0)
            .all(|record| match rest.split_at_checked(record.range.bytes()) {
                Some((mine, after)) => {
                    rest = after;
                    record.checksums.matches(mine)
                }
                None => false,
            })
            && rest.is_empty()
    }

    /// The header's blocks and MAC.
    ///
    /// # Panics
    /// If what was encoded does not decode again.
    pub fn encode(&self, key: &PoolKey) -> (Bytes, HeaderHash) {
        let mut hash = HeaderHash::default();
        let bytes = self.to_bytes(|unsealed| {
            hash = mac(unsealed, key);
            hash
        });
        // Read back under the MAC just made: making it once more would cost more than all the rest.
        let shape = Self::peek(&bytes).expect("what is written can be read");
        let parsed =
            Self::decode_authentic(&bytes, shape, hash).expect("what is written can be read");
        assert_eq!(&parsed.batch, self, "what is written is what was meant");
        (Bytes::from(bytes), parsed.hash)
    }

    /// How long the batch says it is, from its first block alone. Not authenticated yet: good for
    /// reading the rest and for nothing else.
    ///
    /// # Errors
    /// If no header starts here.
    pub fn peek(first_block: &[u8]) -> Result<BatchShape, FormatError> {
        let fail = |why| Err(FormatError::new(Structure::Batch, why));
        let Ok((fixed, _)) = RawFixed::ref_from_prefix(first_block) else {
            return fail(Why::Length {
                expected: BLOCK,
                found: first_block.len(),
            });
        };
        if fixed.magic.get() != MAGIC {
            return fail(Why::Magic(fixed.magic.get()));
        }
        if fixed.version.get() != VERSION {
            return fail(Why::Version(fixed.version.get()));
        }
        let shape = BatchShape {
            header_blocks: fixed.header_blocks.into(),
            payload_blocks: fixed.payload_blocks.get(),
        };
        if !(1..=MAX_HEADER_BLOCKS).contains(&(shape.header_blocks as usize)) {
            return fail(Why::Field("header blocks"));
        }
        if fixed.total.get() != shape.bytes() {
            return fail(Why::Field("total length"));
        }
        Ok(shape)
    }

    /// How long the header that may start here is, of whatever version. Not authenticated.
    pub fn header_bytes(first_block: &[u8]) -> Option<usize> {
        let (fixed, _) = RawFixed::ref_from_prefix(first_block).ok()?;
        let blocks = usize::from(fixed.header_blocks);
        (fixed.magic.get() == MAGIC && (1..=MAX_HEADER_BLOCKS).contains(&blocks))
            .then_some(blocks * BLOCK)
    }

    /// What exactly these header blocks say if this pool's key made them and their version is not one
    /// of this Lockstep: then they are no leftover and no imitation (S8), and may not be passed over.
    pub fn unknown(header: &[u8], key: &PoolKey) -> Option<UnknownBatch> {
        if Self::header_bytes(header)? != header.len() {
            return None;
        }
        let (fixed, _) = RawFixed::ref_from_prefix(header).ok()?;
        let unknown = fixed.version.get() != VERSION;
        (unknown && mac(header, key).0 == fixed.mac).then_some(UnknownBatch {
            version: fixed.version.get(),
            number: fixed.number.get(),
        })
    }

    /// Makes the MAC of header blocks right, whatever they say: for tests of what is authentic and
    /// wrong all the same.
    ///
    /// # Panics
    /// If they are shorter than a header's fixed part.
    pub fn seal(header: &mut [u8], key: &PoolKey) {
        let hash = mac(header, key);
        header[MAC_AT..MAC_AT + 16].copy_from_slice(&hash.0);
    }

    /// Reads exactly the header's blocks.
    ///
    /// # Errors
    /// If any byte is not as this version wrote it under this key.
    pub fn decode(header: &[u8], key: &PoolKey) -> Result<ParsedBatch, FormatError> {
        let shape = Self::peek(header)?;
        if header.len() != shape.header_bytes() {
            let why = Why::Length {
                expected: shape.header_bytes(),
                found: header.len(),
            };
            return Err(FormatError::new(Structure::Batch, why));
        }
        let (fixed, _) =
            RawFixed::ref_from_prefix(header).expect("a header is longer than its fixed part");
        let hash = mac(header, key);
        if hash.0 != fixed.mac {
            return Err(FormatError::new(Structure::Batch, Why::Authenticity));
        }
        Self::decode_authentic(header, shape, hash)
    }

    /// Reads a header whoever wrote it: what the mutation gate calls breaking S8.
    #[cfg(feature = "mutate")]
    pub(crate) fn decode_any(header: &[u8]) -> Result<ParsedBatch, FormatError> {
        let shape = Self::peek(header)?;
        let hash = header[MAC_AT..MAC_AT + 16].try_into().expect("16 bytes");
        Self::decode_authentic(header, shape, HeaderHash(hash))
    }

    fn decode_authentic(
        header: &[u8],
        shape: BatchShape,
        hash: HeaderHash,
    ) -> Result<ParsedBatch, FormatError> {
        let (fixed, rest) =
            RawFixed::ref_from_prefix(header).expect("a header is longer than its fixed part");
        let batch = Self {
            number: fixed.number.get(),
            lap: fixed.lap.get(),
            mark: fixed.mark.get(),
            tail_number: fixed.tail_number.get(),
            previous: HeaderHash(fixed.previous),
            records: records_of(rest, fixed.record_count.get() as usize)?,
        };
        if batch.mark >= batch.number || batch.tail_number > batch.number {
            return Err(field("mark or tail"));
        }
        // Canonical: lengths, reserved bytes and what follows the checksums are as they must be.
        // The MAC was found right above; hashing once more would cost more than all the rest.
        if batch.to_bytes(|_| hash) != header {
            return Err(field("reserved"));
        }
        Ok(ParsedBatch { batch, hash, shape })
    }

    fn to_bytes(&self, mac: impl FnOnce(&[u8]) -> HeaderHash) -> Vec<u8> {
        let shape = self.shape();
        let mut bytes = Vec::with_capacity(shape.header_bytes());
        let fixed = RawFixed {
            magic: MAGIC.into(),
            version: VERSION.into(),
            header_blocks: shape.header_blocks as u8,
            reserved0: 0,
            record_count: (self.records.len() as u32).into(),
            payload_blocks: shape.payload_blocks.into(),
            number: self.number.into(),
            lap: self.lap.into(),
            mark: self.mark.into(),
            tail_number: self.tail_number.into(),
            previous: self.previous.0,
            total: shape.bytes().into(),
            reserved1: [0; 40],
            mac: [0; 16],
        };
        bytes.extend_from_slice(fixed.as_bytes());
        for record in &self.records {
            bytes.extend_from_slice(RawDescriptor::of(record).as_bytes());
        }
        for sum in self
            .records
            .iter()
            .flat_map(|record| record.checksums.as_slice())
        {
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
        bytes.resize(shape.header_bytes(), 0);
        let hash = mac(&bytes);
        bytes[MAC_AT..MAC_AT + 16].copy_from_slice(&hash.0);
        bytes
    }
}

fn records_of(rest: &[u8], count: usize) -> Result<Vec<Descriptor>, FormatError> {
    let bytes = count.checked_mul(DESCRIPTOR).ok_or(field("record count"))?;
    let (descriptors, sums) = rest.split_at_checked(bytes).ok_or(field("record count"))?;
    let mut sums = sums
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let mut records = Vec::with_capacity(count);
    for raw in descriptors.chunks_exact(DESCRIPTOR) {
        let raw = RawDescriptor::ref_from_bytes(raw).expect("chunks are as long as a descriptor");
        let mut record = raw.decode()?;
        let wanted = record.checksum_count() as usize;
        record.checksums = sums.by_ref().take(wanted).collect::<Checksums>();
        if record.checksums.len() != wanted {
            return Err(field("checksums"));
        }
        records.push(record);
    }
    Ok(records)
}

fn mac(header: &[u8], key: &PoolKey) -> HeaderHash {
    use std::hash::Hasher;
    let mut hasher = SipHasher24::new_with_key(&key.0);
    hasher.write(&header[..MAC_AT]);
    hasher.write(&[0; 16]);
    hasher.write(&header[MAC_AT + 16..]);
    HeaderHash(siphasher::sip128::Hasher128::finish128(&hasher).as_bytes())
}

const fn field(field: &'static str) -> FormatError {
    FormatError::field(Structure::Batch, field)
}
