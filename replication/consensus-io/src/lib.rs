//! The shell around [`lockstep_consensus`]: its disk, its clock, and a handle for the rest of the
//! node. The network is the node's; see [`RaftTransport`].
//!
//! | module | does |
//! |---|---|
//! | [`folder`] | one log's folder: locked, read, written, flushed |
//! | `writer` | the thread that writes it |
//! | `driver` | the task that steps consensus |
//! | [`handle`] | what the rest of the node calls |
//!
//! To start a voter: [`LogFolder::open`], [`LogFolder::recover`] (and, without a log,
//! [`LogFolder::create`] with a raft id that was never used), then [`start`].
#![forbid(unsafe_code)]

mod driver;
pub mod folder;
pub mod handle;
mod logger;
mod writer;

pub use driver::{RaftTransport, start};
pub use folder::{FolderError, LogFolder};
pub use handle::{Applied, ConsensusError, ConsensusHandle};
