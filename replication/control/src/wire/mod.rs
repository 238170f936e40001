//! Commands and snapshots as bytes: protobuf (prost, structs by hand), so that a newer version may
//! add fields. Both are an envelope:
//!
//! | field | proposal | snapshot |
//! |---|---|---|
//! | 1 | format, [`FORMAT`] | format, [`FORMAT`] |
//! | 2 | cluster version a reader must know | cluster version a reader must know |
//! | 3 | proposer's clock, ms since 1970 | last entry applied |
//! | 10… | the command, one field number a kind | the tables of the state |
//!
//! Ids are 16 bytes, little-endian. Numbers of enums start at 1: 0 is what a missing field reads as,
//! and is refused. Field numbers are never used again for anything else.
//!
//! A committed command must mean the same on every voter, so a reader that does not know all of it
//! refuses it whole, before it is proposed or applied: the second field says what must be known.

mod command;
mod history;
mod parts;
mod snapshot;

use crate::command::Proposal;
use crate::state::{State, VERSION};
use prost::Message;

/// The format of both envelopes.
const FORMAT: u32 = 1;
/// Bytes of the longest proposal.
pub const MAX_PROPOSAL: usize = 256 * 1024;
/// Bytes of the longest snapshot.
pub const MAX_SNAPSHOT: usize = 256 * 1024 * 1024;

/// Bytes that are no proposal or snapshot of a version known here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than any.
    #[error("{length} bytes are more than the {max} that are read")]
    TooLong {
        /// What came.
        length: usize,
        /// What is read.
        max: usize,
    },
    /// Not protobuf, or fields of other types.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Another envelope.
    #[error("format {0} is not known; {FORMAT} is")]
    Format(u32),
    /// Of a newer cluster version.
    #[error(
        "cluster version {needs} is needed to read it, this build knows {VERSION}: upgrade this node"
    )]
    TooNew {
        /// The version needed.
        needs: u32,
    },
    /// A kind of command that this build does not know.
    #[error("a command of a kind that this build does not know: upgrade this node")]
    UnknownCommand,
    /// A field with a value that means nothing.
    #[error("the field '{0}' has no meaning")]
    Field(&'static str),
}

/// A proposal as it goes into the log.
pub fn encode_proposal(proposal: &Proposal) -> Vec<u8> {
    command::Envelope::from(proposal).encode_to_vec()
}

/// Reads a proposal; never panics, whatever the bytes.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_proposal(bytes: &[u8]) -> Result<Proposal, DecodeError> {
    let envelope: command::Envelope = decode(bytes, MAX_PROPOSAL)?;
    envelope.try_into()
}

/// The whole state; the same state gives the same bytes.
pub fn encode_snapshot(state: &State) -> Vec<u8> {
    snapshot::Snapshot::from(state).encode_to_vec()
}

/// Reads a state; never panics, whatever the bytes.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_snapshot(bytes: &[u8]) -> Result<State, DecodeError> {
    let snapshot: snapshot::Snapshot = decode(bytes, MAX_SNAPSHOT)?;
    snapshot.try_into()
}

fn decode<M: Message + Default>(bytes: &[u8], max: usize) -> Result<M, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong {
            length: bytes.len(),
            max,
        });
    }
    M::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// What both envelopes say first.
fn check_envelope(format: u32, needs: u32) -> Result<(), DecodeError> {
    if format != FORMAT {
        return Err(DecodeError::Format(format));
    }
    if needs > VERSION {
        Err(DecodeError::TooNew { needs })
    } else {
        Ok(())
    }
}
