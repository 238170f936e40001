//! One request as a client made it.

use crate::Payload;
use lockstep_types::{BLOCK, BlockRange};

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Give `length` bytes from `offset`.
    Read,
    /// Replace them by the payload.
    Write,
    /// Answer when every write answered before is durable. They all are (R2); what remains to be
    /// checked is that this primary may still answer at all (R13).
    Flush,
    /// The range reads as zero and may be freed.
    Trim,
    /// The range reads as zero.
    WriteZeroes,
    /// Which parts of the range hold data.
    BlockStatus,
}

/// What a client asks beside it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags {
    /// Answer only when this write is durable. Every answered write is (R2).
    pub fua: bool,
    /// Zeroes that must stay allocated.
    pub no_hole: bool,
    /// A status answer may hold one run only.
    pub one_run: bool,
}

/// One request. Sessions check it before they hand it up: `offset` and `length` are multiples of
/// 4096, the range lies inside the volume, and a write has a payload of `length` bytes; a flush
/// has neither offset nor length, every other request a length above 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Names the request in `complete`; never reused while it is unanswered.
    pub tag: u64,
    /// What to do.
    pub op: Op,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// Beside it.
    pub flags: Flags,
    /// The bytes of a write, otherwise empty.
    pub payload: Payload,
}

impl Request {
    /// The blocks concerned; `None` for a flush.
    pub fn range(&self) -> Option<BlockRange> {
        (self.length > 0)
            .then(|| BlockRange::new(self.offset / BLOCK as u64, self.length / BLOCK as u32))
    }
}
