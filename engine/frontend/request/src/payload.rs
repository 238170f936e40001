//! The bytes of a write as they arrived: slices of receive buffers, never copied here.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// A sequence of bytes in one or more pieces. A write that arrived in one aligned buffer has one
/// aligned part; otherwise the consumer gathers the parts into an aligned buffer of its own, which
/// is the only copy.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    parts: SmallVec<[Bytes; 2]>,
    len: usize,
}

impl Payload {
    /// No bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts in order; none is empty.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// Appends `part`; an empty one is dropped.
    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push(part);
        }
    }

    /// `length` bytes from `start`, sharing the same buffers. Panics outside the payload.
    pub fn slice(&self, start: usize, length: usize) -> Self {
        assert!(
            start <= self.len && length <= self.len - start,
            "a slice outside the payload"
        );
        let (mut skip, mut left) = (start, length);
        let mut slice = Self::new();
        for part in &self.parts {
            if left == 0 {
                break;
            }
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let take = left.min(part.len() - skip);
            slice.push(part.slice(skip..skip + take));
            left -= take;
            skip = 0;
        }
        slice
    }

    /// Copies all bytes to `target`, which must have exactly this length.
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(
            target.len(),
            self.len,
            "the target has the payload's length"
        );
        let mut at = 0;
        for part in &self.parts {
            target[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }

    /// All bytes in one handle: without a copy if there is one part.
    pub fn into_bytes(mut self) -> Bytes {
        if self.parts.len() == 1 {
            return self.parts.pop().expect("there is one part");
        }
        let mut whole = BytesMut::with_capacity(self.len);
        for part in &self.parts {
            whole.extend_from_slice(part);
        }
        whole.freeze()
    }
}

impl From<Bytes> for Payload {
    fn from(part: Bytes) -> Self {
        let mut payload = Self::new();
        payload.push(part);
        payload
    }
}

/// Two payloads are equal if their bytes are, however they are cut.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.parts.iter().flatten().eq(other.parts.iter().flatten())
    }
}

impl Eq for Payload {}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&'static [u8]]) -> Payload {
        let mut payload = Payload::new();
        parts
            .iter()
            .for_each(|part| payload.push(Bytes::from_static(part)));
        payload
    }

    #[test]
    fn slices_cross_parts_without_copying() {
        let payload = of(&[b"abc", b"", b"defg", b"h"]);
        assert_eq!(payload.len(), 8);
        assert_eq!(payload.parts().len(), 3);
        let middle = payload.slice(2, 4);
        assert_eq!(
            middle.parts(),
            [Bytes::from_static(b"c"), Bytes::from_static(b"def")]
        );
        assert_eq!(middle.parts()[0].as_ptr(), payload.parts()[0][2..].as_ptr());
        assert_eq!(payload.slice(8, 0), Payload::new());
        assert_eq!(payload.slice(3, 4).parts().len(), 1);
    }

    #[test]
    fn one_part_becomes_bytes_without_a_copy() {
        let part = Bytes::from(vec![7; 100]);
        let address = part.as_ptr();
        assert_eq!(Payload::from(part).into_bytes().as_ptr(), address);
        assert_eq!(
            of(&[b"ab", b"cd"]).into_bytes(),
            Bytes::from_static(b"abcd")
        );
    }

    #[test]
    fn gathers_into_a_buffer() {
        let mut target = [0; 5];
        of(&[b"ab", b"cde"]).copy_to(&mut target);
        assert_eq!(&target, b"abcde");
    }
}
