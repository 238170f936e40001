//! The control plane's log: raft-rs driven purely, with a durable format of its own, relays between
//! voters that do not see each other, and the rules of "two sites and a witness". PURE: no clock,
//! disk, network or dice; a shell carries out what [`Consensus`] pushes.
//!
//! | module | decides |
//! |---|---|
//! | `consensus` | one replica: what to say, what to write, what to apply, in which order |
//! | [`log`] | what bytes go where on disk, and what they mean after a crash |
//! | `mirror` | the log in memory, as raft reads it |
//! | [`relay`] | which way a message goes |
//! | [`frame`] | what a message looks like between nodes |
//! | [`voters`] | who should vote |
//! | [`electorate`] | what the leader does about it, and about logs that are over |
#![forbid(unsafe_code)]

mod config;
mod consensus;
mod directory;
pub mod electorate;
pub mod frame;
mod io;
pub mod log;
mod machine;
mod mirror;
pub mod relay;
mod tickets;
pub mod voters;

pub use config::{ATTEMPT_TIMEOUT, Config, MAX_COMMAND, TICK};
pub use consensus::Consensus;
pub use io::{Input, Member, Output, Progress, Reconfiguration, Refusal, Role, Status};
pub use machine::StateMachine;
pub use raft_proto::eraftpb::{ConfState, Snapshot};
