//! How values become bytes: packed, little-endian, and checked one by one on the way back.

use crate::{Payload, WireError};
use bytes::Bytes;
use lockstep_types::{BLOCK, EXTENT_BLOCKS};

/// Blocks in the payload of one frame at most: one extent.
pub const MAX_PAYLOAD_BLOCKS: usize = EXTENT_BLOCKS as usize;
/// Entries in the tail of a sealed replica at most; bounds the window of a volume.
pub const MAX_TAIL: usize = 3072;
/// Extents in one answer at most; `next` leads to the rest.
pub const MAX_EXTENTS: usize = 65_536;
/// Volumes in one beacon at most; a node with more sends several.
pub const MAX_BEACON_VOLUMES: usize = 8192;

/// A value in a body.
pub(crate) trait Field: Sized {
    /// Bytes it takes at least; bounds what a list's count may ask to allocate.
    const LEAST: usize;
    fn put(&self, writer: &mut Writer<'_>);
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// A value that always takes [`Field::LEAST`] bytes.
pub(crate) trait Fixed: Field {}

/// An entry of a list: a u32 count, then the entries.
pub(crate) trait Listed: Field {
    /// How many a list may have.
    const CAP: usize;
    /// The plural, for errors.
    const WHAT: &'static str;
}

pub(crate) struct Writer<'a> {
    body: &'a mut Vec<u8>,
    payload: Payload,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(body: &'a mut Vec<u8>) -> Self {
        Self {
            body,
            payload: Payload::new(),
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    pub(crate) fn zeroes(&mut self, count: usize) {
        self.body.resize(self.body.len() + count, 0);
    }

    /// Appends whole blocks to the frame's payload.
    pub(crate) fn payload(&mut self, payload: &Bytes) {
        if !payload.is_empty() {
            self.payload.push(payload.clone());
        }
    }

    pub(crate) fn finish(self) -> Payload {
        self.payload
    }
}

pub(crate) struct Reader<'a> {
    body: &'a [u8],
    payload: Bytes,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8], payload: Bytes) -> Self {
        Self { body, payload }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self
            .body
            .split_at_checked(count)
            .ok_or(WireError::BodyEnds)?;
        self.body = rest;
        Ok(bytes)
    }

    pub(crate) fn zeroes(&mut self, count: usize) -> Result<(), WireError> {
        match self.bytes(count)?.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(WireError::NotZero { place: "body" }),
        }
    }

    /// The next blocks of the frame's payload, without a copy.
    pub(crate) fn payload(&mut self, blocks: usize) -> Result<Bytes, WireError> {
        let length = blocks * BLOCK;
        match length <= self.payload.len() {
            true => Ok(self.payload.split_to(length)),
            false => Err(WireError::PayloadUnused),
        }
    }

    /// A count of entries that `cap` and the rest of the body allow.
    pub(crate) fn count(
        &self,
        count: usize,
        cap: usize,
        least: usize,
        what: &'static str,
    ) -> Result<usize, WireError> {
        if count > cap {
            return Err(WireError::ListTooLong { what, count, cap });
        }
        match count * least <= self.body.len() {
            true => Ok(count),
            false => Err(WireError::BodyEnds),
        }
    }

    pub(crate) fn finish(self) -> Result<(), WireError> {
        match (self.body.len(), self.payload.is_empty()) {
            (0, true) => Ok(()),
            (0, false) => Err(WireError::PayloadUnused),
            (bytes, _) => Err(WireError::BodyGoesOn { bytes }),
        }
    }
}

macro_rules! integers {
    ($($name:ident),*) => {$(
        impl Field for $name {
            const LEAST: usize = size_of::<$name>();

            fn put(&self, writer: &mut Writer<'_>) {
                writer.bytes(&self.to_le_bytes());
            }

            fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                let bytes = reader.bytes(Self::LEAST)?;
                Ok(Self::from_le_bytes(bytes.try_into().expect("as many bytes as asked for")))
            }
        }

        impl Fixed for $name {}
    )*};
}

integers!(u8, u16, u32, u64, u128);

impl Field for bool {
    const LEAST: usize = 1;

    fn put(&self, writer: &mut Writer<'_>) {
        u8::from(*self).put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::take(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(WireError::WrongValue {
                what: "a truth value",
                value: other.into(),
            }),
        }
    }
}

impl Fixed for bool {}

/// A flag, then the value or as many zeroes.
impl<T: Fixed> Field for Option<T> {
    const LEAST: usize = 1 + T::LEAST;

    fn put(&self, writer: &mut Writer<'_>) {
        self.is_some().put(writer);
        match self {
            Some(value) => value.put(writer),
            None => writer.zeroes(T::LEAST),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match bool::take(reader)? {
            true => T::take(reader).map(Some),
            false => reader.zeroes(T::LEAST).map(|()| None),
        }
    }
}

impl<T: Fixed> Fixed for Option<T> {}

impl<T: Listed> Field for Vec<T> {
    const LEAST: usize = 4;

    fn put(&self, writer: &mut Writer<'_>) {
        assert!(
            self.len() <= T::CAP,
            "{} {}, at most {} in a message",
            self.len(),
            T::WHAT,
            T::CAP
        );
        (self.len() as u32).put(writer);
        self.iter().for_each(|entry| entry.put(writer));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u32::take(reader)? as usize;
        let count = reader.count(count, T::CAP, T::LEAST, T::WHAT)?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(T::take(reader)?);
        }
        Ok(list)
    }
}
