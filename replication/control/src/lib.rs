//! The control state: what raft commits, and how a command changes it. PURE.
//!
//! A [`Proposal`] is a [`Command`] as it stands in the log. [`State::apply`] carries it out, the same
//! on every voter, or refuses it with words and changes nothing; what changed goes to the data plane
//! of every node as [`Change`]s. The rules of who may write (R1, R4, R5, R9, R11, R12, R18, R20 as far
//! as they are decided by a committed entry) are upheld here and nowhere else:
//!
//! | file | decides |
//! |---|---|
//! | `apply/cluster` | the cluster, tokens, voters, versions |
//! | `apply/nodes` | nodes and pools |
//! | `apply/volumes` | create, delete, resize, policy |
//! | `apply/attach` | publications and their fencing (R12) |
//! | `apply/membership` | epochs and the in-sync set (R1, R4, R5, R9, R11) |
//! | `apply/replicas` | copies: made, moved, removed, reborn (R18) |
//! | `apply/forced` | forced recovery |
//! | `candidates` | which copy a forced promotion takes |
//! | `rebuild` | the next generation from the one log that is left |
//!
//! What only a living node can judge (whether a peer answers, whether a joiner is verified) is judged
//! by the proposer; the compare-and-set on (epoch, version) makes sure that it judged this record.
#![forbid(unsafe_code)]

mod apply;
pub mod candidates;
pub mod command;
mod event;
mod explain;
mod ledger;
mod mutate;
pub mod policy;
pub mod rebuild;
pub mod record;
mod rejected;
mod state;
mod view;
mod wire;

pub use apply::{Applied, Change, Outcome};
pub use command::{Bound, Command, Fate, NewReplica, Node, Pool, Proposal, Settings};
pub use event::{Event, Events, Severity};
pub use explain::{Explanation, ReplicaLine, Status, explain};
pub use ledger::{Interval, Ledger};
pub use mutate::Mutation;
pub use record::{Attachment, Expected, Membership, Policy, Replica, Rpo, Volume};
pub use rejected::Rejected;
pub use state::{
    Cluster, MAX_REPLICAS, MAX_TOKENS, Retired, State, Token, Tombstone, VERSION, Voters,
};
pub use view::{PrimaryReport, Progress, Report, View};
pub use wire::{
    DecodeError, MAX_PROPOSAL, MAX_SNAPSHOT, decode_proposal, decode_snapshot, encode_proposal,
    encode_snapshot,
};
