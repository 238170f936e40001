//! What the node says about a volume that a client names.

use crate::wire::can;
use lockstep_types::BLOCK;

/// An export as the node offers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// Bytes; a multiple of 4096.
    pub size: u64,
    /// Refuses writes.
    pub read_only: bool,
    /// Bytes that one request should best have: a power of two, at least 4096.
    pub preferred_block: u32,
    /// Whether several connections may share the export: a write answered on one is visible and
    /// durable for all.
    pub multi_conn: bool,
    /// Whether write-zeroes is never slower than a write, so that FAST_ZERO may be honoured.
    pub fast_zero: bool,
    /// For people, at most 4096 bytes; may be empty.
    pub description: String,
}

impl ExportInfo {
    /// What goes over the wire; `structured` says whether structured replies are agreed.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        let always = can::HAS_FLAGS | can::FLUSH | can::FUA | can::TRIM | can::WRITE_ZEROES;
        let mut flags = always;
        for (set, flag) in [
            (self.read_only, can::READ_ONLY),
            (structured, can::DF),
            (self.multi_conn, can::MULTI_CONN),
            (self.fast_zero, can::FAST_ZERO),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }

    /// Panics if the node offers what NBD cannot say.
    pub(crate) fn check(&self) {
        assert!(
            self.size.is_multiple_of(BLOCK as u64),
            "a volume is whole blocks"
        );
        assert!(
            self.preferred_block.is_power_of_two() && self.preferred_block >= BLOCK as u32,
            "a preferred block is a power of two of at least 4096"
        );
        assert!(
            self.description.len() <= crate::wire::MAX_STRING,
            "a description is short"
        );
    }
}

/// Why a client does not get the export it named.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExportError {
    /// No such volume, or not attached here.
    #[error("no volume '{name}' is attached to this node: `lockstep volume list` shows what is")]
    Unknown {
        /// What the client asked for.
        name: String,
    },
    /// It exists, and this client may not have it now.
    #[error("{reason}")]
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// The node is stopping.
    #[error("the node is shutting down")]
    Shutdown,
}

/// One line of a list of exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The export's name, at most 4096 bytes.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}
