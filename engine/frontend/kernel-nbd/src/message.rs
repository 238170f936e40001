//! Messages of generic netlink, as the kernel's NBD client understands them; in the byte order of the host.
//!
//! | offset | bytes | of a message |
//! |---|---|---|
//! | 0 | 4 | its length |
//! | 4 | 2 | the family's number; 2: the end of a request, well or not |
//! | 6 | 2 | flags |
//! | 8 | 4 | number of the request |
//! | 12 | 4 | port, 0 |
//! | 16 | 1 | command |
//! | 17 | 1 | version, 1 |
//! | 18 | 2 | 0 |
//! | 20 | … | attributes: length (2) with these four, kind (2), value, padded to 4 |

/// Bytes of a message's head.
const HEAD: usize = 20;
/// Bytes of an attribute's head.
const ATTRIBUTE: usize = 4;
/// A message that says how a request ended.
const END: u16 = 2;
/// A request that is to be answered, and its end told.
const REQUEST: u16 = 1 | 4;

/// The family that knows all families.
pub const CONTROL: u16 = 0x10;

/// Commands.
pub mod command {
    /// Of the control family: the number of a family.
    pub const GET_FAMILY: u8 = 3;
    /// Makes a device.
    pub const CONNECT: u8 = 1;
    /// Ends one.
    pub const DISCONNECT: u8 = 2;
    /// Gives it a socket in place of a dead one, or another size.
    pub const RECONFIGURE: u8 = 3;
}

/// Kinds of attributes.
pub mod attribute {
    /// Of the control family, `u16`.
    pub const FAMILY_ID: u16 = 1;
    /// Of the control family, text with a NUL.
    pub const FAMILY_NAME: u16 = 2;
    /// `u32`.
    pub const INDEX: u16 = 1;
    /// `u64`.
    pub const SIZE_BYTES: u16 = 2;
    /// `u64`.
    pub const BLOCK_SIZE_BYTES: u16 = 3;
    /// Seconds that a request waits for its answer, `u64`.
    pub const TIMEOUT: u16 = 4;
    /// The server's transmission flags, `u64`.
    pub const SERVER_FLAGS: u16 = 5;
    /// Holds [`SOCKET_ITEM`]s.
    pub const SOCKETS: u16 = 7;
    /// Seconds that requests wait for another socket, `u64`.
    pub const DEAD_CONN_TIMEOUT: u16 = 8;
    /// What is behind the device, text with a NUL.
    pub const BACKEND_IDENTIFIER: u16 = 10;
    /// Inside [`SOCKETS`], holds a [`SOCKET_FD`].
    pub const SOCKET_ITEM: u16 = 1;
    /// Inside [`SOCKET_ITEM`], `u32`.
    pub const SOCKET_FD: u16 = 1;
}

/// A request being written.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// To a family, by its number.
    pub fn new(family: u16, command: u8, number: u32) -> Self {
        let mut bytes = vec![0; HEAD];
        bytes[4..6].copy_from_slice(&family.to_ne_bytes());
        bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
        bytes[8..12].copy_from_slice(&number.to_ne_bytes());
        bytes[16] = command;
        bytes[17] = 1;
        Self { bytes }
    }

    /// With a number of four bytes.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// With a number of eight bytes.
    #[must_use]
    pub fn u64(self, kind: u16, value: u64) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// With a text.
    #[must_use]
    pub fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value)
    }

    /// With a socket, by its descriptor in this process.
    #[must_use]
    pub fn socket(self, descriptor: u32) -> Self {
        let mut item = Vec::new();
        put(&mut item, attribute::SOCKET_FD, &descriptor.to_ne_bytes());
        let mut items = Vec::new();
        put(&mut items, attribute::SOCKET_ITEM, &item);
        self.attribute(attribute::SOCKETS, &items)
    }

    /// Its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.bytes, kind, value);
        self
    }
}

fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE + value.len()).expect("attributes are short");
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// What the kernel says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// A message with attributes.
    Attributes(&'a [u8]),
    /// The request has ended: 0, or an errno.
    End(i32),
}

/// The answers to the request `number` in a datagram; what is not understood is left out.
pub fn answers(mut datagram: &[u8], number: u32) -> Vec<Answer<'_>> {
    let mut found = Vec::new();
    while let Some(head) = datagram.first_chunk::<16>() {
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = word(0) as usize;
        let Some(message) = datagram.get(..length).filter(|message| message.len() >= 16) else {
            break;
        };
        if word(8) == number {
            if u16::from_ne_bytes([head[4], head[5]]) == END {
                if let Some(code) = message[16..].first_chunk() {
                    found.push(Answer::End(-i32::from_ne_bytes(*code)));
                }
            } else if let Some(attributes) = message.get(HEAD..) {
                found.push(Answer::Attributes(attributes));
            }
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

/// The value of the first attribute of this kind.
pub fn value(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(head) = attributes.first_chunk::<ATTRIBUTE>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        // The two highest bits say how the value is written.
        let found = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = attributes.get(ATTRIBUTE..length)?;
        if found == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a little-endian host.
    #[test]
    #[cfg(target_endian = "little")]
    fn golden_bytes_of_a_connect() {
        let message = Message::new(0x1c, command::CONNECT, 7)
            .u64(attribute::SIZE_BYTES, 0x0102_0304)
            .text(attribute::BACKEND_IDENTIFIER, "ab")
            .socket(5)
            .finish();
        #[rustfmt::skip]
        let expected = [
            56, 0, 0, 0, 0x1c, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0,
            12, 0, 2, 0, 4, 3, 2, 1, 0, 0, 0, 0,
            7, 0, 10, 0, b'a', b'b', 0, 0,
            16, 0, 7, 0, 12, 0, 1, 0, 8, 0, 1, 0, 5, 0, 0, 0,
        ];
        assert_eq!(message, expected);
    }

    #[test]
    fn answers_are_found_among_others() {
        let mut datagram = Message::new(0x1c, command::CONNECT, 7)
            .u32(attribute::INDEX, 3)
            .finish();
        datagram.extend(
            Message::new(0x1c, command::CONNECT, 8)
                .u32(attribute::INDEX, 4)
                .finish(),
        );
        let mut end = vec![0; 36];
        end[..4].copy_from_slice(&36_u32.to_ne_bytes());
        end[4..6].copy_from_slice(&END.to_ne_bytes());
        end[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        end[16..20].copy_from_slice(&(-16_i32).to_ne_bytes());
        datagram.extend(end);
        let found = answers(&datagram, 7);
        assert_eq!(found.len(), 2);
        let Answer::Attributes(attributes) = found[0] else {
            panic!("{found:?}");
        };
        assert_eq!(
            value(attributes, attribute::INDEX),
            Some(&3_u32.to_ne_bytes()[..])
        );
        assert_eq!(value(attributes, attribute::SIZE_BYTES), None);
        assert_eq!(found[1], Answer::End(16));
    }

    #[test]
    fn cut_off_and_contradictory_lengths_end_the_reading() {
        let whole = Message::new(0x1c, command::CONNECT, 7)
            .u32(attribute::INDEX, 3)
            .finish();
        for length in 0..whole.len() {
            assert!(answers(&whole[..length], 7).is_empty(), "{length} bytes");
        }
        for length in [0_u16, 3, 9, 200] {
            let mut attributes = length.to_ne_bytes().to_vec();
            attributes.extend([1, 0, 9, 9]);
            assert_eq!(value(&attributes, 1), None, "an attribute of {length}");
        }
        let mut short = whole.clone();
        short[..4].copy_from_slice(&2_u32.to_ne_bytes());
        assert!(answers(&short, 7).is_empty());
    }
}
