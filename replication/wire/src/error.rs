//! What may be wrong with a frame. A link on which one of these is met is closed and opened anew:
//! after a bad frame nothing says where the next one starts.

use crate::{HEADER, MAX_BODY, MAX_PAYLOAD, Versions};

/// Why bytes are no frame, or no message of a version spoken here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// The first four bytes are not the magic.
    #[error(
        "no frame starts here: magic {found:#010x}; the peer is not a Lockstep data link, or the stream was cut"
    )]
    WrongMagic {
        /// What stands there, little-endian.
        found: u32,
    },
    /// A version that is not spoken here.
    #[error(
        "frame of version {found}, this node speaks {}; upgrade the older of the two nodes",
        Versions::SUPPORTED
    )]
    WrongVersion {
        /// What the header says.
        found: u16,
    },
    /// The header length is not that of its version.
    #[error("frame header of {found} bytes, {HEADER} expected")]
    WrongHeaderLength {
        /// What the header says.
        found: u16,
    },
    /// A kind that the version does not have.
    #[error("unknown message kind {kind:#04x}; the peer speaks a newer version than it agreed to")]
    UnknownKind {
        /// What the header says.
        kind: u8,
    },
    /// Bytes that must be zero are not, or a field that the kind does not use is set.
    #[error("unused bytes of the {place} are not zero")]
    NotZero {
        /// Where.
        place: &'static str,
    },
    /// The body is over [`MAX_BODY`].
    #[error("frame body of {length} bytes, at most {MAX_BODY} are taken")]
    BodyTooLong {
        /// What the header says.
        length: u32,
    },
    /// The payload is over [`MAX_PAYLOAD`] or not whole blocks.
    #[error("frame payload of {length} bytes: whole blocks up to {MAX_PAYLOAD} bytes are taken")]
    WrongPayloadLength {
        /// What the header says, or the body implies.
        length: u32,
    },
    /// Header, body or payload handed in are not as long as the header says.
    #[error("frame {place} of {found} bytes, its header says {stated}")]
    WrongLength {
        /// Which part.
        place: &'static str,
        /// Bytes there.
        found: usize,
        /// Bytes stated.
        stated: usize,
    },
    /// Header and body do not have the checksum that the header says.
    #[error(
        "frame checksum {computed:#010x}, its header says {stated:#010x}: damaged between the two processes"
    )]
    WrongChecksum {
        /// What the header says.
        stated: u32,
        /// What the bytes have.
        computed: u32,
    },
    /// The body ends before its message does.
    #[error("the body ends inside the message")]
    BodyEnds,
    /// The message ends before its body does.
    #[error("{bytes} bytes follow the message in its body")]
    BodyGoesOn {
        /// How many.
        bytes: usize,
    },
    /// The message uses less or more payload than there is.
    #[error("the message does not use its payload exactly")]
    PayloadUnused,
    /// More entries than a list may have.
    #[error("a list of {count} {what}, at most {cap} are taken")]
    ListTooLong {
        /// Of what.
        what: &'static str,
        /// How many the body says.
        count: usize,
        /// How many may be.
        cap: usize,
    },
    /// A value that its field cannot have.
    #[error("{what} cannot be {value}")]
    WrongValue {
        /// Which field.
        what: &'static str,
        /// Its value, or the part of it that is wrong.
        value: u64,
    },
    /// Two nodes without a common version.
    #[error(
        "this node speaks versions {mine}, the peer {theirs}; upgrade the older one first to a release that speaks both"
    )]
    NoCommonVersion {
        /// Ours.
        mine: Versions,
        /// Theirs.
        theirs: Versions,
    },
}

impl WireError {
    /// A stable name for counters and logs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::WrongMagic { .. } => "wire-magic",
            Self::WrongVersion { .. } => "wire-version",
            Self::WrongHeaderLength { .. } => "wire-header-length",
            Self::UnknownKind { .. } => "wire-kind",
            Self::NotZero { .. } => "wire-not-zero",
            Self::BodyTooLong { .. } => "wire-body-too-long",
            Self::WrongPayloadLength { .. } => "wire-payload-length",
            Self::WrongLength { .. } => "wire-length",
            Self::WrongChecksum { .. } => "wire-checksum",
            Self::BodyEnds => "wire-body-ends",
            Self::BodyGoesOn { .. } => "wire-body-goes-on",
            Self::PayloadUnused => "wire-payload-unused",
            Self::ListTooLong { .. } => "wire-list",
            Self::WrongValue { .. } => "wire-value",
            Self::NoCommonVersion { .. } => "wire-no-common-version",
        }
    }
}
