//! What a client is told.

use bytes::Bytes;
use lockstep_types::{BLOCK, RequestError};
use smallvec::SmallVec;

/// The end of one request.
pub type Answer = Result<Done, IoError>;
/// The bytes of a read, in order.
pub type ReadParts = SmallVec<[ReadPart; 2]>;
/// What holds data, in order from the first byte of the request.
pub type Runs = SmallVec<[Run; 4]>;

/// A request that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// A write, flush, trim or zeroes: durable.
    Plain,
    /// A read: together exactly the length asked for.
    Read(ReadParts),
    /// A status: at least one run, together at most the length asked for.
    Status(Runs),
}

/// A piece of a read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadPart {
    /// These bytes.
    Data(Bytes),
    /// So many zero bytes.
    Zeroes(u32),
}

impl ReadPart {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Zeroes(length) => *length as usize,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run of bytes that all hold data, or none of which does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Run {
    /// Bytes, a multiple of 4096, above 0.
    pub length: u32,
    /// Whether it holds data; otherwise it is a hole and reads as zero.
    pub allocated: bool,
}

/// Why a request failed; the numbers are Linux's errno, which NBD and FUSE both speak. None of
/// them says that a failed write is absent: it is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[repr(u32)]
pub enum IoError {
    /// A write to a read-only volume.
    #[error("the volume is read-only")]
    NotPermitted = 1,
    /// The volume cannot serve it: see `lockstep volume explain`.
    #[error("input/output error: `lockstep volume explain` says why")]
    Io = 5,
    /// No buffer is free.
    #[error("out of memory")]
    NoMemory = 12,
    /// Misaligned, misshapen or outside the volume.
    #[error("misaligned, misshapen or outside the volume (blocks are 4096 bytes)")]
    Invalid = 22,
    /// A write past the end, or a replica without room (R7).
    #[error("no space left")]
    NoSpace = 28,
    /// Longer than may be asked for at once.
    #[error("longer than may be asked for at once")]
    TooLong = 75,
    /// Not offered.
    #[error("not supported")]
    Unsupported = 95,
    /// The server is stopping.
    #[error("the server is shutting down")]
    Shutdown = 108,
}

impl IoError {
    /// Linux's error number, above 0.
    pub const fn errno(self) -> u32 {
        self as u32
    }

    /// The error of a number; one we do not know is `Io`.
    pub const fn from_errno(errno: u32) -> Self {
        match errno {
            1 => Self::NotPermitted,
            12 => Self::NoMemory,
            22 => Self::Invalid,
            28 => Self::NoSpace,
            75 => Self::TooLong,
            95 => Self::Unsupported,
            108 => Self::Shutdown,
            _ => Self::Io,
        }
    }
}

impl From<RequestError> for IoError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Invalid => Self::Invalid,
            RequestError::NoSpace => Self::NoSpace,
            // R12: whatever comes through a fenced attachment fails, now and later.
            RequestError::Fenced | RequestError::Corrupt | RequestError::NotOpen => Self::Io,
        }
    }
}

/// Converts the core's pieces of a read (blocks) to bytes, appending to `parts`.
pub(crate) fn append_blocks(parts: &mut ReadParts, data: Vec<(u32, Option<Bytes>)>) {
    for (blocks, bytes) in data {
        let length = blocks as usize * BLOCK;
        match bytes {
            Some(bytes) => {
                assert_eq!(
                    bytes.len(),
                    length,
                    "a piece of a read has its blocks' length"
                );
                parts.push(ReadPart::Data(bytes));
            }
            None => {
                let length = u32::try_from(length).expect("a piece lies inside one extent");
                parts.push(ReadPart::Zeroes(length));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_round_trips() {
        for error in [
            IoError::NotPermitted,
            IoError::Io,
            IoError::NoMemory,
            IoError::Invalid,
            IoError::NoSpace,
            IoError::TooLong,
            IoError::Unsupported,
            IoError::Shutdown,
        ] {
            assert_eq!(IoError::from_errno(error.errno()), error);
        }
        assert_eq!(IoError::from_errno(116), IoError::Io);
    }
}
