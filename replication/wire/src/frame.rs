//! The frame: a header of 64 bytes, a body, a payload of whole blocks.
//!
//! | offset | bytes | field | |
//! |---|---|---|---|
//! | 0 | 4 | magic | `LSWF` |
//! | 4 | 2 | version | [`VERSION`]; [`HELLO_VERSION`] in a hello |
//! | 6 | 1 | kind | see [`crate::kinds`] |
//! | 7 | 1 | flags | 0 in version 1 |
//! | 8 | 2 | header length | 64 |
//! | 10 | 2 | unused | 0 |
//! | 12 | 4 | body length | at most [`MAX_BODY`] |
//! | 16 | 4 | payload length | whole blocks, at most [`MAX_PAYLOAD`] |
//! | 20 | 4 | unused | 0 |
//! | 24 | 8 | epoch | the primary's (R3); 0 outside requests and replies |
//! | 32 | 16 | volume | 0 outside requests and replies |
//! | 48 | 12 | unused | 0 |
//! | 60 | 4 | checksum | CRC32C of the header's first 60 bytes and the body |
//! | 64 | | body | |
//! | | | payload | |
//!
//! The payload stands last and apart, so that a receiver that has read header and body can take it
//! straight into an aligned buffer. The frame's checksum leaves it out: the body carries one
//! checksum for each of its blocks, made where the payload entered the cluster, and whoever stores
//! or hands on the payload compares with those ([`Message::payload_is_intact`]).

use crate::codec::{Reader, Writer};
use crate::{HELLO_VERSION, Message, VERSION, Versions, WireError, kinds};
use bytes::Bytes;
use lockstep_types::{BLOCK, Epoch, VolumeId};
use smallvec::SmallVec;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a frame's header.
pub const HEADER: usize = 64;
/// Bytes in a frame's body at most.
pub const MAX_BODY: usize = 1 << 20;
/// Bytes in a frame's payload at most: one extent.
pub const MAX_PAYLOAD: usize = crate::MAX_PAYLOAD_BLOCKS * BLOCK;

const MAGIC: [u8; 4] = *b"LSWF";

/// The payload of a frame: handles into the message's own buffers, in order.
pub type Payload = SmallVec<[Bytes; 2]>;

/// A message as bytes; the payload follows the head on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// Header and body.
    pub head: Bytes,
    /// Not copied.
    pub payload: Payload,
}

/// How long a frame's parts are, from its header; within the caps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameLengths {
    /// Bytes of body.
    pub body: usize,
    /// Bytes of payload, a multiple of [`BLOCK`].
    pub payload: usize,
}

impl FrameLengths {
    /// Bytes of header and body.
    pub const fn head(self) -> usize {
        HEADER + self.body
    }

    /// Bytes in all.
    pub const fn total(self) -> usize {
        self.head() + self.payload
    }
}

/// Lengths of the frame that starts `bytes`; none as long as the header is not whole.
///
/// What it says is checked against the caps, not yet against the checksum: that covers the body
/// too, and is [`decode`]'s.
///
/// # Errors
/// If the header cannot be that of a frame of a version spoken here.
pub fn peek(bytes: &[u8]) -> Result<Option<FrameLengths>, WireError> {
    match FrameHeader::ref_from_prefix(bytes) {
        Err(_) => Ok(None),
        Ok((header, _)) => header.lengths().map(Some),
    }
}

/// The message of a frame: `head` is header and body, `payload` the rest, exactly as long as
/// [`peek`] said. Payloads of the message are slices of `payload`.
///
/// # Errors
/// If the bytes are not those of a message; allocates no more than a message within the caps needs.
pub fn decode(head: &[u8], payload: Bytes) -> Result<Message, WireError> {
    let (header, body) =
        FrameHeader::ref_from_prefix(head).map_err(|_| WireError::WrongLength {
            place: "header",
            found: head.len(),
            stated: HEADER,
        })?;
    let lengths = header.lengths()?;
    let exactly = |place, found, stated| match found == stated {
        true => Ok(()),
        false => Err(WireError::WrongLength {
            place,
            found,
            stated,
        }),
    };
    exactly("body", body.len(), lengths.body)?;
    exactly("payload", payload.len(), lengths.payload)?;
    let computed = checksum(&head[..HEADER], body);
    if header.checksum.get() != computed {
        return Err(WireError::WrongChecksum {
            stated: header.checksum.get(),
            computed,
        });
    }
    let mut reader = Reader::new(body, payload);
    let message = kinds::take(
        header.kind,
        header.volume(),
        Epoch(header.epoch.get()),
        &mut reader,
    )?;
    reader.finish()?;
    Ok(message)
}

/// The bytes of a message, in [`VERSION`].
///
/// # Panics
/// If the message breaks what its type promises: a list over its cap, an invalid record, a piece
/// that is not as long as it says.
pub fn encode(message: &Message) -> Encoded {
    let mut head = Vec::with_capacity(HEADER + 192);
    let payload = encode_into(message, &mut head);
    Encoded {
        head: head.into(),
        payload,
    }
}

