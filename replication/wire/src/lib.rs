//! What two data-plane threads say to each other. PURE: messages as plain data, and their bytes.
//!
//! | job | module |
//! |---|---|
//! | the messages | [`message`] |
//! | the frame: header, checksum, lengths | [`frame`] |
//! | the table of kinds: numbers and bodies | [`kinds`] |
//! | agreeing on a version | [`hello`] |
//! | what may be wrong | [`error`] |
//!
//! Everything is little-endian and packed without padding. A frame is canonical: what decodes
//! encodes to the same bytes again, so two frames are equal when their messages are.
#![forbid(unsafe_code)]

mod codec;
pub mod error;
mod fields;
pub mod frame;
pub mod hello;
pub mod kinds;
#[allow(missing_docs, reason = "the text of each variant explains its fields")]
pub mod message;

pub use codec::{MAX_BEACON_VOLUMES, MAX_EXTENTS, MAX_PAYLOAD_BLOCKS, MAX_TAIL};
pub use error::WireError;
pub use frame::{
    Encoded, FrameLengths, HEADER, MAX_BODY, MAX_PAYLOAD, Payload, decode, encode, encode_into,
    peek,
};
pub use hello::{HELLO_VERSION, VERSION, Versions, negotiate};
pub use message::*;
