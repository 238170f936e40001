//! The client's side: [`Connection`] without I/O, [`Blocking`] over a Unix or TCP socket.

mod blocking;
mod connection;
mod options;

pub use blocking::Blocking;
pub use connection::{Connection, Content, Event, Reply};
pub use options::{Export, Options};

use lockstep_frontend::IoError;

/// Why a connection is of no more use; the outcome of every unanswered write is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] std::io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(std::time::Duration),
    /// The server does not give the export.
    #[error("the server refuses export '{export}': {message}")]
    Refused {
        /// What was asked for.
        export: String,
        /// What the server said.
        message: String,
    },
    /// The server broke the protocol.
    #[error("the server broke the NBD protocol: {0}")]
    Protocol(String),
    /// The request was answered with an error; the connection is still good.
    #[error("the server answered: {0}")]
    Failed(#[from] IoError),
}

fn broken<T>(what: impl Into<String>) -> Result<T, ClientError> {
    Err(ClientError::Protocol(what.into()))
}
