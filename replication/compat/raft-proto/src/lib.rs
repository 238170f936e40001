//! raft's messages for prost 0.14, in place of the published crate, which wants protoc and old
//! codecs at build time. Field numbers and meanings are those of `eraftpb`.
#![forbid(unsafe_code)]

mod accessors;
mod confchange;
pub mod eraftpb;

pub use confchange::{ConfChangeI, conf_state_eq, new_conf_change_single};

/// Every message and enum.
pub mod prelude {
    pub use crate::eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2,
        ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
    };
}
