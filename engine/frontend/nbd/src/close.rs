//! Why a connection ended, for the log and for people.

use crate::export::ExportError;

/// Why a connection ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// The client said goodbye, and all its requests were answered.
    #[error("the client disconnected")]
    ClientDisconnected,
    /// The client gave up during the handshake.
    #[error("the client aborted the handshake")]
    ClientAborted,
    /// This node is stopping.
    #[error("the node is shutting down")]
    Shutdown,
    /// The first bytes are no NBD client's flags.
    #[error("not an NBD client: its first four bytes are {flags:#010x}, which are no client flags")]
    NotNbd {
        /// What stood there.
        flags: u32,
    },
    /// An option from a client that has not said it speaks fixed newstyle.
    #[error("option {option} from a client that does not speak fixed newstyle")]
    NotFixedNewstyle {
        /// Its number.
        option: u32,
    },
    /// Garbage where an option begins.
    #[error("garbage in the handshake: {magic:#018x} instead of the magic of an option")]
    BadOptionMagic {
        /// What stood there.
        magic: u64,
    },
    /// An option far longer than any.
    #[error("option {option} with {length} bytes of data, which is more than any option has")]
    OptionTooLong {
        /// Its number.
        option: u32,
        /// Bytes announced.
        length: u32,
    },
    /// EXPORT_NAME with something that is no name.
    #[error("an export name that is not UTF-8, or longer than 4096 bytes")]
    MalformedName,
    /// EXPORT_NAME has no other way to say no.
    #[error("export refused: {0}")]
    ExportRefused(ExportError),
    /// EXPORT_NAME without TLS where TLS is required.
    #[error("the client asked for an export before STARTTLS, which this server requires")]
    TlsRequired,
    /// Bytes in the clear after STARTTLS; they may be another's.
    #[error("{count} bytes arrived in the clear after STARTTLS")]
    BytesBeforeTls {
        /// How many.
        count: usize,
    },
    /// Garbage where a request begins.
    #[error("garbage between requests: {magic:#010x} instead of the magic of a request")]
    BadRequestMagic {
        /// What stood there.
        magic: u32,
    },
    /// A write far longer than announced as the most.
    #[error("a write of {length} bytes; this server takes at most {max} at once")]
    WriteTooLong {
        /// Bytes of the write.
        length: u32,
        /// Bytes allowed.
        max: u32,
    },
}

impl CloseReason {
    /// Whether nothing went wrong.
    pub fn is_clean(&self) -> bool {
        matches!(
            self,
            Self::ClientDisconnected | Self::ClientAborted | Self::Shutdown
        )
    }
}
