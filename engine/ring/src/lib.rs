//! The data plane's hands: one single-threaded io_uring reactor a thread. Disks, sockets, TLS,
//! the aligned buffer pool and the mailbox through which other threads reach it.
//!
//! # The life of a turn
//! The caller handles [`Event`]s and calls [`Reactor`] methods, which only queue. Then
//! [`Reactor::turn`] puts everything queued since into **one** `io_uring_enter`: all parts for one
//! socket as one `sendmsg`, all disk requests, and the wait for the next completion.
//!
//! # Who touches a payload
//! | hop | passes over the bytes |
//! |---|---|
//! | pool buffer → disk, disk → pool buffer | none (registered buffers, or O_DIRECT from the pages) |
//! | pool buffer → socket, plain | the kernel's copy |
//! | socket, plain → payload of ≥ 16 KiB | the kernel's copy, straight into the aligned buffer |
//! | socket, plain → smaller payload | the kernel's copy and one of ours, from cache |
//! | pool buffer → socket, TLS | one encryption, and two copies inside rustls (into its record, out of it) |
//! | socket, TLS → payload | one decryption in place, one copy inside rustls, one of ours into the aligned buffer |
//!
//! rustls's unbuffered interface copies each record once on the way in and twice on the way out;
//! `tests/tls_cost.rs` measures what that costs a 4 KiB payload against bare AES-GCM.
//!
//! # Where what is
//! | job | module |
//! |---|---|
//! | aligned, registered buffers | [`pool`] |
//! | the loop | [`reactor`] |
//! | opening, claiming, creating disks | [`disk`] |
//! | addresses, transports, listening and dialling | [`socket`] |
//! | frames out of a byte stream | [`stream`] |
//! | other threads → this thread | [`mod@mailbox`] |
//! | the clock | [`timer`] |
//!
//! The only crate below the front-ends that contains `unsafe`; each block states its invariant.

mod accept;
mod buddy;
mod connection;
mod counters;
pub mod disk;
mod disk_io;
pub mod error;
pub mod mailbox;
mod outbound;
pub mod pool;
pub mod reactor;
pub mod socket;
pub mod stream;
mod sys;
pub mod timer;
mod tls;

pub use counters::Counters;
pub use disk::{Disk, DiskId};
pub use error::{CloseReason, DiskError, Exhausted, IoError, IoErrorKind, SendError, SocketError};
pub use mailbox::{MailReceiver, MailSender, Waker, mailbox};
pub use pool::{MAX_BUFFER, Pool, PoolBufMut};
pub use reactor::{Config, DriverId, Event, Reactor, WatchId};
pub use socket::{Address, ConnId, ListenerId, Transport};
pub use stream::{Frame, FrameLengths, Framing, StreamBuffer};
pub use timer::boottime;
