//! Frames out of a byte stream. A frame is a head of fixed length that tells the lengths of what
//! follows, the rest of its header, and a payload. The payload lands in an aligned pool buffer
//! with at most one copy of ours, or none where the caller receives straight into
//! [`StreamBuffer::direct`].

use std::ops::Range;

use bytes::Bytes;

use crate::error::Exhausted;
use crate::pool::{MAX_BUFFER, Pool, PoolBufMut};

/// Bytes of a header after its head that are made room for at once.
const USUAL_REST: usize = 192;

/// How a protocol's frames are cut.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    /// Bytes that tell the rest, at least 1.
    pub head: usize,
    /// Bound of [`FrameLengths::rest`].
    pub max_rest: usize,
    /// Bound of [`FrameLengths::payload`], at most [`MAX_BUFFER`].
    pub max_payload: usize,
    /// Reads the lengths out of a head; `Err` says what is wrong and ends the connection.
    pub lengths: fn(&[u8]) -> Result<FrameLengths, &'static str>,
}

/// What follows a frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLengths {
    /// More header bytes, kept together with the head.
    pub rest: usize,
    /// Payload bytes, aligned in memory.
    pub payload: usize,
}

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Head and rest, contiguous.
    pub head: Bytes,
    /// The payload, aligned to 4 KiB if not empty.
    pub payload: Bytes,
}

/// Why feeding stopped before the input was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedError {
    /// No buffer for the payload: keep the input, feed it again later.
    Exhausted(Exhausted),
    /// The stream cannot be cut any more.
    Bad(&'static str),
}

/// Gathers one stream into frames.
pub struct StreamBuffer {
    framing: Framing,
    header: Vec<u8>,
    /// Known once the head is complete.
    lengths: Option<FrameLengths>,
    payload: Option<PoolBufMut>,
    filled: usize,
    copied: u64,
}

impl StreamBuffer {
    /// Nothing gathered yet.
    ///
    /// # Panics
    /// If the framing's bounds make no sense.
    pub fn new(framing: Framing) -> Self {
        assert!(
            framing.head > 0 && framing.max_payload <= MAX_BUFFER,
            "a usable framing"
        );
        let header = Vec::with_capacity(framing.head + USUAL_REST);
        Self {
            framing,
            header,
            lengths: None,
            payload: None,
            filled: 0,
            copied: 0,
        }
    }

    /// Takes bytes from the front of `input`. A frame, or `None` when the input is used up. A
    /// frame without a payload is complete with its header; call on until `None`.
    ///
    /// # Errors
    /// [`FeedError`]; after `Exhausted` nothing is lost.
    pub fn feed(&mut self, input: &mut &[u8], pool: &Pool) -> Result<Option<Frame>, FeedError> {
        loop {
            let Some(lengths) = self.lengths else {
                if !self.gather_header(input, self.framing.head) {
                    return Ok(None);
                }
                self.lengths = Some(self.read_lengths()?);
                continue;
            };
            if !self.gather_header(input, self.framing.head + lengths.rest) {
                return Ok(None);
            }
            if lengths.payload == 0 {
                return Ok(Some(self.complete()));
            }
            if self.payload.is_none() {
                self.payload = Some(pool.get(lengths.payload).map_err(FeedError::Exhausted)?);
            }
            let buffer = self.payload.as_mut().expect("just made");
            let take = input.len().min(lengths.payload - self.filled);
            let (now, later) = input.split_at(take);
            buffer[self.filled..self.filled + take].copy_from_slice(now);
            *input = later;
            self.filled += take;
            self.copied += take as u64;
            return Ok((self.filled == lengths.payload).then(|| self.complete()));
        }
    }

    /// Where the stream's next bytes belong if they are payload: the buffer, and the part still to
    /// be filled. Receive into it, then [`Self::put_back`] it. For payloads only whose buffer is
    /// there already, that is after some [`Self::feed`] that ended with `None`.
    pub fn direct(&mut self, at_least: usize) -> Option<(PoolBufMut, Range<usize>)> {
        let missing = self.filled..self.lengths?.payload;
        if missing.len() < at_least.max(1) {
            return None;
        }
        self.payload.take().map(|buffer| (buffer, missing))
    }

    /// Gives back the buffer of [`Self::direct`] with `received` bytes more in it.
    pub fn put_back(&mut self, buffer: PoolBufMut, received: usize) -> Option<Frame> {
        assert!(
            self.payload.is_none(),
            "only a buffer taken out is put back"
        );
        let wanted = self.lengths.expect("a payload is under way").payload;
        self.filled += received;
        assert!(
            self.filled <= wanted,
            "the kernel does not write past the range it was given"
        );
        self.payload = Some(buffer);
        (self.filled == wanted).then(|| self.complete())
    }

    /// Whether a frame has begun and is not complete.
    pub fn is_inside_frame(&self) -> bool {
        !self.header.is_empty()
    }

    /// Payload bytes copied by [`Self::feed`] since the last call.
    pub fn take_copied(&mut self) -> u64 {
        std::mem::take(&mut self.copied)
    }

