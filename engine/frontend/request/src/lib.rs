//! What every front-end (NBD, FUSE, later ublk) hands to the node and gets back: one shape of
//! request and answer, so that the node runs any of them. PURE: plain data, no clock, no I/O.
//!
//! The life of a client's request, by name:
//!
//! 1. a session (`lockstep_nbd::Session`, `lockstep_fuse::Session`) decodes a [`Request`];
//! 2. [`pieces`] cuts its range into what the core takes: reads and writes inside one extent,
//!    discards and zeroes of bounded length; each becomes a `lockstep_types::Request`;
//! 3. [`Join`] collects the core's responses, and with the last one gives the answer;
//! 4. the session's `complete(tag, answer)` encodes the reply.
#![forbid(unsafe_code)]

mod answer;
mod inflight;
mod payload;
mod request;
mod split;

pub use answer::{Answer, Done, IoError, ReadPart, ReadParts, Run, Runs};
pub use inflight::InFlight;
pub use payload::Payload;
pub use request::{Flags, Op, Request};
pub use split::{Join, Piece, pieces};
