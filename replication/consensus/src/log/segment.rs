//! Blocks of a segment: its header, and the frame around a batch.
//!
//! Header block:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `LSRL` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | zero |
//! | 8 | 16 | cluster |
//! | 24 | 16 | node |
//! | 40 | 8 | raft id |
//! | 48 | 8 | incarnation of the log |
//! | 56 | 8 | number of the segment, from 1 |
//! | 64 | 8 | number of its first batch |
//! | 72 | 4020 | zero |
//! | 4092 | 4 | CRC32C of bytes 0 to 4092 |
//!
//! Batch:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `LSRB` |
//! | 4 | 4 | length of the payload |
//! | 8 | 8 | number of the batch, from 1, dense over all segments |
//! | 16 | 4 | how many records the payload has |
//! | 20 | 4 | seeded CRC32C of the payload |
//! | 24 | 4 | zero |
//! | 28 | 4 | seeded CRC32C of bytes 0 to 28 |
//! | 32 | length | records, one after the other |
//! | | | zeroes up to the next block |
//!
//! Both batch checksums are seeded with cluster, incarnation, segment and offset, so that a batch of
//! another log, or one that was written elsewhere, is no batch here.

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_types::{ClusterId, NodeId};

use super::{LOG_BLOCK, LogIdentity, LogRecord, MAX_BATCH, le};

const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"LSRL");
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"LSRB");
const VERSION: u16 = 1;
const HEADER_CRC: usize = LOG_BLOCK - 4;
/// Bytes of a batch before its payload.
pub(super) const BATCH_HEADER: usize = 32;

const _: () = assert!(BATCH_HEADER < LOG_BLOCK && HEADER_CRC.is_multiple_of(4));

/// A segment's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) identity: LogIdentity,
    pub(super) number: u64,
    pub(super) first_batch: u64,
}

/// Why a block is no segment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadHeader {
    /// Not one at all, or damaged.
    Damaged,
    /// Whole, of a version this program does not know.
    Version(u16),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(LOG_BLOCK);
        out.put_u32_le(HEADER_MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u128_le(self.identity.cluster.as_u128());
        out.put_u128_le(self.identity.node.as_u128());
        out.put_u64_le(self.identity.raft_id);
        out.put_u64_le(self.identity.incarnation);
        out.put_u64_le(self.number);
        out.put_u64_le(self.first_batch);
        out.resize(HEADER_CRC, 0);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    pub(super) fn decode(segment: &[u8]) -> Result<Self, BadHeader> {
        let block = segment.get(..LOG_BLOCK).ok_or(BadHeader::Damaged)?;
        if le::u32(block, 0) != HEADER_MAGIC
            || le::u32(block, HEADER_CRC) != crc32c::crc32c(&block[..HEADER_CRC])
        {
            return Err(BadHeader::Damaged);
        }
        if le::u16(block, 4) != VERSION {
            return Err(BadHeader::Version(le::u16(block, 4)));
        }
        Ok(Self {
            identity: LogIdentity {
                cluster: ClusterId::from_u128(le::u128(block, 8)),
                node: NodeId::from_u128(le::u128(block, 24)),
                raft_id: le::u64(block, 40),
                incarnation: le::u64(block, 48),
            },
            number: le::u64(block, 56),
            first_batch: le::u64(block, 64),
        })
    }
}

/// A batch as it stands in a segment.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) records: Vec<LogRecord>,
    /// Bytes it takes, a multiple of [`LOG_BLOCK`].
    pub(super) length: u64,
}

/// Where a batch stands; seeds its checksums.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) cluster: ClusterId,
    pub(super) incarnation: u64,
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// Encodes a batch for `place`, padded to whole blocks.
pub(super) fn encode_batch(place: Place, number: u64, records: &[LogRecord]) -> Bytes {
    let mut out = BytesMut::zeroed(BATCH_HEADER);
    for record in records {
        record.encode(&mut out);
    }
    let payload = out.len() - BATCH_HEADER;
    assert!(
        payload <= MAX_BATCH,
        "raft's limits keep a batch far below {MAX_BATCH} bytes"
    );
    let payload_crc = place.checksum(&out[BATCH_HEADER..]);
    out[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
    out[8..16].copy_from_slice(&number.to_le_bytes());
    out[16..20].copy_from_slice(&(records.len() as u32).to_le_bytes());
    out[20..24].copy_from_slice(&payload_crc.to_le_bytes());
    let header_crc = place.checksum(&out[..28]);
    out[28..32].copy_from_slice(&header_crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(LOG_BLOCK), 0);
    out.freeze()
}

/// The batch at `place`, if a whole valid one stands there.
pub(super) fn decode_batch(place: Place, segment: &Bytes) -> Option<Batch> {
    let start = usize::try_from(place.offset).ok()?;
    let header = segment.get(start..start.checked_add(BATCH_HEADER)?)?;
    if le::u32(header, 0) != BATCH_MAGIC
        || le::u32(header, 24) != 0
        || le::u32(header, 28) != place.checksum(&header[..28])
    {
        return None;
    }
    let payload = le::u32(header, 4) as usize;
    let end = start + BATCH_HEADER + payload;
    if payload > MAX_BATCH || end > segment.len() {
        return None;
    }
    let mut rest = segment.slice(start + BATCH_HEADER..end);
    if le::u32(header, 20) != place.checksum(&rest) {
        return None;
    }
    let count = le::u32(header, 16);
    let records: Option<Vec<LogRecord>> =
        (0..count).map(|_| LogRecord::decode(&mut rest)).collect();
    let length = (BATCH_HEADER + payload).next_multiple_of(LOG_BLOCK) as u64;
    records.filter(|_| rest.is_empty()).map(|records| Batch {
        number: le::u64(header, 8),
        records,
        length,
    })
}

impl Place {
    fn checksum(self, bytes: &[u8]) -> u32 {
        let mut seed = [0; 40];
        seed[..16].copy_from_slice(&self.cluster.as_u128().to_le_bytes());
        seed[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        seed[24..32].copy_from_slice(&self.segment.to_le_bytes());
        seed[32..40].copy_from_slice(&self.offset.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c(&seed), bytes)
    }
}