    fn gather_header(&mut self, input: &mut &[u8], until: usize) -> bool {
        let take = input.len().min(until - self.header.len().min(until));
        let (now, later) = input.split_at(take);
        self.header.extend_from_slice(now);
        *input = later;
        self.header.len() >= until
    }

    fn read_lengths(&self) -> Result<FrameLengths, FeedError> {
        let lengths = (self.framing.lengths)(&self.header).map_err(FeedError::Bad)?;
        if lengths.rest > self.framing.max_rest {
            return Err(FeedError::Bad(
                "its header is longer than the protocol allows",
            ));
        }
        if lengths.payload > self.framing.max_payload {
            return Err(FeedError::Bad(
                "its payload is longer than the protocol allows",
            ));
        }
        Ok(lengths)
    }

    fn complete(&mut self) -> Frame {
        let next = Vec::with_capacity(self.framing.head + USUAL_REST);
        let head = Bytes::from(std::mem::replace(&mut self.header, next));
        let payload = self
            .payload
            .take()
            .map(PoolBufMut::freeze)
            .unwrap_or_default();
        self.lengths = None;
        self.filled = 0;
        Frame { head, payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head: magic, rest length, payload length as u16.
    const FRAMING: Framing = Framing {
        head: 4,
        max_rest: 100,
        max_payload: 60_000,
        lengths: |head| {
            if head[0] != 0x4c {
                return Err("magic");
            }
            let payload = usize::from(u16::from_le_bytes([head[2], head[3]]));
            Ok(FrameLengths {
                rest: head[1].into(),
                payload,
            })
        },
    };

    fn frame(rest: u8, payload: u16) -> Vec<u8> {
        let mut bytes = vec![0x4c, rest];
        bytes.extend_from_slice(&payload.to_le_bytes());
        bytes.extend((0..rest).map(|i| i ^ 0x55));
        bytes.extend((0..payload).map(|i| (i % 251) as u8));
        bytes
    }

    fn expect(got: &Frame, rest: u8, payload: u16) {
        let bytes = frame(rest, payload);
        let header = 4 + usize::from(rest);
        assert_eq!(got.head, bytes[..header]);
        assert_eq!(got.payload, bytes[header..]);
        assert!(
            payload == 0 || (got.payload.as_ptr() as usize).is_multiple_of(4096),
            "aligned"
        );
    }

    #[test]
    fn any_cutting_gives_the_same_frames() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let shapes = [(0, 0), (3, 4096), (100, 1), (0, 60_000), (7, 0), (0, 4096)];
        let wire: Vec<u8> = shapes.iter().flat_map(|&(r, p)| frame(r, p)).collect();
        for chunk in [1, 2, 3, 5, 64, 4095, 4096, 4097, 16_384, wire.len()] {
            let mut stream = StreamBuffer::new(FRAMING);
            let mut got = Vec::new();
            for mut piece in wire.chunks(chunk) {
                while let Some(frame) = stream.feed(&mut piece, &pool).expect("good") {
                    got.push(frame);
                }
                assert!(piece.is_empty());
            }
            assert!(!stream.is_inside_frame());
            assert_eq!(got.len(), shapes.len(), "chunks of {chunk}");
            for (frame, &(rest, payload)) in got.iter().zip(&shapes) {
                expect(frame, rest, payload);
            }
        }
    }

    #[test]
    fn direct_receives_need_no_copy() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let wire = frame(2, 50_000);
        let mut stream = StreamBuffer::new(FRAMING);
        let (mut first, mut rest) = wire.split_at(106);
        assert_eq!(stream.feed(&mut first, &pool), Ok(None));
        assert_eq!(stream.take_copied(), 100);
        assert!(stream.direct(50_000).is_none(), "less is missing");
        loop {
            let (mut buffer, range) = stream.direct(1).expect("payload under way");
            let take = range.len().min(20_000);
            buffer[range.start..range.start + take].copy_from_slice(&rest[..take]);
            rest = &rest[take..];
            if let Some(frame) = stream.put_back(buffer, take) {
                expect(&frame, 2, 50_000);
                break;
            }
        }
        assert_eq!(stream.take_copied(), 0);
    }

    #[test]
    fn an_exhausted_pool_loses_nothing() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let held = pool.get(MAX_BUFFER).expect("room");
        let wire = frame(2, 5000);
        let mut stream = StreamBuffer::new(FRAMING);
        let mut input = &wire[..];
        for _ in 0..3 {
            let out = stream.feed(&mut input, &pool);
            assert!(matches!(out, Err(FeedError::Exhausted(_))));
        }
        drop(held);
        let frame = stream
            .feed(&mut input, &pool)
            .expect("room again")
            .expect("complete");
        expect(&frame, 2, 5000);
    }

    #[test]
    fn bounds_and_magic_are_enforced() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        for bad in [frame(101, 0), frame(0, 60_001), vec![0x4d, 0, 0, 0]] {
            let mut stream = StreamBuffer::new(FRAMING);
            assert!(matches!(
                stream.feed(&mut &bad[..], &pool),
                Err(FeedError::Bad(_))
            ));
        }
    }
}
