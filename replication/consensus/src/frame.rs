//! What consensus sends from node to node: a whole raft message, or word of whom a node sees.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `LSRF` |
//! | 4 | 2 | version, 1 |
//! | 6 | 1 | kind: 1 raft message, 2 links |
//! | 7 | 1 | zero |
//! | 8 | 16 | cluster |
//! | 24 | 16 | origin: the node that made the frame |
//! | 40 | 16 | destination: the node it is for; another node passes it on if it has a link there |
//! | 56 | 4 | length of the body |
//! | 60 | 4 | CRC32C of the whole frame with this field zero |
//! | 64 | length | body |
//!
//! The body of kind 1 is a `Message` of eraftpb, of kind 2 the node ids (u128 each) the origin has
//! links to.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_types::{ClusterId, NodeId};
use prost::Message as _;
use raft_proto::eraftpb::Message;

const MAGIC: u32 = u32::from_le_bytes(*b"LSRF");
const VERSION: u16 = 1;
const HEADER: usize = 64;
const CRC_AT: usize = 60;
/// Longest frame, in bytes: a snapshot of the control state and its envelope.
pub const MAX_FRAME: usize = 256 << 20;

/// A frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who made it.
    pub origin: NodeId,
    /// Whom it is for.
    pub destination: NodeId,
    /// What it says.
    pub body: Body,
}

/// What a frame says. Only ever on the stack, on its way to raft.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Body {
    /// A raft message from the origin's voter to the destination's.
    Raft(Message),
    /// Whom the origin has links to.
    Links(BTreeSet<NodeId>),
}

/// Why bytes are no frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Too short, too long, or not beginning like one.
    #[error("not a consensus frame, or one of the wrong length")]
    Shape,
    /// A version this program does not speak.
    #[error("consensus frame of version {0}; this program speaks version {VERSION}")]
    Version(u16),
    /// Damaged on the way.
    #[error("a consensus frame fails its checksum")]
    Checksum,
    /// Of another cluster.
    #[error("a consensus frame of cluster {0}")]
    Cluster(ClusterId),
    /// A kind or body that makes no sense.
    #[error("a consensus frame with a malformed body")]
    Body,
}

impl Frame {
    /// The frame in bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + 256);
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u8(match self.body {
            Body::Raft(_) => 1,
            Body::Links(_) => 2,
        });
        out.put_u8(0);
        out.put_u128_le(self.cluster.as_u128());
        out.put_u128_le(self.origin.as_u128());
        out.put_u128_le(self.destination.as_u128());
        out.put_u64_le(0);
        debug_assert_eq!(out.len(), HEADER);
        match &self.body {
            Body::Raft(message) => {
                out.reserve(message.encoded_len());
                message.encode(&mut out).expect("a BytesMut grows");
            }
            Body::Links(links) => links
                .iter()
                .for_each(|node| out.put_u128_le(node.as_u128())),
        }
        let length =
            u32::try_from(out.len() - HEADER).expect("raft's limits keep a frame below MAX_FRAME");
        out[56..CRC_AT].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    /// Reads a frame of `cluster`.
    pub fn decode(cluster: ClusterId, frame: &Bytes) -> Result<Self, FrameError> {
        let envelope = Envelope::decode(cluster, frame)?;
        let mut body = frame.slice(HEADER..);
        let body = match frame[6] {
            1 => Body::Raft(Message::decode(body).map_err(|_| FrameError::Body)?),
            2 if body.len().is_multiple_of(16) => {
                let mut links = BTreeSet::new();
                while !body.is_empty() {
                    links.insert(NodeId::from_u128(u128_at(&body, 0)));
                    body = body.slice(16..);
                }
                Body::Links(links)
            }
            _ => return Err(FrameError::Body),
        };
        Ok(Self {
            cluster,
            origin: envelope.origin,
            destination: envelope.destination,
            body,
        })
    }
}

/// Who sends a frame to whom: all that a node needs to pass it on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Envelope {
    pub(crate) origin: NodeId,
    pub(crate) destination: NodeId,
}

impl Envelope {
    /// Checks a whole frame of `cluster` and reads its ends.
    pub(crate) fn decode(cluster: ClusterId, frame: &Bytes) -> Result<Self, FrameError> {
        let u32_at =
            |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
        if frame.len() < HEADER || frame.len() > MAX_FRAME || u32_at(0) != MAGIC {
            return Err(FrameError::Shape);
        }
        let version = u16::from_le_bytes([frame[4], frame[5]]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if u32_at(56) as usize != frame.len() - HEADER {
            return Err(FrameError::Shape);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..CRC_AT]), &[0; 4]);
        if u32_at(CRC_AT) != crc32c::crc32c_append(crc, &frame[HEADER..]) {
            return Err(FrameError::Checksum);
        }
        let found = ClusterId::from_u128(u128_at(frame, 8));
        if found != cluster {
            return Err(FrameError::Cluster(found));
        }
        Ok(Self {
            origin: NodeId::from_u128(u128_at(frame, 24)),
            destination: NodeId::from_u128(u128_at(frame, 40)),
        })
    }
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}
