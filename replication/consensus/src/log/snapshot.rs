//! The snapshot file.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `LSRS` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | zero |
//! | 8 | 16 | cluster |
//! | 24 | 8 | incarnation of the log |
//! | 32 | 8 | index |
//! | 40 | 8 | term |
//! | 48 | 8 | length of the data |
//! | 56 | 4 | length of the configuration |
//! | 60 | 4 | CRC32C of configuration and data |
//! | 64 | 4 | zero |
//! | 68 | 4 | CRC32C of bytes 0 to 68 |
//! | 72 | | configuration: a `ConfState` of eraftpb |
//! | | | data: the state machine's own bytes |

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use raft_proto::eraftpb::{ConfState, Snapshot, SnapshotMetadata};

use super::{LogIdentity, le};

const MAGIC: u32 = u32::from_le_bytes(*b"LSRS");
const VERSION: u16 = 1;
const HEADER: usize = 72;

pub(super) fn encode(identity: LogIdentity, snapshot: &Snapshot) -> Bytes {
    let metadata = snapshot.get_metadata();
    let conf = metadata.get_conf_state().encode_to_vec();
    let body_crc = crc32c::crc32c_append(crc32c::crc32c(&conf), &snapshot.data);
    let mut out = BytesMut::with_capacity(HEADER + conf.len() + snapshot.data.len());
    out.put_u32_le(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u128_le(identity.cluster.as_u128());
    out.put_u64_le(identity.incarnation);
    out.put_u64_le(metadata.index);
    out.put_u64_le(metadata.term);
    out.put_u64_le(snapshot.data.len() as u64);
    out.put_u32_le(conf.len() as u32);
    out.put_u32_le(body_crc);
    out.put_u32_le(0);
    let header_crc = crc32c::crc32c(&out);
    out.put_u32_le(header_crc);
    debug_assert_eq!(out.len(), HEADER);
    out.put_slice(&conf);
    out.put_slice(&snapshot.data);
    out.freeze()
}

/// `None` if it is damaged, or of another log.
pub(super) fn decode(identity: LogIdentity, file: &Bytes) -> Option<Snapshot> {
    let header = file.get(..HEADER)?;
    if le::u32(header, 0) != MAGIC
        || le::u32(header, 68) != crc32c::crc32c(&header[..68])
        || le::u16(header, 4) != VERSION
        || le::u128(header, 8) != identity.cluster.as_u128()
        || le::u64(header, 24) != identity.incarnation
    {
        return None;
    }
    let conf = le::u32(header, 56) as u64;
    let body = file.slice(HEADER..);
    if conf.checked_add(le::u64(header, 48))? != body.len() as u64
        || le::u32(header, 60) != crc32c::crc32c(&body)
    {
        return None;
    }
    let conf_state = ConfState::decode(body.slice(..conf as usize)).ok()?;
    let metadata = SnapshotMetadata {
        conf_state: Some(conf_state),
        index: le::u64(header, 32),
        term: le::u64(header, 40),
    };
    Some(Snapshot {
        data: body.slice(conf as usize..),
        metadata: Some(metadata),
    })
}