/// As [`encode`], but appends the head to `head`, which a link keeps and sends as one.
///
/// # Panics
/// As [`encode`].
pub fn encode_into(message: &Message, head: &mut Vec<u8>) -> Payload {
    let start = head.len();
    head.resize(start + HEADER, 0);
    let mut writer = Writer::new(head);
    let routing = kinds::put(message, &mut writer);
    let payload = writer.finish();
    let (header, body) = head[start..].split_at_mut(HEADER);
    let payload_length: usize = payload.iter().map(Bytes::len).sum();
    assert!(
        body.len() <= MAX_BODY,
        "caps of the lists keep every body below its own"
    );
    assert!(payload_length <= MAX_PAYLOAD && payload_length.is_multiple_of(BLOCK));
    let mut fields = FrameHeader {
        magic: MAGIC,
        version: U16::new(if routing.kind == kinds::HELLO {
            HELLO_VERSION
        } else {
            VERSION
        }),
        kind: routing.kind,
        flags: 0,
        header_length: U16::new(HEADER as u16),
        unused_a: [0; 2],
        body_length: U32::new(body.len() as u32),
        payload_length: U32::new(payload_length as u32),
        unused_b: [0; 4],
        epoch: U64::new(routing.epoch.0),
        volume: U128::new(routing.volume.as_u128()),
        unused_c: [0; 12],
        checksum: U32::ZERO,
    };
    fields.checksum = U32::new(checksum(fields.as_bytes(), body));
    header.copy_from_slice(fields.as_bytes());
    payload
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FrameHeader {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    flags: u8,
    header_length: U16,
    unused_a: [u8; 2],
    body_length: U32,
    payload_length: U32,
    unused_b: [u8; 4],
    epoch: U64,
    volume: U128,
    unused_c: [u8; 12],
    checksum: U32,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<FrameHeader>() == HEADER);
    assert!(offset_of!(FrameHeader, version) == 4);
    assert!(offset_of!(FrameHeader, kind) == 6);
    assert!(offset_of!(FrameHeader, header_length) == 8);
    assert!(offset_of!(FrameHeader, body_length) == 12);
    assert!(offset_of!(FrameHeader, payload_length) == 16);
    assert!(offset_of!(FrameHeader, epoch) == 24);
    assert!(offset_of!(FrameHeader, volume) == 32);
    assert!(offset_of!(FrameHeader, checksum) == 60);
};

impl FrameHeader {
    fn lengths(&self) -> Result<FrameLengths, WireError> {
        if self.magic != MAGIC {
            return Err(WireError::WrongMagic {
                found: u32::from_le_bytes(self.magic),
            });
        }
        let version = self.version.get();
        let spoken = match self.kind {
            kinds::HELLO => version == HELLO_VERSION,
            _ => Versions::SUPPORTED.contain(version),
        };
        if !spoken {
            return Err(WireError::WrongVersion { found: version });
        }
        if usize::from(self.header_length.get()) != HEADER {
            return Err(WireError::WrongHeaderLength {
                found: self.header_length.get(),
            });
        }
        let unused = [self.flags]
            .into_iter()
            .chain(self.unused_a)
            .chain(self.unused_b)
            .chain(self.unused_c);
        if unused.into_iter().any(|byte| byte != 0) {
            return Err(WireError::NotZero { place: "header" });
        }
        if kinds::name(self.kind).is_none() {
            return Err(WireError::UnknownKind { kind: self.kind });
        }
        let (body, payload) = (self.body_length.get(), self.payload_length.get());
        if body as usize > MAX_BODY {
            return Err(WireError::BodyTooLong { length: body });
        }
        if payload as usize > MAX_PAYLOAD || !(payload as usize).is_multiple_of(BLOCK) {
            return Err(WireError::WrongPayloadLength { length: payload });
        }
        Ok(FrameLengths {
            body: body as usize,
            payload: payload as usize,
        })
    }

    fn volume(&self) -> VolumeId {
        VolumeId::from_u128(self.volume.get())
    }
}

/// Of the header but for its last four bytes, which hold it, and the body.
fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..HEADER - 4]), body)
}

impl Message {
    /// Whether every block of the payload has the checksum that the message says. The one who takes
    /// a payload into a node asks this once; messages without payload are intact.
    pub fn payload_is_intact(&self) -> bool {
        use crate::{ReplyBody, RequestBody};
        let record = |record: &lockstep_types::Record| record.checksums.matches(&record.payload);
        match self {
            Message::Request(request) => match &request.body {
                RequestBody::Append {
                    record: appended, ..
                } => record(appended),
                RequestBody::Copy {
                    checksums, payload, ..
                } => checksums.matches(payload),
                _ => true,
            },
            Message::Reply(reply) => match &reply.body {
                ReplyBody::FetchedRecord {
                    record: Some(fetched),
                    ..
                } => record(fetched),
                ReplyBody::ReadDone {
                    result: Ok(read), ..
                } => pieces_are_intact(read),
                _ => true,
            },
            Message::Hello(_) | Message::Beacon(_) | Message::BeaconReply(_) => true,
        }
    }
}

fn pieces_are_intact(read: &crate::ReadPieces) -> bool {
    let mut sums = read.checksums.as_slice();
    read.pieces.iter().all(|(blocks, bytes)| {
        let Some((these, rest)) = sums.split_at_checked(*blocks as usize) else {
            return false;
        };
        sums = rest;
        match bytes {
            Some(bytes) => {
                bytes.len() == these.len() * BLOCK
                    && bytes
                        .chunks_exact(BLOCK)
                        .zip(these)
                        .all(|(block, sum)| crc32c::crc32c(block) == *sum)
            }
            None => these
                .iter()
                .all(|sum| *sum == lockstep_types::checksum_of_zeroes()),
        }
    })
}
