//! The NBD front-end: a server and a client, both without I/O of their own.
//!
//! [`Session`] is the server's side of one connection: bytes in, plain data out; the ring thread
//! moves the bytes. [`client::Connection`] is the other side, and [`client::Blocking`] runs it over
//! a Unix or TCP socket for the load generator and the tests.
//!
//! Spoken: fixed newstyle (EXPORT_NAME, GO, INFO, LIST, ABORT, STARTTLS, STRUCTURED_REPLY, LIST and
//! SET_META_CONTEXT with `base:allocation`), READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS,
//! DISC, with FUA, DF, NO_HOLE, FAST_ZERO and REQ_ONE. Numbers are big-endian, as NBD wants them.
//!
//! Calling contract of [`Session`]:
//! - `start` once, then `receive` whatever arrives while [`Session::wants_more`] says so;
//! - every `Out::Send` is written to the socket in order, and `sent` says how much has been;
//! - every `Out::Request` is answered by one `complete`, also after `Out::Close`;
//! - every `Out::WantExport` by one `export`, every `Out::WantList` by one `list`;
//! - after `Out::Close` what was sent before it is still flushed, then the socket is closed.
#![forbid(unsafe_code)]

mod arena;
pub mod client;
mod close;
mod export;
mod inbox;
mod negotiate;
mod session;
mod transmit;
mod wire;

pub use close::CloseReason;
pub use export::{ExportError, ExportInfo, Listed};
pub use lockstep_frontend::{
    Answer, Done, Flags, IoError, Join, Op, Payload, Piece, ReadPart, ReadParts, Request, Run,
    Runs, pieces,
};
pub use session::{Intent, Limits, Out, Parts, Session, Tls};
