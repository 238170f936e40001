//! What a front-end asks of a volume, and what it is told.

use crate::{BlockRange, Checksums};
use bytes::Bytes;

/// One request; reads and writes lie inside one extent (front-ends split).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// The range.
    pub range: BlockRange,
    /// What to do.
    pub op: RequestOp,
}

/// What a request does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RequestOp {
    /// Give the range's bytes.
    Read,
    /// Replace the range's bytes: durable on all of `required` when answered (R2), so that flush
    /// and FUA have nothing left to do.
    Write {
        /// One a block, computed where the payload entered.
        checksums: Checksums,
        /// `range.bytes()` long.
        payload: Bytes,
    },
    /// The range reads as zero and may be freed.
    Discard,
    /// The range reads as zero.
    WriteZeroes,
}

/// The answer to a good request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Response {
    /// Done and durable.
    Done,
    /// The bytes read, in order; pieces are whole blocks, `None` stands for `blocks` of zeroes.
    Data(Vec<(u32, Option<Bytes>)>),
}

/// Why a request failed. None of these says that a write is absent: a failed write is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum RequestError {
    /// Outside the volume or misshapen.
    #[error("the request lies outside the volume or is misshapen")]
    Invalid,
    /// A required replica has no room; nothing was sequenced (R7).
    #[error("a required replica has no free space; free some or add a pool")]
    NoSpace,
    /// The attachment this request came through has been fenced (R12).
    #[error("the attachment was fenced: the volume was published elsewhere since")]
    Fenced,
    /// No certified replica could give intact bytes.
    #[error("no certified replica could give intact data for the range")]
    Corrupt,
    /// The volume is not open on this node.
    #[error("the volume is not open on this node")]
    NotOpen,
}
